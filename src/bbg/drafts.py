"""Drafts: how a file is called while it is written, and what becomes of those that a killed process left behind.

    .9f86d081.bbg-draft     beside the file that it will be

Whoever writes a draft holds a lock on it. One that nobody holds was left behind: the next process that writes into its
folder removes it. A file system without locks keeps such drafts.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

SUFFIX = ".bbg-draft"
NAME = re.compile(rf"\.[0-9a-f]{{8}}{re.escape(SUFFIX)}")

_looked_through: set[str] = set()  # folders, by this process


@contextmanager
def draft_in(folder: Path) -> Iterator[tuple[Path, BinaryIO]]:
    """A new draft in `folder`, open to be written; at the end it is gone, or renamed. OSError as of `open`."""
    _remove_left_behind(folder)
    while True:
        path = folder / f".{os.urandom(4).hex()}{SUFFIX}"
        try:
            file = open(path, "xb")  # noqa: SIM115  # "x": not through a link that somebody put there
        except FileExistsError:
            continue
        try:
            with file:
                if hold(file.fileno()) and _is_there(path, file.fileno()):
                    yield path, file
                    return
        finally:
            path.unlink(missing_ok=True)


def hold(descriptor: int) -> bool:
    """Lock an open file for this process; False where another one holds it, True also where there are no locks."""
    try:
        import fcntl
    except ImportError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def _is_there(path: Path, descriptor: int) -> bool:
    """Whether the open file still has its name: another process may have taken it for one left behind."""
    with suppress(OSError):
        return os.path.samestat(os.fstat(descriptor), os.lstat(path))
    return False


def _remove_left_behind(folder: Path) -> None:
    place = os.path.realpath(folder)
    if place in _looked_through:
        return
    _looked_through.add(place)
    with suppress(OSError), os.scandir(place) as entries:
        for name in [entry.path for entry in entries if NAME.fullmatch(entry.name)]:
            with suppress(OSError):
                _remove_unheld(name)


def _remove_unheld(name: str) -> None:
    try:
        import fcntl
    except ImportError:
        return
    descriptor = os.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # OSError where it is held, or cannot be
        os.unlink(name)
    finally:
        os.close(descriptor)
