"""Trainings that are stopped, and their bits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from torch import Tensor

from bbg.data import ImageSet, Split
from bbg.training import step as step_of


def bits(state: dict[str, Tensor]) -> dict[str, bytes]:
    return {name: tensor.numpy().tobytes() for name, tensor in state.items()}


def first(data: Any, count: int) -> ImageSet:
    """The first `count` images of a set in memory."""
    return replace(data, images=data.images[:count], labels=data.labels[:count])


def with_classes(split: Split, classes: list[str]) -> Split:
    """The same images under other names."""
    return Split(*(replace(half, classes=tuple(classes)) for half in split))


class Stop(Exception):
    """Ends a training in the middle."""


def around_steps(
    monkeypatch: pytest.MonkeyPatch,
    before: Callable[[Any], None] | None = None,
    after: Callable[[int], None] | None = None,
) -> None:
    """Call `before(network)` ahead of each step of the next trainings, and `after(number of steps so far)` behind it.

    `after` is called when the weights have changed and before the training has counted the step.
    """
    step, count = step_of.train_step, 0

    def wrapped(fabric: Any, forward: Any, *args: Any) -> Any:
        nonlocal count
        if before is not None:
            before(forward.module)
        figures = step(fabric, forward, *args)
        count += 1
        if after is not None:
            after(count)
        return figures

    monkeypatch.setattr(step_of, "train_step", wrapped)


def after(steps: int, then: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Call `then` within step number `steps` of the next training."""
    around_steps(monkeypatch, after=lambda count: then() if count == steps else None)


def stop() -> None:
    raise Stop
