"""How long a call takes: the one loop that repeats it and the one summary of its durations.

Only the standard library is used, so that the Python of any environment can measure.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from statistics import median


def durations(call: Callable[[], object], seconds: float, least: int = 3, warm: int = 2) -> list[float]:
    """Durations of `call` in seconds: repeated for about `seconds`, at least `least` times, after `warm` more calls.

    A call that returns a float has timed itself: the float is its duration in seconds.
    """
    for _ in range(warm):
        call()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < least or time.perf_counter() < end:
        began = time.perf_counter()
        own = call()
        times.append(own if isinstance(own, float) else time.perf_counter() - began)
    return times


def spread(times: Iterable[float], parts: int = 1) -> dict[str, float]:
    """Least and median in microseconds, and how many there were.

    `parts`: how many equal things one duration is for, such as the images of a batch; the figures are for one of them.
    """
    micro = [1e6 * t / parts for t in times]
    return {"min_us": min(micro), "median_us": median(micro), "calls": len(micro)}
