"""What travels through a network that is being lowered: a value of the graph, and how torch has it.

Reshaping, transposing, flattening and slicing compute nothing: they change where torch has which number of a value. A
`Wire` keeps that as `places`, and any such function is lowered by applying it to them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from bbg.graph.types import Shape


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
