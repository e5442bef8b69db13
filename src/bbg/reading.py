"""Files that are read: whole, regular, and no larger than what is asked for can be.

A pipe that nobody writes never begins and a device never ends, so either would hold up whoever reads a path that a
stranger chose.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

PART = 2**20  # bytes
TEXT = 16 * 2**20  # bytes of a file of text, such as a recipe, at most


@contextmanager
def regular_file(path: str | os.PathLike[str], most: int | None = None) -> Iterator[BinaryIO]:
    """The file `path`, open to be read. OSError, too, for what is no regular file or has more than `most` bytes."""

    def without_waiting(name: str, flags: int) -> int:
        return os.open(name, flags | getattr(os, "O_NONBLOCK", 0))

    if "\0" in os.fsdecode(path):
        raise OSError(errno.EINVAL, "its name holds a zero byte")
    with open(path, "rb", opener=without_waiting) as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "is a pipe or a device, not a file")
        if most is not None and found.st_size > most:
            raise OSError(errno.EFBIG, f"has {found.st_size:,} bytes, at most {most:,} are read")
        yield file


def contents(path: str | os.PathLike[str], most: int) -> bytes:
    """The bytes of the `regular_file` at `path`."""
    with regular_file(path, most) as file:
        data = file.read(os.fstat(file.fileno()).st_size + 1)  # memory for no more than there is
        while len(data) <= most and (part := file.read(PART)):  # it grew, or its file system tells no size
            data += part
    if len(data) > most:
        raise OSError(errno.EFBIG, f"has more than {most:,} bytes")
    return data
