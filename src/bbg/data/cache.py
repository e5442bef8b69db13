"""Images decoded once: their pixels in one file, with what they were made of.

Two files stand for a cache, `NAME.npy`, the uint8 numbers of all images one after another, and `NAME.npz`, which says
where each image lies, its shape, its checksum, and what all of it was decoded from. A cache whose sources have changed
since, or that is damaged as a whole, is made anew; of a damaged image the file is decoded again.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from bbg.cpu import cores
from bbg.errors import BbgError
from bbg.files import whole_file
from bbg.log import track
from bbg.threads import pool

VERSION = 1
HEADER = 128  # bytes of the head of a one-dimensional .npy file, whatever its length

Decode = Callable[[Path], np.ndarray]


@dataclass(frozen=True)
class Cache:
    """Decoded images in `file`: image i begins at `offsets[i]` and has the shape `shapes[i]` and checksum `sums[i]`.

    `kept`: the numbers of the sources that are images. `refused`: those of the others, with why.
    """

    file: Path
    offsets: np.ndarray
    shapes: np.ndarray
    sums: np.ndarray
    kept: np.ndarray
    refused: dict[int, str]

    def part(self, indices: np.ndarray) -> Cache:
        """The images that have these numbers, in that order."""
        lists = {name: getattr(self, name)[indices] for name in ("offsets", "shapes", "sums", "kept")}
        return replace(self, **lists)

    def read(self, index: int) -> np.ndarray | None:
        """Image `index`, uint8 `[H, W, C]`; None where it is damaged."""
        shape = tuple(self.shapes[index].tolist())
        try:
            with self.file.open("rb") as file:
                file.seek(HEADER + int(self.offsets[index]))
                data = file.read(int(np.prod(shape)))
        except OSError:
            return None
        if len(data) != np.prod(shape) or zlib.crc32(data) != self.sums[index]:
            return None
        return np.frombuffer(bytearray(data), np.uint8).reshape(shape)


def cached(folder: Path, name: str, how: Any, paths: Sequence[Path], decode: Decode) -> Cache:
    """The images of `paths` as `decode` gives them: from the cache `name` in `folder`, or decoded now and kept there.

    `how`: what `decode` does, as JSON takes it. Raises BbgError where the folder cannot be written.
    """
    whole = hashlib.sha256(json.dumps([how, *map(_seen, paths)]).encode()).hexdigest()
    file = folder / f"{name}.npy"
    found = _load(file, whole, len(paths))
    if found is not None:
        return found
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file.with_suffix(".npz").unlink(missing_ok=True)  # killed between the two files, there is no cache
        _write(file, whole, paths, decode)
    except OSError as e:
        raise BbgError(f"cannot keep decoded images in {str(folder)!r}: {e.strerror}; give another --cache DIR") from e
    made = _load(file, whole, len(paths))
    if made is None:
        raise BbgError(f"the decoded images in {str(folder)!r} were changed while they were written; try again")
    return made


def decoded(paths: Iterable[Path], decode: Decode) -> Iterator[np.ndarray | BbgError]:
    """What `decode` makes of each path, in their order, or its error: by several threads, a few images ahead."""

    def one(path: Path) -> np.ndarray | BbgError:
        try:
            return decode(path)
        except BbgError as error:
            return error

    with pool(cores()) as workers:
        waiting: deque[Future[np.ndarray | BbgError]] = deque()
        for path in track(paths, "reading images"):
            waiting.append(workers.submit(one, path))
            if len(waiting) > 4 * cores():
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _seen(path: Path) -> list[Any]:
    """What changes when a file does; the time of its last change of any kind cannot be set by a program."""
    try:
        seen = path.stat()
    except OSError:
        return [str(path)]
    return [str(path), seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns]


def _write(file: Path, whole: str, paths: Sequence[Path], decode: Decode) -> None:
    sums, shapes, kept, refused = [], [], [], {}
    with whole_file(file) as pixels:
        pixels.write(bytes(HEADER))
        for number, image in enumerate(decoded(paths, decode)):
            if isinstance(image, BbgError):
                refused[number] = str(image)
                continue
            data = np.ascontiguousarray(image).tobytes()
            pixels.write(data)
            sums.append(zlib.crc32(data))
            shapes.append(image.shape)
            kept.append(number)
        total = pixels.tell() - HEADER
        pixels.seek(0)
        np.lib.format.write_array_header_1_0(pixels, {"descr": "|u1", "fortran_order": False, "shape": (total,)})
        if pixels.tell() != HEADER:
            raise BbgError(f"the head of an .npy file is {pixels.tell()} bytes long here, not {HEADER}; report this")
    sizes = np.array(shapes, np.int64).reshape(-1, 3)
    offsets = np.cumsum([0, *sizes.prod(1)])[:-1]
    arrays: dict[str, Any] = {
        "offsets": offsets,
        "shapes": sizes,
        "sums": np.array(sums, np.uint32),
        "kept": np.array(kept, np.int64),
    }
    facts = json.dumps({"version": VERSION, "whole": whole, "bytes": total, "refused": refused})
    with whole_file(file.with_suffix(".npz")) as index:
        np.savez(index, facts=np.frombuffer(facts.encode(), np.uint8), **arrays)


def _load(file: Path, whole: str, sources: int) -> Cache | None:
    try:
        with np.load(file.with_suffix(".npz"), allow_pickle=False) as stored:
            facts = json.loads(stored["facts"].tobytes())
            offsets, shapes, sums, kept = (stored[name] for name in ("offsets", "shapes", "sums", "kept"))
        if facts["version"] != VERSION or facts["whole"] != whole or file.stat().st_size != HEADER + facts["bytes"]:
            return None
        refused = {int(number): str(reason) for number, reason in facts["refused"].items()}
        if len(kept) + len(refused) != sources or not len(offsets) == len(shapes) == len(sums) == len(kept):
            return None
        return Cache(file, offsets, shapes, sums, kept, refused)
    except Exception:  # whatever the damaged bytes happen to mean
        return None
