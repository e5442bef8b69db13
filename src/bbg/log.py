"""What the library says while it works goes through the logger "bbg", as messages of level INFO.

A program decides where they go, as with every logger. Where it does not, `terminal` prints them.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

LOGGER = logging.getLogger("bbg")


class _Stdout(logging.Handler):
    """Prints each message as a plain line to `sys.stdout` as it is at that time: above a bar, which redirects it."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), flush=True)


@contextmanager
def terminal() -> Iterator[None]:
    """Within this context, messages of level INFO are lines on stdout, unless the program has asked for them itself.

    Only the logger "bbg" is changed, and it is restored at the end.
    """
    if LOGGER.isEnabledFor(logging.INFO):
        yield
        return
    handler, before = _Stdout(), (LOGGER.level, LOGGER.propagate)
    LOGGER.addHandler(handler)
    LOGGER.setLevel(logging.INFO)
    LOGGER.propagate = False  # else a handler of the program's would print the line once more
    try:
        yield
    finally:
        LOGGER.removeHandler(handler)
        LOGGER.setLevel(before[0])
        LOGGER.propagate = before[1]
