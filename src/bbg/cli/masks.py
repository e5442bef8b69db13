"""What the verb predict does with a network that segments: shares of the classes, masks and overlays in a folder."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from glob import has_magic
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TextIO

from bbg.cli.output import make_folder, rows_to
from bbg.errors import BbgError, visible
from bbg.files import write_bytes
from bbg.sources import STDIN, Image

if TYPE_CHECKING:
    from bbg.image import Source
    from bbg.masks import Mask

COLUMNS = ("image", "place", "label", "share", "mask", "error")


class Found(NamedTuple):
    """What is told of an image: its size (H, W), shares of the classes, and its mask and overlay as PNG files."""

    size: tuple[int, int]
    shares: dict[str, float]
    mask: bytes = b""
    overlay: bytes = b""
    file: str | None = None


def made(drawn: bool) -> Callable[[Mask, Source], Found]:
    """What is kept of a mask and its image, `drawn` where files are wanted."""

    def make(mask: Mask, image: Source) -> Found:
        height, width = mask.classes.shape
        if not drawn:
            return Found((height, width), mask.shares)
        from bbg import drawing

        shown = drawing.encoded(mask.overlay(image))
        return Found((height, width), mask.shares, drawing.encoded(mask.image()), shown)

    return make


class Folder:
    """The folder of --out: `NAME.png` for the mask and `NAME-overlay.png` for the overlay of each image.

    NAME is that of the image without its ending, with a number behind it where another image has it too. No file that
    is there is written over: it may be a mask that somebody drew, or an image further down in a list. One that has the
    same bytes already, as behind a run that was ended, is left as it is.
    """

    def __init__(self, path: Path, sources: Iterable[str]) -> None:
        self.path, self.place = path, os.path.realpath(path)
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

    def write(self, name: str, found: Found) -> Found:
        """Write the files of the image `name`; returns `found` with the path of the mask.

        Raises BbgError where a file with other contents is there.
        """
        stem = "image" if name == STDIN else Path(name).stem or "image"
        number, names = 1, [f"{stem}.png", f"{stem}-overlay.png"]
        while self.taken & set(names):
            number += 1
            names = [f"{stem}-{number}.png", f"{stem}-{number}-overlay.png"]
        self.taken |= set(names)
        files = [(self.path / file, data) for file, data in zip(names, (found.mask, found.overlay), strict=True)]
        there = [path for path, _ in files if os.path.lexists(path)]
        for path, data in files:
            if path in there and not _holds(path, data):
                raise BbgError(f"{str(path)!r} is there already, with other contents; give a new --out folder")
        for path, data in files:
            if path not in there:
                write_bytes(path, data)
        return found._replace(file=str(files[0][0]))

    def _check(self, image: str) -> None:
        if os.path.dirname(os.path.realpath(image)) == self.place:
            self._refuse(image)

    def _refuse(self, source: str) -> None:
        raise BbgError(f"{source!r} is read from the folder of --out, where masks are written; give another --out")


def _holds(path: Path, data: bytes) -> bool:
    """Whether `path` is a file of these bytes."""
    try:
        return path.is_file() and path.stat().st_size == len(data) and path.read_bytes() == data
    except OSError:
        return False


def ranked(found: Found, top: int) -> list[tuple[str, float]]:
    """The `top` classes with the largest shares that are there at all, the largest first."""
    seen = [(label, share) for label, share in found.shares.items() if share > 0]
    return sorted(seen, key=lambda one: -one[1])[:top]


def as_text(name: str, answer: Found | BbgError, top: int) -> None:
    """Print the shares of an image."""
    if isinstance(answer, BbgError):
        return
    where = [] if answer.file is None else [f"  {visible(answer.file)}"]
    shares = [f"  {100 * share:5.1f} %  {visible(label)}" for label, share in ranked(answer, top)]
    print("\n".join([visible(name), *shares, *where]))


def as_json(file: TextIO, top: int) -> Callable[[str, Found | BbgError], None]:
    """A writer of a JSON object per image."""
    from json import dumps

    def write(name: str, answer: Found | BbgError) -> None:
        told: dict[str, Any] = {"image": name}
        if isinstance(answer, BbgError):
            told["error"] = str(answer)
        else:
            told |= {"size": answer.size, "shares": dict(ranked(answer, top)), "mask": answer.file}
        print(dumps(told), file=file, flush=file is sys.stdout)

    return write


def as_csv(file: TextIO, top: int) -> Callable[[str, Found | BbgError], None]:
    """A writer of a row per image and class."""
    add = rows_to(file, COLUMNS)

    def write(name: str, answer: Found | BbgError) -> None:
        if isinstance(answer, BbgError):
            add({"image": name, "error": str(answer)})
            return
        for place, (label, share) in enumerate(ranked(answer, top), 1):
            add({"image": name, "place": place, "label": label, "share": share, "mask": answer.file})

    return write
