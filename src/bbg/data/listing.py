"""Millions of files in class folders: listed without a look at any of them, and kept as arrays."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bbg.data.damage import Skipped
from bbg.errors import BbgError
from bbg.reading import regular_file
from bbg.sources import SUFFIXES, files_below

ENDINGS = tuple(SUFFIXES)


class Names:
    """Many names as bytes behind each other: a list of them would take ten times the memory, in every worker."""

    def __init__(self, names: Iterable[bytes]) -> None:
        names = list(names)
        self.bytes = b"".join(names)
        self.ends = np.cumsum([0, *map(len, names)], dtype=np.int64)

    @classmethod
    def of(cls, data: bytes, ends: np.ndarray) -> Names:
        """The names in `data`, the first from 0 to `ends[1]`; ValueError where they do not fill it."""
        if ends[0] != 0 or ends[-1] != len(data) or (np.diff(ends) < 0).any():
            raise ValueError("ends of names that are not there")
        names = cls(())
        names.bytes, names.ends = data, ends
        return names

    def __len__(self) -> int:
        return len(self.ends) - 1

    def __getitem__(self, number: int) -> bytes:
        return self.bytes[self.ends[number] : self.ends[number + 1]]


@dataclass(frozen=True)
class Files:
    """The files `names` in the class folders `folders[labels]`: a store of `bbg.data.encoded`."""

    folders: tuple[Path, ...]
    labels: np.ndarray
    names: Names

    def source(self, number: int) -> Path:
        """The path of a file."""
        return self.folders[int(self.labels[number])] / os.fsdecode(self.names[number])

    def name(self, number: int) -> str:
        """The path of a file."""
        return str(self.source(number))

    def content(self, number: int) -> bytes:
        """A file as it is; BbgError where it cannot be read."""
        path = self.source(number)
        try:
            with regular_file(path) as file:
                return file.read()
        except OSError as error:
            raise BbgError(f"{path}: cannot be read ({error.strerror}); mend it, or take it out of the set") from error

    def stream(self) -> None:
        """There are no shards."""


def listed(folders: Sequence[Path]) -> tuple[Files, tuple[Skipped, ...]]:
    """The images in the class folders, by class and name, and the visible files that do not end as an image does.

    No file is opened or asked for its size. Folders inside a class folder are read too, which asks for each file.
    """
    found, counts, others = list[bytes](), list[int](), list[Skipped]()
    for folder in folders:
        names = _names(folder)
        images = [name for name in names if name.lower().endswith(ENDINGS)]
        if len(images) < len(names):
            odd = sorted(set(names).difference(images))
            others += [Skipped(str(folder / name), "its name does not end as that of an image") for name in odd]
        if not images:
            raise BbgError(f"class folder {str(folder)!r} has no image; add some, or remove it")
        found += map(os.fsencode, images)
        counts.append(len(images))
    numbers = np.repeat(np.arange(len(folders)), counts)
    return Files(tuple(folders), numbers, Names(found)), tuple(others)


def _names(folder: Path) -> list[str]:
    """The visible files of a folder and of those in it, as paths from there, in order."""
    with os.scandir(folder) as entries:  # the system tells here what is a folder; only links are followed
        kinds = [(entry.name, entry.is_dir()) for entry in entries if not entry.name.startswith(".")]
    if any(is_folder for _, is_folder in kinds):
        return [str(path.relative_to(folder)) for path in files_below(folder)]
    return sorted(name for name, _ in kinds)
