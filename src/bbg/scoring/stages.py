"""How long each stage of many images takes: decoding, the network, what is made of its answer, drawing, writing."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock


class Stages:
    """A clock of named stages, for any number of threads.

    stages = Stages()
    with stages("network"):
        engine.run(pixels)
    stages.seconds["network"], stages.processor["network"]

    `seconds`: what each stage took, the waits for a core or a lock included, summed over its uses and the threads.
    `processor`: that which the thread itself was running; an engine with threads of its own works in these too.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.processor: dict[str, float] = {}
        self._lock = Lock()

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Count what is done in this context; also what ends in an exception."""
        began, own = time.perf_counter(), time.thread_time()
        try:
            yield
        finally:
            own, took = time.thread_time() - own, time.perf_counter() - began
            with self._lock:
                self.seconds[name] = self.seconds.get(name, 0.0) + took
                self.processor[name] = self.processor.get(name, 0.0) + own

    def told(self, images: int) -> str:
        """The stages in one line, per image: `decoding 3.12 ms (3.01 on a core), network ...`."""
        each = 1e3 / max(images, 1)
        return ", ".join(
            f"{name} {each * took:.2f} ms ({each * self.processor[name]:.2f} on a core)"
            for name, took in self.seconds.items()
        )
