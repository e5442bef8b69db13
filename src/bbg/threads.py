"""Threads that decode images beside the one that waits for them."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager


@contextmanager
def pool(threads: int) -> Iterator[ThreadPoolExecutor]:
    """`threads` threads, for the block. What has not begun at its end is cancelled, and what has begun is awaited.

    Ctrl-C does not wait for it: a single picture may take seconds.
    """
    executor, wait = ThreadPoolExecutor(threads), True
    try:
        yield executor
    except KeyboardInterrupt:
        wait = False
        raise
    finally:
        executor.shutdown(wait, cancel_futures=True)
