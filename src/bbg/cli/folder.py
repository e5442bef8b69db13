"""A folder that the verb predict writes files of images into."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from glob import has_magic
from pathlib import Path

from bbg.cli.output import make_folder
from bbg.errors import BbgError
from bbg.files import write_bytes
from bbg.sources import STDIN, Image


class Folder:
    """A folder with a file `NAME<ending>` of each image for each of `endings`.

    NAME is that of the image without its ending, with a number behind it where another image has it too. No file that
    is there is written over: it may be a mask that somebody drew, or an image further down in a list. One that has the
    same bytes already, as behind a run that was ended, is left as it is.

    `sources`: of the images; BbgError where they lie in the folder, and what is written might be taken for one.
    `option`: that names the folder.
    """

    def __init__(self, path: Path, sources: Iterable[str], endings: Sequence[str], option: str = "--out") -> None:
        self.option = option
        self.path, self.place, self.endings = path, os.path.realpath(path), endings
        self.taken: set[str] = set()
        for source in sources:
            if source == STDIN or "://" in source:
                continue
            plain = source
            while has_magic(plain) and not os.path.lexists(plain):
                plain = os.path.dirname(plain)
            if os.path.isdir(plain or "."):  # with what lies below it
                if (self.place + os.sep).startswith(os.path.join(os.path.realpath(plain or "."), "")):
                    self._refuse(source)
            else:
                self._check(source)
        make_folder(path)

    def apart(self, images: Iterable[tuple[str, Image]]) -> Iterator[tuple[str, Image]]:
        """The images; BbgError for one that lies in the folder."""
        for name, image in images:
            if isinstance(image, str) and "://" not in image:
                self._check(image)
            yield name, image

    def write(self, name: str, pictures: Sequence[bytes]) -> str:
        """Write the files of the image `name`; returns the path of the first.

        Raises BbgError where a file with other contents is there.
        """
        stem = "image" if name == STDIN else Path(name).stem or "image"
        number, names = 1, [f"{stem}{ending}" for ending in self.endings]
        while self.taken & set(names):
            number += 1
            names = [f"{stem}-{number}{ending}" for ending in self.endings]
        self.taken |= set(names)
        files = [(self.path / file, data) for file, data in zip(names, pictures, strict=True)]
        there = [path for path, _ in files if os.path.lexists(path)]
        for path, data in files:
            if path in there and not _holds(path, data):
                raise BbgError(f"{str(path)!r} is there already, with other contents; give a new {self.option} folder")
        for path, data in files:
            if path not in there:
                write_bytes(path, data)
        return str(files[0][0])

    def _check(self, image: str) -> None:
        if os.path.dirname(os.path.realpath(image)) == self.place:
            self._refuse(image)

    def _refuse(self, source: str) -> None:
        raise BbgError(f"{source!r} is read from the folder of --out, where pictures are written; give another --out")


def _holds(path: Path, data: bytes) -> bool:
    """Whether `path` is a file of these bytes."""
    try:
        return path.is_file() and path.stat().st_size == len(data) and path.read_bytes() == data
    except OSError:
        return False
