"""What travels through a network that is being lowered: a value of the graph, and how torch has it.

Reshaping, transposing, flattening and slicing compute nothing: they change where torch has which number of a value. A
`Wire` keeps that as `places`, and any such function is lowered by applying it to them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from bbg.graph.kinds import Shape


def channels_last(shape: Shape) -> Tensor:
    """The places of a value `(C, H, W)` that torch has as `[N, H, W, C]`."""
    return in_rows(shape).permute(1, 2, 0)


def in_rows(shape: Shape) -> Tensor:
    """The places of a value as it is, `[C, H, W]`: 0, 1, 2, ..."""
    return torch.arange(shape[0] * shape[1] * shape[2]).reshape(shape)


def in_order(tensor: Tensor, places: Tensor | None, shape: Shape | tuple[int, int]) -> Tensor:
    """The numbers that torch has at `places`, each place once, as `[N, *shape]`."""
    if places is not None:
        given = tensor.flatten(1)
        tensor = torch.empty_like(given)
        tensor[:, places.flatten()] = given
    return tensor.reshape(len(tensor), *shape)


@dataclass(frozen=True)
class Wire:
    """A tensor on its way through the network: numbers of the value `name` of the graph.

    `value` is what torch computes there for the example, `[N, C, H, W]`. `places` says how torch has it: behind the
    batch axis, of torch's shape, each the position in the `C*H*W` numbers of the value; None: as it is.
    """

    name: str
    value: Tensor
    places: Tensor | None = None

    @property
    def shape(self) -> Shape:
        """`(C, H, W)`."""
        channels, height, width = self.value.shape[1:]
        return channels, height, width

    @property
    def order(self) -> Tensor:
        """`places`, also where they are those of the value as it is."""
        return in_rows(self.shape) if self.places is None else self.places

    @cached_property
    def tensor(self) -> Tensor:
        """The value as torch has it."""
        return self.of(self.value)

    def of(self, value: Tensor) -> Tensor:
        """`value`, `[N, C, H, W]`, as torch has it."""
        return value if self.places is None else value.flatten(1)[:, self.places]

    def at(self, places: Tensor) -> Wire:
        """The same value, as torch has it at `places`."""
        as_it_is = torch.equal(places, in_rows(self.shape))
        return Wire(self.name, self.value, None if as_it_is else places)

    @property
    def flat(self) -> bool:
        """Whether torch has it as `[N, features]`."""
        return self.order.ndim == 1

    @property
    def in_rows(self) -> bool:
        """Whether torch has each number once and in the order of the value."""
        return self.places is None or torch.equal(self.places.flatten(), in_rows(self.shape).flatten())

    @property
    def last(self) -> bool:
        """Whether torch has it as `[N, H, W, C]`."""
        return self.order.ndim == 3 and torch.equal(self.order, channels_last(self.shape))

    @property
    def whole(self) -> bool:
        """Whether torch has each number of the value once, in any order."""
        if self.places is None:
            return True
        total = self.value[0].numel()
        return self.places.numel() == total and bool((self.places.flatten().bincount(minlength=total) == 1).all())

    def channels(self, places: Tensor) -> Tensor | None:
        """The channels of the value of which `places` `[C', H, W]` are the maps, int64 `[C']`; None: they are not."""
        _, height, width = self.shape
        area, first = height * width, places[:, :1, :1]
        maps = first + torch.arange(area).reshape(height, width)
        fits = places.shape[1:] == (height, width) and torch.equal(places, maps) and not (first % area).any()
        return (first // area).flatten() if fits else None


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
