"""The folder that the verb predict writes pictures into."""

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
    """The folder of --out: for each of `endings` a file `NAME<ending>.png` of each image.

    NAME is that of the image without its ending, with a number behind it where another image has it too.
    """

    def __init__(self, path: Path, sources: Iterable[str], endings: Sequence[str]) -> None:
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
        self.listed = STDIN in sources
        make_folder(path)

    def apart(self, images: Iterable[tuple[str, Image]]) -> Iterator[tuple[str, Image]]:
        """The images; BbgError for one that lies in the folder."""
        for name, image in images:
            if isinstance(image, str) and "://" not in image:
                self._check(image)
            yield name, image

    def write(self, name: str, pictures: Sequence[bytes]) -> str:
        """Write the files of the image `name`; returns the path of the first."""
        stem = Path(name).stem or "image"
        number, names = 1, [f"{stem}{ending}.png" for ending in self.endings]
        while self.taken & set(names):
            number += 1
            names = [f"{stem}-{number}{ending}.png" for ending in self.endings]
        self.taken |= set(names)
        for file, data in zip(names, pictures, strict=True):
            if self.listed and os.path.lexists(self.path / file):  # it may be an image further down in the list
                raise BbgError(f"{str(self.path / file)!r} is there already; give a new --out folder for a list")
            write_bytes(self.path / file, data)
        return str(self.path / names[0])

    def _check(self, image: str) -> None:
        if os.path.dirname(os.path.realpath(image)) == self.place:
            self._refuse(image)

    def _refuse(self, source: str) -> None:
        raise BbgError(f"{source!r} is read from the folder of --out, where pictures are written; give another --out")
