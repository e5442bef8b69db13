"""Variables of the environment that are meant for others: those of a cluster or a notebook must change nothing here."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any


@contextmanager
def hidden(*prefixes: str) -> Iterator[None]:
    """Within this context, no variable begins with one of `prefixes`."""
    taken = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith(prefixes)}
    try:
        yield
    finally:
        os.environ.update(taken)


def import_matplotlib() -> Any:
    """The module matplotlib; whoever draws calls this first. Figures are drawn into files, without any backend.

    By itself it cannot be imported where MPLBACKEND names a backend that is not installed, such as that of the notebook
    which started this process. A backend that is installed is chosen as ever: it may be for the rest of the program.
    """
    new = "matplotlib" not in sys.modules
    with hidden("MPLBACKEND"):
        import matplotlib as mpl
    if new and "MPLBACKEND" in os.environ:
        with suppress(ValueError):
            mpl.rcParams["backend"] = os.environ["MPLBACKEND"]
    return mpl
