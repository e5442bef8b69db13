"""Trainings that are stopped, and their bits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from torch import Tensor

from bbg.training import loop as training


def bits(state: dict[str, Tensor]) -> dict[str, bytes]:
    return {name: tensor.numpy().tobytes() for name, tensor in state.items()}


class Stop(Exception):
    """Ends a training in the middle."""


def after(steps: int, then: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Call `then` within step number `steps` of the next training."""
    hook, count = training._Recorder.on_train_batch_end, 0

    def counted(self: Any, *args: Any) -> None:
        nonlocal count
        count += 1
        if count == steps:
            then()
        hook(self, *args)

    monkeypatch.setattr(training._Recorder, "on_train_batch_end", counted)


def stop() -> None:
    raise Stop
