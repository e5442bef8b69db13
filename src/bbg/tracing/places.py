"""Where in the code of a network a call stands: the innermost line that is neither torch's, bbg's nor Python's own."""

from __future__ import annotations

import os
import sys
from functools import cache
from types import CodeType, FrameType
from typing import NamedTuple

import torch

_FOREIGN = (os.path.dirname(torch.__file__) + os.sep, os.path.dirname(os.path.dirname(__file__)) + os.sep)
_PYTHON = os.path.dirname(os.__file__) + os.sep
_MADE = ("<eval_with_key", "<frozen", "<attrs", "<__array_function__")  # code that stands in no file of a person's


class Place(NamedTuple):
    """A line of a file. `str()` shows the path from the current folder, or from the folder that it is imported from."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{_shown(self.file)}:{self.line}"


def place_of_call(end: CodeType) -> Place | None:
    """The line that is running now, as far as that is of a network: frames are looked at up to that of the code `end`.

    None where all are torch's or bbg's, as in an `nn.Sequential` of torch's layers.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code is not end:
        if _is_of_network(frame.f_code.co_filename):
            return Place(frame.f_code.co_filename, frame.f_lineno)
        frame = frame.f_back
    return None


def place_of_error(error: BaseException) -> Place | None:
    """The innermost line of a network that an error was raised in, below the one that caught it."""
    found, step = None, error.__traceback__
    while step is not None:
        if _is_of_network(step.tb_frame.f_code.co_filename):
            found = Place(step.tb_frame.f_code.co_filename, step.tb_lineno)
        step = step.tb_next
    return found


@cache
def _is_of_network(file: str) -> bool:
    if file.startswith((*_FOREIGN, *_MADE)):
        return False
    return not file.startswith(_PYTHON) or "site-packages" in file


@cache
def _shown(file: str) -> str:
    if file.startswith("<"):
        return file
    folders = [os.getcwd(), *sorted(filter(None, sys.path), key=len, reverse=True)]
    inside = (folder.rstrip(os.sep) + os.sep for folder in folders)
    return next((file.removeprefix(folder) for folder in inside if file.startswith(folder)), file)
