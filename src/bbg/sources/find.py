"""Where images come from: files, folders, patterns, lists. One after the other, and no image is opened here."""

from __future__ import annotations

import os
import sys
from codecs import BOM_UTF8
from collections.abc import Iterable, Iterator
from glob import has_magic, iglob
from pathlib import Path
from typing import BinaryIO, TypeAlias

import numpy as np

from bbg.errors import BbgError
from bbg.sources import video

SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
STDIN = "-"


class Url(str):
    """The address of an image, which `bbg.sources.web.fetch` reads."""


# A path, an address, the bytes of an image file, a frame (uint8 `[H, W, 3]`), or why there is none.
Image: TypeAlias = "str | Url | bytes | np.ndarray | BbgError"


def find(
    sources: Iterable[str], stdin: BinaryIO | None = None, every: int = 1, urls: bool = False
) -> Iterator[tuple[str, Image]]:
    """The images of `sources`, each with its name, or the error that says why there is none.

    A source is a file, a folder (all files below it that end as an image or a video does), a pattern
    (`photos/**/*.jpg`), "-", a video, of which each `every`-th frame is an image, `camera:0`, or, where `urls` allows
    it, an address. "-" is the standard input, which is one image, or a list of sources, one in a line. What does not
    exist is given as it is: reading it says why.
    """
    for source in sources:
        if source == STDIN:
            yield from _read(sys.stdin.buffer if stdin is None else stdin, every, urls)
        elif "://" in source and not os.path.lexists(source):
            off = BbgError(f"{source}: is an address, and none is fetched unless you say so; add --allow-urls")
            yield source, Url(source) if urls else off
        elif source.startswith(video.CAMERA) and not os.path.lexists(source):
            yield from video.frames(source, every)
        elif os.path.isdir(source):
            for file in files_below(Path(source)):
                if file.suffix.lower() in SUFFIXES | video.SUFFIXES:
                    yield from _file(str(file), every)
        elif has_magic(source) and not os.path.lexists(source):
            for path in sorted(p for p in iglob(source, recursive=True) if os.path.isfile(p)) or [source]:
                yield from _file(path, every)
        else:
            yield from _file(source, every)


def _file(path: str, every: int) -> Iterator[tuple[str, Image]]:
    if os.path.splitext(path)[1].lower() in video.SUFFIXES:
        yield from video.frames(path, every)
    else:
        yield path, path


def files_below(folder: Path) -> list[Path]:
    """The visible files below `folder`, and links that lead nowhere, in order; pipes and devices are no files.

    A folder is entered once, and no link to one that `folder` lies in.
    """
    found, entered, own = [], set(), os.path.realpath(folder)
    for here, inner, names in os.walk(folder, followlinks=True):
        inner[:] = sorted(name for name in inner if not name.startswith("."))
        if (place := os.path.realpath(here)) in entered or own.startswith(os.path.join(place, "")):
            inner.clear()
            continue
        entered.add(place)
        found += [Path(here, name) for name in names if not name.startswith(".")]
    return sorted(path for path in found if path.is_file() or not path.exists())


def _read(stream: BinaryIO, every: int, urls: bool) -> Iterator[tuple[str, Image]]:
    first = stream.readline().removeprefix(BOM_UTF8)  # editors put it before lists
    # No name holds a zero byte, and the head of an image does but for a few formats.
    if b"\0" in first or first.startswith((b"\xff\xd8\xff", b"\x89PNG")) or first[:3] in (b"P5\n", b"P6\n"):
        yield STDIN, first + stream.read()
        return
    while first:
        if name := os.fsdecode(first.rstrip(b"\r\n")):
            yield from find([name] if name != STDIN else [], None, every, urls)
        first = stream.readline()
