"""What TensorBoard finds in the folder of a training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest


def events_of(out: Path) -> Any:
    """The scalars and histograms of the run in `out`; the test is skipped where TensorBoard is not installed."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(out / "tensorboard"), size_guidance={"scalars": 0, "histograms": 0})
    events.Reload()
    return events


def scalars(out: Path, name: str) -> dict[int, float]:
    """The scalar called `name`, by step."""
    return {event.step: event.value for event in events_of(out).Scalars(name)}
