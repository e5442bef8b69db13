"""Where images come from: files, folders, patterns, lists. One after the other, and none is opened here."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from glob import has_magic, iglob
from pathlib import Path
from typing import BinaryIO

SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
STDIN = "-"


def find(sources: Iterable[str], stdin: BinaryIO | None = None) -> Iterator[tuple[str, str | bytes]]:
    """The images of `sources`, each with its name: the path to read, or the bytes of an image.

    A source is a file, a folder (all files below it that end as an image does), a pattern (`photos/**/*.jpg`), or "-":
    the standard input, which is one image, or a list of sources, one in a line. What does not exist is given as it is:
    reading it says why.
    """
    for source in sources:
        if source == STDIN:
            yield from _read(sys.stdin.buffer if stdin is None else stdin)
        elif os.path.isdir(source):
            yield from ((str(p), str(p)) for p in files_below(Path(source)) if p.suffix.lower() in SUFFIXES)
        elif has_magic(source) and not os.path.lexists(source):
            found = sorted(path for path in iglob(source, recursive=True) if os.path.isfile(path))
            yield from ((path, path) for path in found or [source])
        else:
            yield source, source


def files_below(folder: Path) -> list[Path]:
    """The visible files below `folder`, and links that lead nowhere, in order; a folder is entered once."""
    found, entered = [], set()
    for here, inner, names in os.walk(folder, followlinks=True):
        inner[:] = sorted(name for name in inner if not name.startswith("."))
        if (place := os.path.realpath(here)) in entered:
            inner.clear()
            continue
        entered.add(place)
        found += [Path(here, name) for name in names if not name.startswith(".")]
    return sorted(found)


def _read(stream: BinaryIO) -> Iterator[tuple[str, str | bytes]]:
    first = stream.readline()
    # No name holds a zero byte, and the head of an image does but for a few formats.
    if b"\0" in first or first.startswith((b"\xff\xd8\xff", b"\x89PNG")) or first[:3] in (b"P5\n", b"P6\n"):
        yield STDIN, first + stream.read()
        return
    while first:
        if name := os.fsdecode(first.rstrip(b"\r\n")):
            yield from find([name] if name != STDIN else [])
        first = stream.readline()
