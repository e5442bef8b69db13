"""Views: a tensor of the traced network as numbers of a graph value, in torch's arrangement.

Reshaping, transposing, flattening and slicing compute nothing. They change at which place torch has which number of a
value. A `TracedTensor` is a graph value plus an index map, its `layout`; a function that only moves numbers is lowered
by applying it to the layout, and emits no op. A `JoinedTensor` is what `torch.cat` makes where no op joins: a layout
over the numbers of several values, which only outputs may hold.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, permutations

import numpy as np
import torch
from torch import Tensor

from bbg.graph.types import Shape


def value_layout(shape: Shape) -> Tensor:
    """The layout of a value as it is, `[C, H, W]`: 0, 1, 2, ..."""
    return torch.arange(shape[0] * shape[1] * shape[2]).reshape(shape)


def channels_last(shape: Shape) -> Tensor:
    """The layout of a value `(C, H, W)` that torch has as `[N, H, W, C]`."""
    return value_layout(shape).permute(1, 2, 0)


def to_value(tensor: Tensor, layout: Tensor | None, shape: Shape | tuple[int, int]) -> Tensor:
    """The value `[N, *shape]` that torch has as `tensor` in `layout`, which must hold each index once."""
    if layout is not None:
        given = tensor.reshape(len(tensor), -1)
        tensor = torch.empty_like(given)
        tensor[:, layout.flatten()] = given
    return tensor.reshape(len(tensor), *shape)


@dataclass(frozen=True)
class TracedTensor:
    """A tensor of the network: numbers of the graph value `name`.

    `value` is what torch computes there for the example, `[N, C, H, W]`. `layout` has torch's shape without the batch
    axis; each element is the index of that number among the `C*H*W` of the value. None: `[C, H, W]`, as the value is.
    """

    name: str
    value: Tensor
    layout: Tensor | None = None

    @property
    def shape(self) -> Shape:
        """Shape of the value, `(C, H, W)`."""
        channels, height, width = self.value.shape[1:]
        return channels, height, width

    @property
    def numbers(self) -> int:
        """`C * H * W`."""
        return self.value[0].numel()

    @property
    def indices(self) -> Tensor:
        """`layout`, given also where it is None."""
        return value_layout(self.shape) if self.layout is None else self.layout

    @cached_property
    def tensor(self) -> Tensor:
        """The example's tensor as torch has it."""
        return self.arrange(self.value)

    def arrange(self, value: Tensor) -> Tensor:
        """`value`, `[N, C, H, W]`, as torch has it."""
        return value if self.layout is None else value.flatten(1)[:, self.layout]

    def with_layout(self, layout: Tensor) -> TracedTensor:
        """The same value in another layout."""
        as_it_is = torch.equal(layout, value_layout(self.shape))
        return TracedTensor(self.name, self.value, None if as_it_is else layout)

    @property
    def is_flat(self) -> bool:
        """Whether torch has it as `[N, features]`."""
        return self.indices.ndim == 1

    @property
    def is_channels_last(self) -> bool:
        """Whether torch has it as `[N, H, W, C]`."""
        return self.indices.ndim == 3 and torch.equal(self.indices, channels_last(self.shape))

    @property
    def is_complete(self) -> bool:
        """Whether torch has each number of the value once, in any order."""
        if self.layout is None:
            return True
        counts = self.layout.flatten().bincount(minlength=self.numbers)
        return self.layout.numel() == self.numbers and bool((counts == 1).all())

    def channel_indices(self) -> tuple[Tensor, bool] | None:
        """Which channels of the value torch has, int64 `[C']`, and whether as the last axis; None: no whole maps."""
        layout = self.indices
        first = last = layout
        if layout.ndim == 1 and layout.numel() % (self.shape[1] * self.shape[2]) == 0:
            first, last = layout.reshape(-1, *self.shape[1:]), layout.reshape(*self.shape[1:], -1)
        if first.ndim != 3:
            return None
        for maps, is_last in ((first, False), (last.permute(2, 0, 1), True)):
            index = self._channels_of(maps)
            if index is not None:
                return index, is_last
        return None

    def _channels_of(self, maps: Tensor) -> Tensor | None:
        """The channels of which `maps`, a layout `[C', H, W]`, are the whole maps; None where they are not."""
        _, height, width = self.shape
        area, first = height * width, maps[:, :1, :1]
        whole = first + torch.arange(area).reshape(height, width)
        fits = maps.shape[1:] == (height, width) and torch.equal(maps, whole) and not (first % area).any()
        return (first // area).flatten() if fits else None

    @cached_property
    def axes(self) -> tuple[int | None, ...] | None:
        """Of each axis that torch has, which of the value it is, 0 to 2; None for one of size 1.

        None where torch has it in no order of the value's axes.
        """
        for order in permutations(range(3)):
            long = [axis for axis in order if self.shape[axis] > 1]
            left = iter(long)
            if [n for n in self.indices.shape if n > 1] != [self.shape[axis] for axis in long]:
                continue
            if torch.equal(self.indices.flatten(), value_layout(self.shape).permute(order).flatten()):
                return tuple(next(left) if n > 1 else None for n in self.indices.shape)
        return None

    def lines(self) -> tuple[Tensor, Tensor] | None:
        """Which rows and columns torch has of each of its channels, as a map `[C', H', W']`; None where it has no
        such map.
        """
        if self.indices.ndim != 3:
            return None
        width, area = self.shape[2], self.shape[1] * self.shape[2]
        rows, columns = self.indices[0, :, 0] % area // width, self.indices[0, 0] % width
        channels = self.indices[:, :1, :1] // area
        regular = torch.equal(self.indices, channels * area + rows[:, None] * width + columns)
        return (rows, columns) if regular else None

    def phases(self) -> tuple[tuple[int, int], Tensor] | None:
        """The stride, and the channels of the phases, int64 `[p, q, C']`: number (y, x) of a map that torch has is
        number (y // p, x // q) of channel `[y % p, x % q]`. None where torch has no such map `[C', p H, q W]`.
        """
        _, height, width = self.shape
        if self.indices.ndim != 3 or self.indices.shape[1] % height or self.indices.shape[2] % width:
            return None
        p, q = self.indices.shape[1] // height, self.indices.shape[2] // width
        split = self.indices.reshape(-1, height, p, width, q).permute(2, 4, 0, 1, 3)  # [p, q, C', H, W]
        channels = split[..., 0, 0] // (height * width)
        whole = channels[..., None, None] * height * width + torch.arange(height * width).reshape(height, width)
        return ((p, q), channels) if torch.equal(split, whole) else None

    def describe(self) -> str:
        """Value and layout, for a sentence."""
        return f"a map {list(self.shape)} rearranged to [N, {', '.join(map(str, self.indices.shape))}]"


@dataclass(frozen=True, kw_only=True)
class Condition(TracedTensor):
    """1 where what is compared, `of`, is `above` its threshold `[C]`, or below, and 0 elsewhere."""

    of: TracedTensor
    threshold: np.ndarray
    above: bool


@dataclass(frozen=True)
class JoinedTensor:
    """Several tensors as one: `indices` is a layout over the numbers of the values of all `parts`, one after another.

    `qualname`: of the call that joins them.
    """

    parts: tuple[TracedTensor, ...]
    indices: Tensor
    qualname: str

    @staticmethod
    def of(tensors: tuple[View, ...], axis: int, qualname: str) -> JoinedTensor:
        """What `torch.cat(tensors, axis)` gives, `axis` counted with the batch."""
        parts = tuple(part for x in tensors for part in (x.parts if isinstance(x, JoinedTensor) else (x,)))
        starts = accumulate((x.numbers for x in tensors), initial=0)
        layouts = [x.indices + start for x, start in zip(tensors, starts, strict=False)]
        return JoinedTensor(parts, torch.cat(layouts, axis - 1), qualname)

    def along(self, axis: int) -> list[TracedTensor] | None:
        """Its slices along an axis of torch's, that of the images left out; None where one is of several values."""
        starts = [*accumulate((part.numbers for part in self.parts), initial=0)]
        found = []
        for layout in self.indices.unbind(axis):
            low, high = (int(n) for n in layout.aminmax())
            fits = [part for part, start in zip(self.parts, starts, strict=False) if start <= low]
            start = starts[len(fits) - 1]
            if high >= start + fits[-1].numbers:
                return None
            found.append(fits[-1].with_layout(layout - start))
        return found

    @property
    def numbers(self) -> int:
        """Numbers of all values."""
        return sum(part.numbers for part in self.parts)

    @property
    def value(self) -> Tensor:
        """The example's numbers of all values, `[N, numbers]`."""
        return torch.cat([part.value.flatten(1) for part in self.parts], 1)

    @cached_property
    def tensor(self) -> Tensor:
        """The example's tensor as torch has it."""
        return self.value[:, self.indices]

    def with_layout(self, layout: Tensor) -> JoinedTensor:
        """The same values in another layout."""
        return JoinedTensor(self.parts, layout, self.qualname)

    def describe(self) -> str:
        """Values and layout, for a sentence."""
        maps = ", ".join(str(list(part.shape)) for part in self.parts[:3])
        maps += f" and {len(self.parts) - 3} more" if len(self.parts) > 3 else ""
        return f"{self.qualname!r}, a join of maps {maps} to [N, {', '.join(map(str, self.indices.shape))}]"


View = TracedTensor | JoinedTensor


class StackedTensors(tuple[TracedTensor, ...]):
    """What `torch.stack` makes of tensors along a first axis, before that of the images: still several tensors."""
