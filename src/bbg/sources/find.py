"""Where images come from: files, folders, patterns, lists. One after the other, and no image is opened here.

Folders and patterns are searched at first, so that it is known how many images there are. Videos and lists in a pipe
are read when it is their turn.
"""

from __future__ import annotations

import os
import stat
import sys
from codecs import BOM_UTF8
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from glob import has_magic, iglob
from pathlib import Path
from typing import BinaryIO, TypeAlias

import numpy as np

from bbg.errors import BbgError
from bbg.formats import FORMATS
from bbg.sources import video

SUFFIXES = {suffix for suffixes in FORMATS.values() for suffix in suffixes}
STDIN = "-"


class Url(str):
    """The address of an image, which `bbg.sources.web.fetch` reads."""


class _Video(str):
    """A file or a camera whose frames are images."""


# A path, an address, the bytes of an image file, a frame (uint8 `[H, W, 3]`), or why there is none.
IMAGE = (str, bytes, np.ndarray, BbgError)
Image: TypeAlias = "str | Url | bytes | np.ndarray | BbgError"
# The name of an image and the image, or what images are yet to be read from: a video, or a list.
_Place: TypeAlias = "tuple[str, Image | _Video | BinaryIO]"

COUNTED = 10  # videos at most that are opened to ask for their frames


class Found:
    """The images of `find`, each with its name."""

    def __init__(self, places: list[_Place], every: int, urls: bool, written: Collection[str]) -> None:
        self._places, self._every, self._urls, self._written = places, every, urls, written

    def __iter__(self) -> Iterator[tuple[str, Image]]:
        return self._images(self._places)

    def _images(self, places: Iterable[_Place]) -> Iterator[tuple[str, Image]]:
        for name, what in places:
            if isinstance(what, _Video):
                yield from video.frames(what, self._every)
            elif isinstance(what, IMAGE):
                yield name, what
            else:
                yield from self._images(_apart(_read(what, self._urls), self._written))

    def total(self) -> int | None:
        """How many there are; None where only the end tells. Of a video it is what the file says, often an estimate."""
        videos = [str(what) for _, what in self._places if isinstance(what, _Video)]
        if len(videos) > COUNTED or not all(isinstance(what, IMAGE) for _, what in self._places):
            return None
        frames = video.count(videos, self._every) if videos else 0
        return None if frames is None else len(self._places) - len(videos) + frames


def find(
    sources: Iterable[str],
    stdin: BinaryIO | None = None,
    every: int = 1,
    urls: bool = False,
    written: Iterable[str | os.PathLike[str]] = (),
) -> Found:
    """The images of `sources`, each with its name, or the error that says why there is none.

    A source is a file, a folder (all files below it that end as an image or a video does), a pattern
    (`photos/**/*.jpg`), "-", a video, of which each `every`-th frame is an image, `camera:0`, or, where `urls` allows
    it, an address. "-" is the standard input, which is one image, or a list of sources, one in a line. What does not
    exist is given as it is: reading it says why. `written`: files that the caller will write; a list that names one of
    them as an image raises BbgError when it is its turn.
    """
    places: list[_Place] = []
    targets = {os.path.realpath(path) for path in written}
    for source in sources:
        if source != STDIN:
            places += _search(source, urls)
            continue
        stream = sys.stdin.buffer if stdin is None else stdin
        # A pipe is read as it comes.
        places += _apart(_read(stream, urls), targets) if _is_file(stream) else [(STDIN, stream)]
    return Found(places, every, urls, targets)


def _apart(places: Iterable[_Place], written: Collection[str]) -> Iterator[_Place]:
    for name, what in places:
        if written and isinstance(what, str) and _is_one_of(what, written):
            raise BbgError(f"{name!r} is an image and is to be written, and would be lost; give another path")
        yield name, what


def _is_one_of(path: str, places: Collection[str]) -> bool:
    try:
        return os.path.realpath(path) in places
    except ValueError:  # a zero byte, which no name holds
        return False


def _is_file(stream: BinaryIO) -> bool:
    try:
        return stat.S_ISREG(os.fstat(stream.fileno()).st_mode)
    except OSError:  # it is none of the system's
        return False


def _search(source: str, urls: bool) -> Iterator[_Place]:
    """The images and videos of one source."""
    if "://" in source and not os.path.lexists(source):
        off = BbgError(f"{source}: is an address, and none is fetched unless you say so; add --allow-urls")
        yield source, Url(source) if urls else off
    elif source.startswith(video.CAMERA) and not os.path.lexists(source):
        yield source, _Video(source)
    elif os.path.isdir(source):
        for file in files_below(Path(source)):
            if file.suffix.lower() in SUFFIXES | video.SUFFIXES:
                yield _file(str(file))
    elif has_magic(source) and not os.path.lexists(source):
        yield from map(_file, sorted(p for p in iglob(source, recursive=True) if os.path.isfile(p)) or [source])
    else:
        yield _file(source)


def _file(path: str) -> _Place:
    return path, _Video(path) if os.path.splitext(path)[1].lower() in video.SUFFIXES else path


def files_below(folder: Path) -> list[Path]:
    """The visible files below `folder`, and links that lead nowhere, in order; pipes and devices are no files.

    A folder is entered once, and no link to one that `folder` lies in.
    """
    return list(each_below(folder))


def each_below(folder: Path) -> Iterator[Path]:
    """The same ones, one after the other: what waits in memory is the names of one folder."""
    entered, own = set[str](), os.path.realpath(folder)

    def names(here: str) -> Iterator[tuple[str, bool, bool]]:
        """The visible names in a folder in order, and whether each is a folder, and a file or a lost link."""
        place = os.path.realpath(here)
        found: list[tuple[str, bool, bool]] = []
        if place not in entered and not own.startswith(os.path.join(place, "")):
            entered.add(place)
            with suppress(OSError), os.scandir(here) as entries:
                found = [(e.name, *_kind(e)) for e in entries if not e.name.startswith(".")]
        return iter(sorted(found))

    here = os.fspath(folder)
    ways = [(here, names(here))]  # down to where it is now
    while ways:
        here, inner = ways[-1]
        name, is_folder, is_file = next(inner, ("", False, False))
        if not name:
            ways.pop()
        elif is_folder:
            below = os.path.join(here, name)
            ways.append((below, names(below)))
        elif is_file:
            yield Path(here, name)


def _kind(entry: os.DirEntry[str]) -> tuple[bool, bool]:
    """Whether an entry is a folder, and whether it is a file or a link that leads nowhere."""
    try:
        if entry.is_dir():
            return True, False
        return False, entry.is_file() or not os.path.exists(entry.path)
    except OSError:  # a link that leads to itself, or what may not be looked at
        return False, not os.path.exists(entry.path)


def _read(stream: BinaryIO, urls: bool) -> Iterator[_Place]:
    """The image that `stream` is, or those of the list that it is."""
    try:
        first = stream.readline().removeprefix(BOM_UTF8)  # editors put it before lists
    except OSError as error:
        raise BbgError(f"the standard input cannot be read ({error.strerror}); give files") from error
    # No name holds a zero byte, and the head of an image does but for a few formats.
    if b"\0" in first or first.startswith((b"\xff\xd8\xff", b"\x89PNG")) or first[:3] in (b"P5\n", b"P6\n"):
        yield STDIN, first + stream.read()
        return
    while first:
        if (name := os.fsdecode(first.rstrip(b"\r\n"))) not in ("", STDIN):
            yield from _search(name, urls)
        first = stream.readline()
