"""Sequences `[N, C, L]`: how their channels lie in a value `(C, H, W)`, as lines along its rows or its columns."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from bbg.conversion.builder import MOST_PARTS, Builder
from bbg.conversion.views import JoinedTensor, TracedTensor, View
from bbg.errors import BbgError
from bbg.graph.types import Shape


@dataclass(frozen=True)
class Lines:
    """The lines of a value that torch has as the channels of a sequence.

    `along`: the axis of the map that they follow, 0 for a line from top to bottom, 1 for one from left to right.
    `order`, int64 `[C']`: of each channel the number of its line, `c W + x` or `c H + y`.
    """

    x: TracedTensor
    along: int
    order: Tensor

    @staticmethod
    def of(x: TracedTensor) -> Lines | None:
        """The lines of the whole value that torch has as `[N, C', L]`, each once; None where it is anything else."""
        _, height, width = x.shape
        if x.indices.ndim != 2 or not x.is_complete:
            return None
        for along, length, step in ((1, width, 1), (0, height, width)):
            first = x.indices[:, :1]
            if torch.equal(x.indices, first + torch.arange(length) * step):
                return Lines(
                    x, along, (first // width if along else first // (height * width) * width + first % width)[:, 0]
                )
        return None

    @property
    def map(self) -> TracedTensor:
        """The value as a map `[N, C, H, W]`."""
        return TracedTensor(self.x.name, self.x.value)

    @property
    def across(self) -> int:
        """How many lines a channel of the value has."""
        return self.x.shape[2 - self.along]

    @property
    def in_order(self) -> bool:
        """Whether torch has the lines as they lie in the value."""
        return torch.equal(self.order, torch.arange(len(self.order)))

    def pair(self, of_line: int, other: int) -> tuple[int, int]:
        """What is `of_line` along the lines, and `other` across them, as (vertical, horizontal)."""
        return (other, of_line) if self.along else (of_line, other)

    def layout(self, shape: Shape) -> Tensor:
        """The layout `[C', L']` of a value of this shape, which has the same lines, but of another length."""
        _, height, width = shape
        if self.along:
            return self.order[:, None] * width + torch.arange(width)
        first = self.order // width * height * width + self.order % width
        return first[:, None] + torch.arange(height) * width


def lines_of(builder: Builder, given: View, single: bool = False) -> Lines:
    """The lines of a sequence; ops make a value that has them where need be. `single`: one for each channel, in order.

    BbgError where torch has something else than lines of a map, or a whole map as one line each.
    """
    x = builder.materialize(given) if isinstance(given, JoinedTensor) else given
    lines = Lines.of(x)
    if lines is not None and (not single or (lines.across == 1 and lines.in_order)):
        return lines
    if x.indices.ndim == 2:
        for axis in (1, 2):
            try:
                made = builder.as_nchw(x.with_layout(x.indices.unsqueeze(axis)))
            except BbgError:
                builder.refusal = None
                continue
            lines = Lines.of(made.with_layout(made.indices.squeeze(axis)))
            if lines is not None:
                return lines
        for turned in (False, True):
            lines = _of_all_pixels(builder, x, turned)
            if lines is not None:
                return lines
    raise builder.error(
        f"its input is {x.describe()}; give it [N, C, L], a map of one row or its pixels", of_input=True
    )


def _of_all_pixels(builder: Builder, x: TracedTensor, turned: bool) -> Lines | None:
    """A flattened map, `[N, C, H W]`, as a value of one column; None where it is anything else. `turned`: column by
    column, as a value of one row.

    Its columns, one behind the other as channels, are phases of that: number `(i, 0)` is `(i // W, 0)` of phase
    `i % W`.
    """
    _, height, width = x.shape
    length, phases = (width, height) if turned else (height, width)
    if x.indices.shape[1] != length * phases or phases > MOST_PARTS:
        return None
    axis = 1 if turned else 2
    parts = x.indices.unflatten(1, (length, phases)).permute(2, 0, 1)  # [phases, C', length]
    try:
        apart = builder.as_nchw(x.with_layout(parts.flatten(0, 1).unsqueeze(axis)))
        whole = apart.indices.reshape(parts.shape).permute(1, 2, 0).flatten(1)
        made = builder.as_nchw(apart.with_layout(whole.unsqueeze(axis)))
    except BbgError:
        builder.refusal = None
        return None
    return Lines.of(made.with_layout(made.indices.squeeze(axis)))


def sequence(value: TracedTensor) -> TracedTensor:
    """A value of one row or one column as torch has a sequence, `[N, C, L]`."""
    return value.with_layout(value.indices.reshape(value.shape[0], math.prod(value.shape[1:])))
