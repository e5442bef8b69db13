"""Processes that take turns: what slows the machine down slows all of them alike.

A process of this kind builds its call, then calls `serve(call, facts)`. Whoever measures starts it as a `Runner` and
gives it its turns with `run_interleaved`. Only the standard library is used, so that the Python of any environment can
serve.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

from bench.measure import durations

ROOT = Path(__file__).parents[1]
MARK = "interleave: "  # before each line of the exchange; a library may print what it likes
REST = 0.01  # seconds between turns: threads of the process that was last stop spinning


def serve(call: Callable[[], object], facts: Mapping[str, Any]) -> None:
    """Answer each request for a turn with its durations, until the other side closes the exchange."""
    print(MARK + json.dumps(facts), flush=True)
    for line in sys.stdin:
        print(MARK + json.dumps(durations(call, float(line))), flush=True)


class Runner:
    """A serving process, started in the root of the checkout; `facts` is what it says about itself.

    Raises RuntimeError with the last line of its errors where it ends instead.
    """

    def __init__(self, command: Sequence[str], **environment: str) -> None:
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115  (close() closes it)
        self._process = subprocess.Popen(
            command,
            cwd=ROOT,
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


class Turns(Protocol):
    """Whatever takes turns."""

    def turn(self, seconds: float) -> list[float]:
        """Its durations in about `seconds` of work."""


def run_interleaved(runners: Mapping[str, Turns], rounds: int, seconds: float = 0.05) -> dict[str, list[list[float]]]:
    """Durations by name and round: in each of the `rounds`, every runner works for `seconds`.

    Each round begins with another runner than the one before, so that no runner always follows the same one.
    """
    times: dict[str, list[list[float]]] = {name: [] for name in runners}
    names = list(runners)
    for number in range(rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            try:
                times[name].append(runners[name].turn(seconds))
            except (RuntimeError, BrokenPipeError) as error:
                raise RuntimeError(f"{name}: {error}") from None
            time.sleep(REST)
    return times


def pooled(times: Mapping[str, list[list[float]]]) -> dict[str, list[float]]:
    """The durations of all rounds together, by name."""
    return {name: list(chain.from_iterable(rounds)) for name, rounds in times.items()}
