"""A folder of answers that grows by whole parts: what is there is finished, and what is not there is to be done.

    _bbg.json             the network, the source and the options that the answers belong to
    _network.bbg          the network itself, for workers on other machines
    part-000000.parquet   the answers for piece 0 (bbg.scoring.pieces): a row an image

Names that begin with "_" are passed over by those who read a folder of Parquet files. A part appears in one step. So
neither a kill nor two workers at one piece leave a row half or twice.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from bbg.drafts import SUFFIX
from bbg.errors import BbgError
from bbg.files import whole_file, write_bytes, write_json
from bbg.heads import Box, Prediction
from bbg.log import LOGGER
from bbg.reading import regular_file
from bbg.scoring.pieces import PYARROW_ERRORS, Listing, Piece, parquet

FACTS, NETWORK = "_bbg.json", "_network.bbg"
KEY = b"bbg"  # of the counts in the end of a part
FORMAT = 1
FEWEST, MOST, SHARE = 32, 256, 64  # images of a piece, and into how many pieces a source is cut at least
MOST_PIECES = 10_000

Answer = list[Prediction] | list[Box] | BbgError


class Counts(NamedTuple):
    """Images, and those among them that could not be read."""

    images: int
    errors: int


def piece_size(images: int) -> int:
    """How many images a piece has: enough pieces for many workers, but no million of files."""
    return max(min(MOST, max(FEWEST, -(-images // SHARE))), -(-images // MOST_PIECES))


def make(out: Path) -> None:
    """Make the folder where it is missing; BbgError where that cannot be."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BbgError(f"cannot make folder {str(out)!r}: {error.strerror}; give a writable --out folder") from error


def begin(out: Path, network: bytes, listing: Listing, sources: Iterable[str], options: Mapping[str, Any]) -> int:
    """Make `out`, a folder that is there, that of these answers, or see that it is: the size of its pieces.

    Raises BbgError where it holds the answers of another network, for other images or by other options, or what is no
    answer.
    """
    facts: dict[str, Any] = {
        "format": FORMAT,
        "network": hashlib.sha256(network).hexdigest(),
        "sources": list(sources),
        "kind": listing.kind,
        "images": len(listing),
        "listing": listing.digest,
        **options,
        "piece": piece_size(len(listing)),
    }
    there = _facts(out)
    if there is None:
        held = [name for name in os.listdir(out) if name != NETWORK and not name.endswith(SUFFIX)]
        if held:
            raise BbgError(f"{str(out)!r} holds {sorted(held)[0]!r}, and no answers; give --out a new folder")
        write_bytes(out / NETWORK, network)
        write_json(facts, out / FACTS)
        return int(facts["piece"])
    _compare(out, there, facts)
    return int(there["piece"])


def _facts(out: Path) -> dict[str, Any] | None:
    """What the folder says of itself; None where it says nothing."""
    try:
        with regular_file(out / FACTS) as file:
            found = json.loads(file.read())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise BbgError(f"{str(out / FACTS)!r} cannot be read ({error.strerror}); give another --out") from error
    except ValueError:
        found = None
    if not isinstance(found, dict) or found.get("format") != FORMAT or not isinstance(found.get("piece"), int):
        raise BbgError(f"{str(out / FACTS)!r} is damaged, or of another version of bbg; give --out a new folder")
    return found


def _compare(out: Path, there: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
    """BbgError where a folder belongs to something else."""
    if there.get("network") != facts["network"]:
        raise BbgError(f"{str(out)!r} holds answers of another network; give --out a new folder, or that network")
    if any(there.get(key) != facts[key] for key in ("kind", "images", "listing")):
        then = f"{there.get('images')} {there.get('kind')} of {', '.join(map(str, there.get('sources', [])))}"
        now = f"{facts['images']} {facts['kind']}"
        raise BbgError(
            f"{str(out)!r} holds answers for another source: {then} when it was begun, {now} now, or other names or "
            "sizes; give --out a new folder, or the source as it was"
        )
    for key in facts.keys() - {"sources", "piece"}:
        if there.get(key) != facts[key]:
            raise BbgError(
                f"{str(out)!r} was begun with {key} {there.get(key)!r}, and {key} is {facts[key]!r} now; give --out a "
                "new folder, or the same options"
            )


def part(out: Path, piece: Piece) -> Path:
    """The file that the answers for `piece` are in, once they are there."""
    return out / f"part-{piece.number:06}.parquet"


def finished(out: Path, piece: Piece) -> Counts | None:
    """What a part has; None where there is none, or none that is sound, which is then made anew."""
    path, pq = part(out, piece), parquet()
    try:
        end = pq.read_metadata(path)
        counts = Counts(**json.loads(end.metadata[KEY]))
    except FileNotFoundError:
        return None
    except (*PYARROW_ERRORS, TypeError, KeyError):
        counts, end = None, None
    if counts is None or counts.images != piece.images or end.num_rows != piece.images:
        LOGGER.warning("%s is damaged and is made anew", path)
        return None
    return counts


def write(out: Path, piece: Piece, answers: Iterable[tuple[str, Answer]], boxes: bool) -> Counts:
    """Write the answers for a piece, in one step; BbgError where they are not as many as its images.

    A row has `path`, and `error`, or `labels` and `probabilities` (`boxes`: `boxes`, `labels` and `scores`), which are
    lists, best first.
    """
    pa, pq = import_module("pyarrow"), parquet()
    columns: dict[str, list[Any]] = {name: [] for name in _schema(boxes)}
    for name, answer in answers:
        bad = isinstance(answer, BbgError)
        found: list[Any] = [] if isinstance(answer, BbgError) else answer
        columns["path"].append(name.encode(errors="backslashreplace").decode())
        columns["error"].append(str(answer) if bad else None)
        columns["labels"].append(None if bad else [one.label for one in found])
        columns["scores" if boxes else "probabilities"].append(None if bad else [one.score for one in found])
        if boxes:
            columns["boxes"].append(None if bad else [list(one.box) for one in found])
    counts = Counts(len(columns["path"]), sum(error is not None for error in columns["error"]))
    if counts.images != piece.images:
        raise BbgError(f"{piece.files[0]}: has changed since the run began; start anew with a new --out")
    fields = [
        (name, pa.type_for_alias(kind) if isinstance(kind, str) else kind) for name, kind in _schema(boxes).items()
    ]
    schema = pa.schema(fields, {KEY: json.dumps(counts._asdict()).encode()})
    try:
        with whole_file(part(out, piece)) as file:
            pq.write_table(pa.table(columns, schema=schema), file)
    except OSError as error:
        raise BbgError(f"{part(out, piece)}: cannot be written ({error.strerror or error}); run again") from error
    return counts


def _schema(boxes: bool) -> dict[str, Any]:
    """The columns of a part and their types."""
    pa = import_module("pyarrow")
    numbers, texts = pa.list_(pa.float64()), pa.list_(pa.string())
    first = {"path": pa.string(), "error": pa.string()}
    if boxes:
        return {**first, "boxes": pa.list_(numbers), "labels": texts, "scores": numbers}
    return {**first, "labels": texts, "probabilities": numbers}
