"""The graph under construction: rules append ops to it, and refuse what ops cannot express."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bbg.conversion.oracle import Step
from bbg.conversion.views import Wire, channels_last, in_order, in_rows
from bbg.errors import BbgError
from bbg.graph import Graph, Op
from bbg.graph.kinds import KINDS

INPUT = "input"


@dataclass(frozen=True)
class Lowered:
    """The unfolded graph, the step behind each of its values, and the type of layer that each op came from."""

    graph: Graph
    steps: Mapping[str, Step]
    layers: Mapping[str, str]


@dataclass
class Lowering:
    """What a rule works on: it appends ops to the graph, and refuses what they cannot express."""

    place: str = ""
    layer: str = ""
    ops: list[Op] = field(default_factory=list)
    steps: dict[str, Step] = field(default_factory=dict)
    layers: dict[str, str] = field(default_factory=dict)
    selected: dict[tuple[str, tuple[int, ...]], Wire] = field(default_factory=dict)

    def refuse(self, reason: str) -> BbgError:
        """The error that names the layer and its place in the network."""
        return BbgError(f"{self.place} ({self.layer}): {reason}")

    def emit(
        self,
        kind: str,
        inputs: tuple[Wire, ...],
        function: Callable[..., Tensor],
        /,
        *,
        suffix: str = "",
        rows: Mapping[str, np.ndarray | None] | None = None,
        threshold: Tensor | None = None,
        tensors: Mapping[str, np.ndarray] | None = None,
        clip: tuple[float | None, float | None] = (None, None),
        places: Tensor | None = None,
        **attributes: Any,
    ) -> Wire:
        """Append an op and return the wire behind it; with a `threshold` it writes bits, else a real value.

        `function` computes in torch what the op computes, from the tensors at `inputs` as torch has them. `places`: how
        torch has the result; None: as the first input where the shapes are equal, else in rows.
        """
        name = self.place + suffix
        while name in self.layers:
            name += "'"  # a layer that is used more than once
        given = {row: vector for row, vector in (rows or {}).items() if vector is not None}
        arrays = {**(tensors or {}), **({"epilogue": np.stack(list(given.values()))} if given else {})}
        real, bits = (name, None) if threshold is None else (None, name)
        names = tuple(wire.name for wire in inputs)
        op = Op(name, kind, names, real, bits, attributes, arrays, tuple(given), clip)
        try:
            shape = KINDS[kind].shape(op.attributes, *(wire.shape for wire in inputs[: len(op.operands)]))
        except BbgError as error:
            raise self.refuse(f"on a map {list(inputs[0].shape)}: {error}") from None
        self.ops.append(op)
        self.layers[name] = self.layer
        result = function(*(wire.tensor.clone() for wire in inputs))
        if places is None and inputs[0].places is not None and result.shape == inputs[0].tensor.shape:
            places = inputs[0].places
        elif places is None and result.ndim == 2:
            places = torch.arange(result[0].numel())
        self.steps[name] = Step(function, inputs, shape, threshold, places=places)
        return Wire(name, in_order(result, places, shape), places)

    def settled(self, x: Wire) -> Wire:
        """`x` with every number of its value once: where torch has some channels only, an op selects them."""
        return x if x.whole else self._selected(x)

    def map(self, x: Wire) -> Wire:
        """`x` as torch has a map, `[N, C, H, W]`, its channels brought into order where need be."""
        if x.places is None:
            return x
        selected = self._selected(x) if x.places.ndim == 3 else x
        if selected.places is not None:
            raise self.refuse(f"its input is no map [N, C, H, W], but {self.describe(x)}; give it the map")
        return selected

    def returned(self, name: str, x: Wire) -> Wire:
        """`x` as a map or flattened, which is what a network may return."""
        for attempt in (x, self._selected(x) if x.order.ndim in (1, 3) and not x.in_rows else x):
            if attempt.places is None or (attempt.flat and attempt.in_rows):
                return attempt
        came = f"{name or 'the output'}: the network returns {self.describe(x)}"
        raise BbgError(f"{came}; allowed are [N, C, H, W], and that flattened")

    def ordered(self, x: Wire) -> Wire:
        """`x`, its channels brought into order where torch has whole maps, `[N, C, H, W]`, `[N, H, W, C]` or flat."""
        found = None if x.places is None or x.places.ndim not in (1, 3) else self._channels(x)
        return x if found is None or torch.equal(found[0], torch.arange(x.shape[0])) else self._selected(x)

    def _selected(self, x: Wire) -> Wire:
        """An op that selects the channels which torch has, in its order; BbgError where it has no whole maps."""
        found = self._channels(x)
        if found is None:
            raise self.refuse(f"its input is {self.describe(x)}; allowed are whole channels of one map")
        index, last = found
        key = (x.name, tuple(index.tolist()))
        if key not in self.selected:
            tensors = {"index": index.numpy().astype(np.int32)}
            self.selected[key] = self.emit(
                "select",
                (Wire(x.name, x.value),),
                lambda v: v[:, index],
                suffix=".select",
                tensors=tensors,
                channels=len(index),
            )
        result = self.selected[key]
        places = channels_last(result.shape) if last else in_rows(result.shape)
        return result.at(places.flatten() if x.order.ndim == 1 else places)

    def _channels(self, x: Wire) -> tuple[Tensor, bool] | None:
        """The channels of the value that torch has, and whether as the last axis; None where it has no whole maps."""
        places = x.order
        rows = columns = places
        if places.ndim == 1 and places.numel() % x.value[0, 0].numel() == 0:
            rows, columns = places.reshape(-1, *x.shape[1:]), places.reshape(*x.shape[1:], -1)
        if rows.ndim != 3:
            return None
        for maps, last in ((rows, False), (columns.permute(2, 0, 1), True)):
            index = x.channels(maps)
            if index is not None:
                return index, last
        return None

    def describe(self, x: Wire) -> str:
        """How torch has it, for a sentence."""
        return f"a map {list(x.shape)} rearranged to [N, {', '.join(map(str, x.order.shape))}]"

    def per_channel(self, wire: Wire, vector: Tensor | None, what: str, axis: int | None = 1) -> np.ndarray | None:
        """`vector` as float64 `[C]`, one number per channel of the value.

        It is one number, or has one for each step along `axis` of the tensor as torch has it, or with `axis` None it is
        a tensor that torch broadcasts.
        """
        if vector is None:
            return None
        numbers, shape = vector.detach().double(), wire.tensor.shape[1:]
        if axis is not None and numbers.numel() > 1:
            numbers = numbers.reshape([-1 if i + 1 == axis else 1 for i in range(len(shape))])
        channels = wire.shape[0]
        try:
            full = torch.broadcast_to(numbers, (1, *shape))
        except RuntimeError:
            came = f"{numbers.numel()} numbers" if axis is not None else f"the shape {list(vector.shape)}"
            raise self.refuse(f"{what} has {came}, allowed are 1 or {channels}, one per channel") from None
        maps = in_order(full, wire.places, (channels, -1))[0]
        if (maps != maps[:, :1]).any():
            size = " x ".join(map(str, wire.shape[1:]))
            raise self.refuse(f"{what} differs within the {size} map of a channel; put the layer before flattening")
        return maps[:, 0].numpy().copy()
