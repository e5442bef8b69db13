"""Tar shards of webdataset: images read by their offsets, so that they have an order, and any of them is next.

    train-000000.tar  train-000001.tar ...  val-000000.tar ...  classes.txt

A sample is the members of one name up to the first dot of the file: `a/b.jpg` and `a/b.cls`, which holds the number of
the class. The images are in the order of these names, whatever shards they lie in: so `bbg shard` may shuffle them
for readers that go along the shards, and the set is the same as that of the folders.

Where the images lie is found out by one reading of all headers, and kept in `train.index.npz` beside the shards, if
that can be written. It is made anew when a shard has another size or time.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

import numpy as np

from bbg.data.damage import Skipped
from bbg.data.listing import Names
from bbg.data.tar import FILE, FOLDER, LINK, Broken, Member, members
from bbg.errors import BbgError
from bbg.files import whole_file
from bbg.log import track
from bbg.reading import regular_file
from bbg.sources import SUFFIXES

VERSION = 1
HALVES = {"train": ("train",), "test": ("val", "validation", "test")}  # and what their shards are called
PACKINGS = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
ENDINGS = {suffix[1:].encode() for suffix in SUFFIXES}
KEY = re.compile(rb"((?:.*/)?[^./]+)\.([^/]*)", re.DOTALL)  # as webdataset splits a name
MOST_IMAGE = 2**30  # bytes
MOST_CLASSES = 100_000
LONGEST_LABEL = 20  # bytes of a .cls


class Found(NamedTuple):
    """An image of a shard: the key of its sample, the name of its member, where it lies, and its class."""

    key: bytes
    name: bytes
    offset: int
    size: int
    label: int


@dataclass(frozen=True)
class Shards:
    """The images at `offsets` of the files `paths[shards]`, `sizes` bytes each: a store of `bbg.data.encoded`."""

    paths: tuple[Path, ...]
    shards: np.ndarray
    offsets: np.ndarray
    sizes: np.ndarray
    labels: np.ndarray
    names: Names

    def name(self, number: int) -> str:
        """The shard, and the name in it."""
        return f"{self.paths[int(self.shards[number])]}:{self.names[number].decode(errors='replace')}"

    def source(self, number: int) -> bytes:
        """An image file, to be decoded."""
        return self.content(number)

    def content(self, number: int) -> bytes:
        """An image file as it is; BbgError where its shard cannot be read or has become shorter."""
        size = int(self.sizes[number])
        try:
            with regular_file(self.paths[int(self.shards[number])]) as file:
                file.seek(int(self.offsets[number]))
                data = file.read(size)
        except OSError as error:
            raise BbgError(f"{self.name(number)}: cannot be read ({error.strerror}); mend the shard") from error
        if len(data) < size:
            raise BbgError(f"{self.name(number)}: cannot be read (the shard was changed); start anew")
        return data

    def stream(self) -> tuple[np.ndarray, np.ndarray]:
        """The shard of each image, and its place there."""
        return self.shards, self.offsets


def shard_files(root: Path, half: str) -> list[Path]:
    """The shards of `half` (train, test) in `root`, by name; BbgError for compressed ones."""
    words = "|".join(HALVES[half])
    pattern = re.compile(rf"(?:.*[-_.])?(?:{words})[-_.]?\d+\.(?:tar(\.\w+)?|tgz)", re.IGNORECASE)
    found = sorted(path for path in root.iterdir() if pattern.fullmatch(path.name) and not path.name.startswith("."))
    for path in found:
        if path.suffix.lower() != ".tar":
            raise _compressed(path, path.suffix[1:])
    return found


def open_shards(root: Path, half: str) -> tuple[Shards, tuple[Skipped, ...]]:
    """The images of the shards of `half`, in the order of their keys, and what is left out.

    Raises BbgError where there are no shards, a shard cannot be read or is compressed, and where no image is found.
    """
    paths = shard_files(root, half)
    if not paths:
        example = f"{HALVES[half][0]}-000000.tar"
        raise BbgError(f"no shards such as {example!r} in {str(root)!r}; give a folder that has them")
    seen = [[path.name, (stat := path.stat()).st_size, stat.st_mtime_ns] for path in paths]
    index = root / f"{HALVES[half][0]}.index.npz"
    made = _load(index, seen) or _made(paths)
    columns, names, skipped, new = made
    if not len(names):
        why = f" ({skipped[0][0]}: {skipped[0][1]})" if skipped else ""
        raise BbgError(f"the shards of {str(root)!r} have no image with a class for {half}{why}; give some that have")
    if new:
        with suppress(OSError, BbgError):  # a folder that is for reading only: it is made anew the next time
            _keep(index, seen, columns, names, skipped)
    store = Shards(tuple(paths), *columns, names)
    return store, tuple(Skipped(str(root / path), reason) for path, reason in skipped)


Columns = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]  # shards, offsets, sizes, labels
Index = tuple[Columns, Names, list[list[str]], bool]  # and names, what is left out, and whether it is new


def _made(paths: Sequence[Path]) -> Index:
    """The images of the shards, by one reading of all headers."""
    found: list[tuple[int, Found]] = []
    skipped: list[list[str]] = []
    for number, path in enumerate(track(paths, "indexing shards")):
        with regular_file(path) as file:
            for one in samples(file, path):
                if isinstance(one, Found):
                    found.append((number, one))
                else:
                    skipped.append(one)
    found.sort(key=lambda one: one[1].key)  # of equal keys the one that comes first stays first
    rows = np.array([(number, *one[2:]) for number, one in found], np.int64).reshape(-1, 4)
    columns = (rows[:, 0].copy(), rows[:, 1].copy(), rows[:, 2].copy(), rows[:, 3].copy())
    return columns, Names(one.name for _, one in found), skipped, True


def samples(file: BinaryIO, path: Path) -> Iterator[Found | list[str]]:
    """The images of a shard in its order, and `[name, reason]` of what is left out of it."""
    for one in _samples(file, path):
        if isinstance(one, Broken):
            yield [path.name, _damage(one)]
        else:
            yield _sample(path, *one)


def pictures(file: BinaryIO, path: Path) -> Iterator[tuple[str, Member | str]]:
    """The image of each sample of a shard, in its order, with a class or without, or why it cannot be read.

    The name is that of the shard and, behind a colon, of the member. Damaged places of the shard have their turn too.
    Raises BbgError for a compressed shard.
    """
    for one in _samples(file, path):
        if isinstance(one, Broken):
            yield str(path), _damage(one)
            continue
        key, image, _ = one
        name = f"{path}:{(image.name if image else key).decode(errors='replace')}"
        yield name, _why_not(image) or cast(Member, image)


def _samples(file: BinaryIO, path: Path) -> Iterator[tuple[bytes, Member | None, bytes | None] | Broken]:
    """Key, image and class of each sample, as far as they are there, and the damaged places between them."""
    start = file.read(8)
    for mark, packing in PACKINGS.items():
        if start.startswith(mark):
            raise _compressed(path, packing)
    key, image, label, seen = b"", None, None, set[bytes]()
    for member in members(file):
        if isinstance(member, Broken):
            yield member
            continue
        if member.kind == FOLDER:
            continue
        split = KEY.fullmatch(member.name)
        if split is None:  # such as a hidden file, or one without an ending
            continue
        ending = split[2].lower()
        if split[1] != key or ending in seen:  # another sample, which may be called as the one before
            if key:
                yield key, image, label
            key, image, label, seen = split[1], None, None, set()
        seen.add(ending)
        if ending in ENDINGS and image is None:
            image = member
        elif ending == b"cls" and member.kind == FILE and member.size <= LONGEST_LABEL:
            file.seek(member.offset)
            label = file.read(member.size)
    if key:
        yield key, image, label


def _damage(place: Broken) -> str:
    return f"is damaged at byte {place.offset:,}: {place.reason}"


def _why_not(image: Member | None) -> str | None:
    """Why a sample has no image that can be read; None where it has one."""
    if image is None:
        return "has no image"
    if image.kind != FILE:
        return "its image is a link" if image.kind == LINK else "its image is no plain file"
    if image.size > MOST_IMAGE:
        return f"its image has {image.size:,} bytes; at most {MOST_IMAGE:,} are read"
    return None


def _sample(path: Path, key: bytes, image: Member | None, label: bytes | None) -> Found | list[str]:
    """The image of a sample with its class, or why it is left out."""
    name = f"{path.name}:{key.decode(errors='replace')}"
    digits = b"" if label is None else label.strip()
    if reason := _why_not(image):
        return [name, reason]
    if label is None:
        return [name, "has no .cls with the number of its class"]
    if not digits.isdigit() or int(digits) >= MOST_CLASSES:
        return [name, f"its .cls is {label.decode(errors='replace')!r}, no number from 0 to {MOST_CLASSES - 1}"]
    assert image is not None
    return Found(key, image.name, image.offset, image.size, int(digits))


def _compressed(path: Path, packing: str) -> BbgError:
    return BbgError(
        f"{str(path)!r} is compressed ({packing}), so no image in it can be read by its offset; unpack it to a plain "
        ".tar: images hardly become smaller"
    )


def _keep(index: Path, seen: list[Any], columns: Columns, names: Names, skipped: list[list[str]]) -> None:
    facts = json.dumps({"version": VERSION, "files": seen, "skipped": skipped}).encode()
    with whole_file(index) as file:
        np.savez(
            file,
            facts=np.frombuffer(facts, np.uint8),
            columns=np.stack(columns),
            names=np.frombuffer(names.bytes, np.uint8),
            ends=names.ends,
        )


def _load(index: Path, seen: list[Any]) -> Index | None:
    """What is kept in `index`; None where it is missing, damaged, of other shards or of shards that were changed."""
    try:
        with np.load(index, allow_pickle=False) as stored:
            facts = json.loads(stored["facts"].tobytes())
            columns, data, ends = stored["columns"], stored["names"].tobytes(), stored["ends"]
        if facts["version"] != VERSION or facts["files"] != seen:
            return None
        names = Names.of(data, ends)
        shards, offsets, sizes, labels = columns
        limits = np.array([size for _, size, _ in seen], np.int64)
        within = (shards >= 0) & (shards < len(seen))
        sound = (
            columns.dtype == ends.dtype == np.int64
            and len(names) == len(shards)
            and within.all()
            and ((offsets >= 0) & (sizes >= 0) & (offsets <= limits[shards] - sizes)).all()
            and ((labels >= 0) & (labels < MOST_CLASSES)).all()
        )
        skipped = [[str(path), str(reason)] for path, reason in facts["skipped"]]
        return ((shards, offsets, sizes, labels), names, skipped, False) if sound else None
    except Exception:  # whatever the damaged bytes happen to mean
        return None
