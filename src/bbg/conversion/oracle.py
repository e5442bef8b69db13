"""How torch computes each value of the graph: the oracle that the engine is judged by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from bbg.conversion.views import Wire, in_order
from bbg.graph.types import Shape


@dataclass(frozen=True)
class Levels:
    """The byte u of channel c stands for `scale[c] * u + bias[c]`; both `[C]` of one dtype, no scale is 0."""

    scale: Tensor
    bias: Tensor

    def positions(self, x: Tensor) -> Tensor:
        """Where the float32 numbers `x` `[N, C, H, W]` lie between the bytes, 0 to 255 in the dtype of the scale."""
        return ((x - self.bias[:, None, None]) / self.scale[:, None, None]).clamp(0, 255)

    def bytes(self, x: Tensor) -> Tensor:
        """The bytes of the numbers `x`, as float32."""
        return self.positions(x).round().float()

    def numbers(self, u: Tensor) -> Tensor:
        """What the bytes `u` stand for, in float64."""
        return u.double() * self.scale.double()[:, None, None] + self.bias.double()[:, None, None]


@dataclass(frozen=True)
class Step:
    """How torch computes a value of the graph: `function` of the tensors at `inputs`, which gives it at `places`.

    `threshold`, `[C]`, is given where the value is bits: those of `inputs[0] >= threshold`; `levels` where it is the
    bytes of `inputs[0]`.
    """

    function: Callable[..., Tensor]
    inputs: tuple[Wire, ...]
    shape: Shape
    threshold: Tensor | None = None
    levels: Levels | None = None
    places: Tensor | None = None

    def __call__(self, *values: Tensor) -> Tensor:
        """The value, given those at `inputs` as `[N, C, H, W]`. They are copied: a layer may work in place."""
        given = [wire.of(value) for wire, value in zip(self.inputs, values, strict=True)]
        return in_order(self.function(*(tensor.clone() for tensor in given)), self.places, self.shape)

    @property
    def decides(self) -> bool:
        """Whether the value is one of few for each number of the input: bits or bytes."""
        return self.threshold is not None or self.levels is not None

    def departing(self, value: Tensor, x: Tensor) -> Tensor:
        """Where `value` is not what it decides for the input `x`: how far x is from the tie, over the largest |x|.

        Elsewhere 0. A departure at distance 0 counts as the least positive number.
        """
        if self.levels is not None:
            positions = self.levels.positions(x)
            distance = ((positions - value).abs() - 0.5) * self.levels.scale[:, None, None]
            departs = value != positions.round()
        else:
            assert self.threshold is not None
            distance = x - self.threshold[:, None, None]
            departs = (distance >= 0) != (value > 0)
            distance = distance.abs()
        tiny = torch.finfo(x.dtype).tiny
        relative = (distance.to(x.dtype) / x.abs().max()).clamp(min=tiny)
        return torch.where(departs, relative, torch.zeros(()))
