"""The builder: what a lowering rule works with. It appends ops, also those that bring a tensor into another layout."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import permutations, product
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bbg.conversion.appender import Appender
from bbg.conversion.views import JoinedTensor, TracedTensor, View, channels_last, to_value, value_layout
from bbg.errors import BbgError
from bbg.graph import Output, Part
from bbg.graph.types import Shape

MOST_PARTS = 64  # of which one tensor is put together


@dataclass
class Builder(Appender):
    """An appender that knows layouts. `selected`: what ops have brought into another layout, by what was asked for."""

    selected: dict[tuple[Any, ...], TracedTensor] = field(default_factory=dict)

    def materialize(self, x: View) -> TracedTensor:
        """`x` with every number of its value once: where torch has only some of the channels, an op selects them."""
        if isinstance(x, JoinedTensor):
            alone = JoinedTensor(x.parts, x.indices[None], x.qualname).along(0)  # a slice of it may be of one value
            if alone is not None:
                return self.materialize(alone[0])
            joined = self._join(x)
            if joined is not None:
                return self.materialize(joined)
            raise self.error(
                f"its input is {x.describe()}, which only an output of the network may be; "
                "apply the layer to each map before they are joined",
                of_input=True,
            )
        return x if x.is_complete else self._select(x)

    def _join(self, x: JoinedTensor) -> TracedTensor | None:
        """`x` of one value, which has the channels of all; None where their maps differ."""
        if len({part.shape[1:] for part in x.parts}) > 1:
            return None
        key = ("concat", *(part.name for part in x.parts))
        if key not in self.selected:
            whole = tuple(TracedTensor(part.name, part.value) for part in x.parts)
            self.selected[key] = self.add("concat", whole, lambda *given: torch.cat(given, 1), suffix=".join")
        return self.selected[key].with_layout(x.indices)

    def as_nchw(self, x: TracedTensor) -> TracedTensor:
        """`x` as torch has a map, `[N, C, H, W]`; an op brings the channels into order where need be."""
        if x.layout is None:
            return x
        selected = self._select(x) if x.layout.ndim == 3 else x
        if selected.layout is not None:
            raise self.error(f"its input is no map [N, C, H, W], but {x.describe()}; give it the map", of_input=True)
        return selected

    def in_channel_order(self, x: TracedTensor) -> TracedTensor:
        """`x`, its channels brought into order where torch has whole maps.

        As torch has them: `[N, C, H, W]`, `[N, H, W, C]`, flat, or in groups, `[N, ..., C, H, W]`.
        """
        if x.layout is None or x.layout.ndim == 2:
            return x
        if x.layout.ndim > 3:
            maps = self.in_channel_order(x.with_layout(x.layout.flatten(0, -3)))
            return maps.with_layout(maps.indices.reshape(x.layout.shape))
        found = x.channel_indices()
        if found is None:
            return self._rearranged(x) or x
        return x if torch.equal(found[0], torch.arange(x.shape[0])) else self._select(x)

    def as_output(self, name: str, x: View) -> Output:
        """The output `name` that returns `x`: whole values, each in some order of its axes, one after another."""
        title = f"output {name!r}" if name else "the output"
        if not x.indices.ndim:
            raise BbgError(f"{title}: the network returns a number for each image, [N]; keep an axis, as keepdim=True")
        ways: list[Callable[[], View | None]] = [lambda: x]
        if isinstance(x, TracedTensor):
            ways += [partial(self.compact, x), partial(self._rearranged, x)]
        for attempt in ways:
            made = attempt()
            parts = None if made is None else _parts(made)
            if parts is not None:
                return Output(name, parts, tuple(x.indices.shape))
        raise BbgError(
            f"{title}: the network returns {x.describe()}; return whole channels of maps, and take parts of them "
            "outside"
        )

    def compact(self, x: TracedTensor) -> TracedTensor:
        """`x` of a value that has the channels which torch has, in torch's order; `x` where torch has parts of maps."""
        if x.layout is None:
            return x
        area = x.shape[1] * x.shape[2]
        channels = list(dict.fromkeys((x.indices.flatten() // area).tolist()))
        is_whole = len(channels) * area == x.indices.numel() == len(set(x.indices.flatten().tolist()))
        if not is_whole or channels == list(range(x.shape[0])):
            return x
        position = torch.zeros(x.shape[0], dtype=torch.int64)
        position[channels] = torch.arange(len(channels))
        selected = self._select_channels(x, channels)
        return selected.with_layout(position[x.indices // area] * area + x.indices % area)

    def spread(self, x: TracedTensor, shape: torch.Size, last: bool = False) -> TracedTensor:
        """`x` as torch broadcasts it to `shape`, which has the axis of the images too; `last`: to `[N, H, W, C]`."""
        if x.tensor.shape == shape:
            return x
        layout = torch.broadcast_to(x.indices, shape[1:])
        if not last:
            return self.materialize(x.with_layout(layout))
        maps = self.materialize(x.with_layout(layout.permute(2, 0, 1)))
        return maps.with_layout(maps.indices.permute(1, 2, 0))

    def frame(
        self,
        x: TracedTensor,
        first: tuple[int, int],
        size: tuple[int, int],
        function: Callable[[Tensor], Tensor],
        suffix: str = "",
    ) -> TracedTensor:
        """The op that gives the map from row and column `first` on, of this `size`, with 0 outside of `x`: a depthwise
        convolution by one 1.

        With p rows of padding and its 1 in row j of k, row i of its result is row `i - p + j` of x, and there are
        `H + 2p - k + 1` of them. So

            j = first + p,    k = H + 2p - (count - 1)

        and p is the least number for which `0 <= j < k`.
        """
        kernel, tap, padding = [], [], []
        for begin, count, have in zip(first, size, x.shape[1:], strict=True):
            p = max(0, -begin, begin + count - have)
            kernel.append(have + 2 * p - (count - 1))
            tap.append(begin + p)
            padding.append(p)
        channels = x.shape[0]
        weight = np.zeros((channels, *kernel, 1), np.float32)
        weight[:, tap[0], tap[1]] = 1
        window: dict[str, Any] = {"kernel": tuple(kernel), "padding": tuple(padding)}
        window |= {"groups": channels, "channels": channels}
        return self.add("conv", (x,), function, suffix=suffix, tensors={"weight": weight}, **window)

    def _take(self, x: TracedTensor) -> TracedTensor | None:
        """`x` of a value that has the rows and columns which torch has, in its order; None where it has no such map."""
        found = x.lines()
        if found is None:
            return None
        rows, columns = found
        size = (len(rows), len(columns))
        key = ("take", x.name, tuple(rows.tolist()), tuple(columns.tolist()))
        if key not in self.selected:
            self.selected[key] = self.add(
                "take",
                (TracedTensor(x.name, x.value),),
                lambda v: v[:, :, rows][:, :, :, columns],
                suffix=".part",
                tensors={"index": torch.cat(found).to(torch.int32).numpy()},
                size=size,
            )
        channels = x.indices[:, :1, :1] // (x.shape[1] * x.shape[2])
        return self.selected[key].with_layout(channels * math.prod(size) + value_layout((1, *size)))

    def _rearranged(self, x: TracedTensor) -> TracedTensor | None:
        """`x`, maps `[N, C, H, W]` or `[N, H, W, C]`, of a value that has torch's maps; None where no op makes them."""
        if x.indices.ndim != 3:
            return None
        orders = (((0, 1, 2), (0, 1, 2)), ((2, 0, 1), (1, 2, 0)))
        makers = (self._take, self._depth_to_space, self._gather_parts)  # the cheapest first, in either order
        for make, (order, back) in product(makers, orders):
            made = make(x.with_layout(x.indices.permute(order)))
            if made is not None:
                whole = made if made.layout is None else self._select(made)
                return whole.with_layout(whole.indices.permute(back))
        return None

    def _depth_to_space(self, x: TracedTensor) -> TracedTensor | None:
        """`x` of a value in which channels have moved into the map, as torch has them; None where they have not."""
        found = x.phases()
        return None if found is None else self._shuffle(x, *found)

    def _shuffle(self, x: TracedTensor, stride: tuple[int, int], channels: Tensor) -> TracedTensor:
        """The op that moves these `channels` of the phases into the map; one op for all who ask for the same."""
        key = ("depth_to_space", x.name, stride, tuple(channels.flatten().tolist()))
        if key not in self.selected:
            rows, columns = stride

            def shuffle(v: Tensor) -> Tensor:
                split = v.reshape(len(v), rows, columns, -1, *v.shape[2:])
                return split.permute(0, 3, 4, 1, 5, 2).reshape(len(v), split.shape[3], rows * v.shape[2], -1)

            phases = self._select_channels(x, channels.flatten().tolist())
            self.selected[key] = self.add("depth_to_space", (phases,), shuffle, suffix=".shuffle", stride=stride)
        return self.selected[key]

    def _gather_parts(self, x: TracedTensor) -> TracedTensor | None:
        """`x` of a value of channels that are different parts of maps, one behind the other; None where some are no
        grids.
        """
        area = x.shape[1] * x.shape[2]
        places = x.indices % area
        starts = [c for c in range(len(places)) if c == 0 or not torch.equal(places[c], places[c - 1])]
        parts = [
            x.with_layout(x.indices[first:last]) for first, last in zip(starts, [*starts[1:], len(places)], strict=True)
        ]
        if not 2 <= len(parts) <= MOST_PARTS or any(part.lines() is None for part in parts):
            return None
        given = tuple(self.as_nchw(part) for part in parts)
        return self.add("concat", given, lambda *values: torch.cat(values, 1), suffix=".parts")

    def whole_map(self, x: TracedTensor) -> TracedTensor:
        """`x` of a value that has no more than the pixels which torch has, where these are rows and columns."""
        return x if x.layout is None or x.channel_indices() is not None or x.lines() is None else self._select(x)

    def _select(self, x: TracedTensor) -> TracedTensor:
        """`x` of a value with the channels that torch has, in its order; BbgError where torch has no whole maps."""
        found = x.channel_indices()
        if found is None:
            made = self._rearranged(x)
            if made is not None:
                return made
            raise self.error(f"its input is {x.describe()}; give it whole channels of one map", of_input=True)
        index, last = found
        selected = self._select_channels(x, index.tolist())
        layout = channels_last(selected.shape) if last else value_layout(selected.shape)
        return selected.with_layout(layout.flatten() if x.is_flat else layout)

    def _select_channels(self, x: TracedTensor, channels: list[int]) -> TracedTensor:
        """The op that selects these channels of a value; one op for all who ask for the same."""
        key = ("select", x.name, tuple(channels))
        if key not in self.selected:
            self.selected[key] = self.add(
                "select",
                (TracedTensor(x.name, x.value),),
                lambda v: v[:, channels],
                suffix=".select",
                tensors={"index": np.array(channels, np.int32)},
                channels=len(channels),
            )
        return self.selected[key]

    def per_channel(self, x: TracedTensor, vector: Tensor | None, what: str, axis: int | None = 1) -> np.ndarray | None:
        """`vector` as float64 `[C]`, one number per channel of the value.

        It is one number, or has one for each step along `axis` of the tensor as torch has it, or with `axis` None it is
        a tensor that torch broadcasts.
        """
        if vector is None:
            return None
        numbers, shape = vector.detach().double(), x.tensor.shape[1:]
        if axis is not None and numbers.numel() > 1:
            numbers = numbers.reshape([-1 if i + 1 == axis else 1 for i in range(len(shape))])
        channels = x.shape[0]
        try:
            full = torch.broadcast_to(numbers, (1, *shape))
        except RuntimeError:
            came = f"{numbers.numel()} numbers" if axis is not None else f"the shape {list(vector.shape)}"
            raise self.error(f"{what} has {came}; give it 1 or {channels}, one per channel", of_input=True) from None
        maps = to_value(full, x.layout, (channels, -1))[0]
        if (maps != maps[:, :1]).any():
            size = " x ".join(map(str, x.shape[1:]))
            came = f"{what} differs within the {size} map of a channel"
            raise self.error(f"{came}; put the layer before flattening", of_input=True)
        return maps[:, 0].numpy().copy()


def _parts(x: View) -> tuple[Part, ...] | None:
    """`x` as whole values, each in some order of its axes, one after another; None where it is anything else."""
    values = {}  # of each start among the numbers of all: the tensor there
    start = 0
    for part in x.parts if isinstance(x, JoinedTensor) else (x,):
        values[start] = part
        start += part.numbers
    flat = x.indices.flatten()
    parts, position = [], 0
    while position < len(flat):
        start = int(flat[position])
        if start not in values:
            return None
        value = values[start]
        order = _order(flat[position : position + value.numbers] - start, value.shape)
        if order is None:
            return None
        parts.append(Part(value.name, order))
        position += value.numbers
    return tuple(parts)


def _order(indices: Tensor, shape: Shape) -> str | None:
    """The order of the axes, as "HWC", in which a value of this `shape` has its numbers at `indices`."""
    layout = value_layout(shape)
    for axes in permutations(range(3)):
        if torch.equal(indices, layout.permute(axes).flatten()):
            return "".join("CHW"[axis] for axis in axes)
    return None
