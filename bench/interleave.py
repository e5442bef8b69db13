"""Runtimes that take turns, each in a process of its own: what slows the machine down slows all of them alike.

A process of this kind builds its call, then `serve(call, facts)`; whoever measures starts it as a `Runner` and gives it
its turns with `race`. Only the standard library is used, so that any environment's Python can serve.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any

MARK = "turns: "  # before each line of the exchange; a library may print what it likes
REST = 0.01  # seconds between turns: threads of the runtime that was last stop spinning


def durations(call: Callable[[], object], seconds: float, least: int = 3) -> list[float]:
    """Durations of `call`, repeated for about `seconds`, at least `least` times, after two warming calls.

    A call that returns a float has timed itself, in seconds.
    """
    call()
    call()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < least or time.perf_counter() < end:
        began = time.perf_counter()
        own = call()
        times.append(own if isinstance(own, float) else time.perf_counter() - began)
    return times


def serve(call: Callable[[], object], facts: Mapping[str, Any]) -> None:
    """Answer each request for a turn with its durations, until nobody asks any more."""
    print(MARK + json.dumps(facts), flush=True)
    for line in sys.stdin:
        print(MARK + json.dumps(durations(call, float(line))), flush=True)


class Runner:
    """A serving process; `facts` is what it says about itself. Raises RuntimeError where it ends instead."""

    def __init__(self, command: Sequence[str], **environment: str) -> None:
        self._errors = tempfile.TemporaryFile("w+")
        self._process = subprocess.Popen(
            command,
            env={**os.environ, **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )
        self.facts: dict[str, Any] = self._answer()

    def turn(self, seconds: float) -> list[float]:
        """Its durations in `seconds` of work."""
        assert self._process.stdin
        self._process.stdin.write(f"{seconds}\n")
        self._process.stdin.flush()
        times: list[float] = self._answer()
        return times

    def close(self) -> None:
        """End the process."""
        self._process.communicate()
        self._errors.close()

    def _answer(self) -> Any:
        assert self._process.stdout
        for line in self._process.stdout:
            if line.startswith(MARK):
                return json.loads(line[len(MARK) :])
        self._process.wait()
        self._errors.seek(0)
        lines = self._errors.read().strip().splitlines() or [f"it ended with status {self._process.returncode}"]
        raise RuntimeError(lines[-1].removeprefix("RuntimeError: "))


def race(runners: Mapping[str, Runner], rounds: int, seconds: float = 0.05) -> dict[str, list[float]]:
    """Durations by name: `rounds` times, each runs for `seconds` in turn."""
    times: dict[str, list[float]] = {name: [] for name in runners}
    for _ in range(rounds):
        for name, runner in runners.items():
            try:
                times[name] += runner.turn(seconds)
            except (RuntimeError, BrokenPipeError) as error:
                raise RuntimeError(f"{name}: {error}") from None
            time.sleep(REST)
    return times


def spread(times: Sequence[float]) -> dict[str, float]:
    """Least and median in microseconds, and how many there were."""
    return {"min_us": 1e6 * min(times), "median_us": 1e6 * median(times), "calls": len(times)}
