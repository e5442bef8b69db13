"""A source of very many images in pieces, which do not depend on who asks: files, tar shards, or tables of Parquet.

    whole = listed(["photos"])           # names alone; of shards and tables how many images each has
    for piece in whole.pieces(256):      # the same ones each time, as long as the source stays as it is
        for name, image in Reader().images(piece): ...

What a worker is sent is a piece: names of files and numbers. It opens them itself.
"""

from __future__ import annotations

import hashlib
import os
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from glob import has_magic, iglob
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bbg.data.listing import Names
from bbg.data.shards import pictures
from bbg.data.tar import Member
from bbg.errors import BbgError, not_installed
from bbg.log import track
from bbg.reading import regular_file
from bbg.sources import CAMERA, STDIN, SUFFIXES, Image, each_below, video

IMAGES, SHARDS, TABLES = "images", "shards", "tables"
SHARD_ENDINGS = (".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst")  # packed ones are refused by name
TABLE_ENDINGS = (".parquet", ".pq")
IMAGE_COLUMNS = ("image", "img", "bytes", "content", "data", "jpg", "jpeg", "png")  # the first that is there is taken
NAME_COLUMNS = ("path", "name", "file_name", "filename", "file", "image_path", "key", "id", "__key__")
PYARROW_ERRORS = (OSError, ValueError, NotImplementedError)  # what its own exceptions are
AT_A_TIME = 64  # rows of a table that are in memory
ROW_GROUP_PIECES = 16  # a piece of a table reads its row group from the beginning, so they are not many


class Piece(NamedTuple):
    """Some images that lie together, `images` of them from `start` on.

    `files`: the images themselves, or the one shard or table that has them. Of a table they are in the row `group`,
    whose first row is row `first` of the file.
    """

    number: int
    kind: str
    images: int
    files: tuple[str, ...]
    start: int = 0
    group: int = 0
    first: int = 0


class Group(NamedTuple):
    """Images that lie together in a file: those of a shard, or of a row group."""

    file: int
    images: int
    group: int = 0
    first: int = 0


@dataclass(frozen=True)
class Listing:
    """The names of what a source has. `digest` is another one where names, their order, or sizes of shards differ."""

    kind: str
    names: Names
    groups: tuple[Group, ...]
    digest: str

    def __len__(self) -> int:
        return sum(group.images for group in self.groups) if self.groups else len(self.names)

    def pieces(self, size: int) -> Iterator[Piece]:
        """The images in pieces of about `size`, none over two shards or row groups."""
        number = 0
        if self.kind == IMAGES:
            for start in range(0, len(self.names), size):
                files = tuple(os.fsdecode(self.names[i]) for i in range(start, min(start + size, len(self.names))))
                yield Piece(number, self.kind, len(files), files)
                number += 1
            return
        for file, count, group, first in self.groups:
            step = size if self.kind == SHARDS else max(size, -(-count // ROW_GROUP_PIECES))
            for start in range(0, count, step):
                name = os.fsdecode(self.names[file])
                yield Piece(number, self.kind, min(step, count - start), (name,), start, group, first)
                number += 1


def listed(sources: Sequence[str], apart: Path | None = None) -> Listing:
    """What files, folders and patterns name: images, tar shards, or tables of Parquet; nothing below `apart`.

    The order is that of `bbg.sources.find`. No image is opened; of shards all headers are read, and of tables the ends.
    Raises BbgError where a source is missing, has nothing, or has several of these kinds, and for videos, cameras and
    addresses.
    """
    below = None if apart is None else os.path.join(os.path.realpath(apart), "")
    found: dict[str, _Growing] = {}

    @lru_cache(maxsize=1000)
    def is_apart(folder: str) -> bool:
        return below is not None and os.path.join(os.path.realpath(folder), "").startswith(below)

    for source in sources:
        for path in _paths(source):
            if not is_apart(os.path.dirname(path)):
                found.setdefault(_kind(path), _Growing()).add(path)
    if len(found) > 1:
        kinds = " and ".join(sorted(found))
        raise BbgError(f"{_shown(sources)} has {kinds}; give one of them, such as a pattern ('{sources[0]}/**/*.jpg')")
    if not found:
        raise BbgError(f"no image in {_shown(sources)}; give images, tar shards or Parquet files, or folders of them")
    ((kind, growing),) = found.items()
    names = growing.names()
    groups = () if kind == IMAGES else tuple(_groups(kind, [os.fsdecode(names[i]) for i in range(len(names))]))
    if kind != IMAGES and not groups:
        raise BbgError(f"the {kind} of {_shown(sources)} have no image; give some that have")
    digest = hashlib.blake2b(digest_size=16)
    for part in (kind.encode(), names.bytes, names.ends.astype("<i8").tobytes(), repr(groups).encode()):
        digest.update(hashlib.blake2b(part).digest())
    return Listing(kind, names, groups, digest.hexdigest())


class _Growing:
    """Names that come one after the other; of a million a list would take ten times the memory."""

    def __init__(self) -> None:
        self.bytes, self.ends = bytearray(), array("q", [0])

    def add(self, name: str) -> None:
        self.bytes += os.fsencode(name)
        self.ends.append(len(self.bytes))

    def names(self) -> Names:
        return Names.of(bytes(self.bytes), np.array(self.ends, np.int64))


def _shown(sources: Sequence[str]) -> str:
    return ", ".join(map(repr, sources[:3])) + (", ..." if len(sources) > 3 else "")


def _paths(source: str) -> Iterator[str]:
    """The files of one source."""
    if os.path.isdir(source):
        files = map(str, each_below(Path(source)))
        yield from (file for file in files if file.lower().endswith((*SUFFIXES, *SHARD_ENDINGS, *TABLE_ENDINGS)))
    elif os.path.lexists(source):
        yield source
    elif source == STDIN or source.startswith(CAMERA) or "://" in source:
        raise BbgError(f"{source!r} cannot be shared out to workers; give files, folders or patterns")
    elif has_magic(source):
        yield from sorted(path for path in iglob(source, recursive=True) if os.path.isfile(path))
    else:
        raise BbgError(f"{source!r} does not exist; give files, folders or patterns")


def _kind(path: str) -> str:
    name = path.lower()
    if name.endswith(tuple(video.SUFFIXES)):
        raise BbgError(f"{path!r} is a video, whose frames cannot be shared out to workers; leave it out")
    return SHARDS if name.endswith(SHARD_ENDINGS) else TABLES if name.endswith(TABLE_ENDINGS) else IMAGES


def _groups(kind: str, paths: Sequence[str]) -> Iterator[Group]:
    """What lies together in each shard or table."""
    for number, path in enumerate(track(paths, f"indexing {kind}")):
        try:
            if kind == SHARDS:
                with regular_file(path) as file:
                    if count := sum(1 for _ in pictures(file, Path(path))):
                        yield Group(number, count)
            else:
                first, opened = 0, _table(path)
                _columns(path, opened.schema_arrow)
                for group in range(opened.metadata.num_row_groups):
                    count = opened.metadata.row_group(group).num_rows
                    if count:
                        yield Group(number, count, group, first)
                    first += count
        except OSError as error:
            raise BbgError(f"{path}: cannot be read ({error.strerror or error}); mend it, or leave it out") from error


def parquet() -> Any:
    """The module pyarrow.parquet; BbgError where it is not installed."""
    try:
        return import_module("pyarrow.parquet")
    except ImportError as error:
        raise not_installed("Parquet", "pyarrow") from error


def _table(path: str) -> Any:
    opened = parquet().ParquetFile
    try:
        return opened(path)
    except PYARROW_ERRORS as error:
        raise BbgError(f"{path}: is no Parquet file that can be read ({error}); mend it, or leave it out") from error


def _columns(path: str, schema: Any) -> tuple[str, str | None, str | None]:
    """The columns of encoded images, of the field inside it where it is a structure, and of names.

    Sets of Hugging Face have a structure of `bytes` and `path`.
    """
    types = import_module("pyarrow").types

    def binary(kind: Any) -> bool:
        return bool(types.is_binary(kind) or types.is_large_binary(kind))

    def inner(kind: Any) -> bool:
        return bool(types.is_struct(kind) and kind.get_field_index("bytes") >= 0 and binary(kind.field("bytes").type))

    images = {field.name: inner(field.type) for field in schema if binary(field.type) or inner(field.type)}
    chosen = next((name for name in IMAGE_COLUMNS if name in images), None)
    if chosen is None and len(images) == 1:
        (chosen,) = images
    if chosen is None:
        came = f"several columns of bytes ({', '.join(images)})" if images else f"the columns {', '.join(schema.names)}"
        raise BbgError(f"{path}: has {came}; encoded images are taken from one called {', '.join(IMAGE_COLUMNS)}")
    texts = {field.name for field in schema if types.is_string(field.type) or types.is_large_string(field.type)}
    name = next((name for name in NAME_COLUMNS if name in texts), None)
    return chosen, "bytes" if images[chosen] else None, name


class Reader:
    """Reads pieces, and remembers where the images of the last shard lie."""

    def __init__(self) -> None:
        self._shard: tuple[str, list[tuple[str, Member | str]]] = ("", [])  # its pieces follow each other

    def images(self, piece: Piece) -> Iterator[tuple[str, Image]]:
        """Each image of a piece with its name: a path, the bytes of an image file, or why there is none."""
        readers: dict[str, Callable[[Piece], Iterator[tuple[str, Image]]]] = {
            IMAGES: self._files,
            SHARDS: self._of_shard,
            TABLES: self._of_table,
        }
        return readers[piece.kind](piece)

    @staticmethod
    def _files(piece: Piece) -> Iterator[tuple[str, Image]]:
        return ((name, name) for name in piece.files)

    def _of_shard(self, piece: Piece) -> Iterator[tuple[str, Image]]:
        (path,) = piece.files
        try:
            with regular_file(path) as file:
                if self._shard[0] != path:
                    self._shard = path, list(pictures(file, Path(path)))
                for name, member in self._shard[1][piece.start : piece.start + piece.images]:
                    if isinstance(member, str):
                        yield name, BbgError(f"{name}: {member}")
                        continue
                    file.seek(member.offset)
                    yield name, file.read(member.size)
        except OSError as error:
            raise BbgError(f"{path}: cannot be read ({error.strerror or error}); mend it and run again") from error

    def _of_table(self, piece: Piece) -> Iterator[tuple[str, Image]]:
        (path,) = piece.files
        table = _table(path)
        column, inner, names = _columns(path, table.schema_arrow)
        wanted = [column, *([] if names is None else [names])]
        row, end = 0, piece.start + piece.images  # in the group
        try:
            for batch in table.iter_batches(AT_A_TIME, row_groups=[piece.group], columns=wanted):
                if row + len(batch) > piece.start and row < end:
                    low, high = max(0, piece.start - row), min(len(batch), end - row)
                    rows = batch.slice(low, high - low).to_pylist()
                    for number, one in enumerate(rows, piece.first + row + low):
                        yield self._of_row(path, number, one, column, inner, names)
                row += len(batch)
                if row >= end:
                    return
        except PYARROW_ERRORS as error:
            raise BbgError(f"{path}: cannot be read ({error}); mend it and run again") from error

    @staticmethod
    def _of_row(
        path: str, number: int, row: dict[str, Any], column: str, inner: str | None, names: str | None
    ) -> tuple[str, Image]:
        cell = row[column]
        data = cell if inner is None or cell is None else cell[inner]
        name = (row[names] if names else None) or (cell.get("path") if isinstance(cell, dict) else None)
        name = name or f"{path}:{number}"
        return name, BbgError(f"{name}: has no bytes in the column {column!r}") if data is None else data
