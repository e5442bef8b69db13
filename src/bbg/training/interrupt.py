"""Ctrl-C and SIGTERM ask a training to end behind the present step."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class StopRequest:
    """Whether somebody asked."""

    asked = False


@contextmanager
def stop_request() -> Iterator[StopRequest]:
    """Within this context a first Ctrl-C or SIGTERM sets `asked`; a second Ctrl-C raises KeyboardInterrupt.

    So does the end of the processes that load images, where they were asked too, as by `timeout` or a cluster.
    """
    request = StopRequest()

    def ask(number: int, frame: Any) -> None:
        request.asked = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

    if threading.current_thread() is not threading.main_thread():  # only there signals can be handled
        yield request
        return
    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield request
    except RuntimeError as error:
        if request.asked and "DataLoader worker" in str(error):
            raise KeyboardInterrupt from error
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
