"""Verification: does the engine compute what torch computes?

**Layer by layer, on the same inputs.** The engine runs the graph and returns every value; torch then computes each
value anew from the values of the engine that it depends on. Real values may differ by `TOLERANCE` of the layer's
largest; bits only where torch's value lies that close to its threshold. A graph that breaks this law is refused.
Where a channel is the sum of larger numbers (`Terms`), its numbers may differ by `TOLERANCE` of those.

**End to end.** A near-tie may fall the other way and cascade, so this is only reported: differences of the outputs, how
often the best class is the same, and how near to a tie the bits were that first left torch's path.

Torch runs each layer once freely, from the images, and once more on those images only for which the engine's inputs of
the layer differ from torch's own: behind a sign hardly any.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from bbg.conversion.oracle import INPUT, Lowered, run_free, run_where_different
from bbg.conversion.passes.epilogue import parameters_of
from bbg.engine import Engine
from bbg.errors import BbgError
from bbg.graph import Graph, reference
from bbg.graph.file import PackedModel
from bbg.limits import UNLIMITED
from bbg.log import track

TOLERANCE = 1e-5
BATCH_NUMBERS = 2**25  # of all values of the images in one batch: 128 MB in float32
_REFUSED = "nothing was written: please report this network"

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class LayerCheck:
    """One value of the graph, compared: `difference` is the largest, over the largest value of the layer.

    Of bits and bytes: `ties` fell the other way within `TOLERANCE` of their threshold, `wrong` outside.
    """

    name: str
    layer: str
    difference: float = 0.0
    ties: int = 0
    wrong: int = 0

    def merge(self, other: LayerCheck | None) -> LayerCheck:
        """What both batches show of the same value."""
        if other is None:
            return self
        difference = max(self.difference, other.difference)
        return replace(self, difference=difference, ties=self.ties + other.ties, wrong=self.wrong + other.wrong)


@dataclass(frozen=True)
class EndToEnd:
    """Two runs of a network, engine and torch, end to end: differences of all numbers of the outputs.

    `top1`: share of images whose best class is the same; None where the network returns no scores of classes.
    `diverged`: images on which bits or bytes differ from torch's. `divergence`: of those that were the first to differ,
    on any of these images, the largest distance of torch's value from its threshold, over the layer's largest value.
    """

    images: int
    largest: float
    percentile99: float
    top1: float | None
    diverged: int
    divergence: float


@dataclass(frozen=True)
class Verification:
    """The checks of the layers, one per value; the comparison end to end; the engine of the network as packed."""

    layers: tuple[LayerCheck, ...]
    end_to_end: EndToEnd
    engine: Engine


def verify_network(lowered: Lowered, packed: PackedModel, images: Tensor, checked: int) -> Verification:
    """Compare engine and torch: layer by layer on the first `checked` of the `images`, end to end on all.

    BbgError names the first value that breaks the law. The network as packed must also return, to the bit, what the
    network that returns every value returns: only the former reuses the memory of values that are no longer needed.
    """
    graph = packed.graph
    engine = Engine(packed, limits=UNLIMITED)
    every_value = graph.with_outputs([name for op in graph.ops for name in op.written])
    observed = Engine(replace(packed, graph=every_value, head=None), limits=UNLIMITED)
    checks: dict[str, LayerCheck] = {}
    compared = Comparison()
    for start, batch in track(batches(graph, images), "checking layers"):
        arrays = observed.run(batch.numpy())
        values = {INPUT: batch, **{name: torch.from_numpy(array) for name, array in arrays.items()}}
        free = run_free(lowered.oracle, {INPUT: batch})
        outputs = engine.run(batch.numpy())
        if start < checked:
            some = checked - start
            for check in compare_layers(lowered, graph, _first(values, some), _first(free, some)):
                _enforce(check)
                checks[check.name] = check.merge(checks.get(check.name))
        for name, array in outputs_of(graph, values).items():
            if not np.array_equal(outputs[name], array):
                raise BbgError(f"{name or 'the output'}: the engine's answer depends on what it returns; {_REFUSED}")
        compared.add(outputs, outputs_of(graph, free))
        compared.diverged += diverged(lowered, graph, values, free)
    return Verification(tuple(checks.values()), compared.result(), engine)


class Terms:
    """How large the numbers are that the values of a graph are sums of, in each channel.

    The mean that a batch norm takes away may be a hundred times as large as what it leaves: `scale x + bias` then has
    the rounding of either term, in torch as in the engine, however small the sum is.
    """

    def __init__(self, graph: Graph, observed: Collection[str]) -> None:
        self.graph, self.observed = graph, observed
        self.ops = {name: op for op in graph.ops for name in op.written}
        self.known: dict[str, Tensor] = {}

    def of(self, name: str) -> Tensor:
        """`[C]`, of the value called `name`: the biases that were added to it since the last observed values."""
        if name not in self.known:
            shape = (self.graph.values[name].channels,)
            self.known[name] = torch.from_numpy(np.broadcast_to(self._of(name), shape).astype(np.float32))
        return self.known[name]

    def _of(self, name: str) -> np.ndarray:
        op = self.ops.get(name)
        if op is None:
            return np.zeros(1)
        p = {parameter: np.abs(numbers) for parameter, numbers in parameters_of(op).items()}
        largest = p["bias"]
        if op.kind == "pointwise" and op.operands[0] not in self.observed:
            largest = np.maximum(largest, p["scale"] * self.of(op.operands[0]).numpy())
        if op.shortcut is not None and op.shortcut not in self.observed:
            largest = np.maximum(largest, p["gate"] * self.of(op.shortcut).numpy())
        return np.asarray(largest * np.maximum(p["above"], p["below"]) + p["offset"])


def compare_layers(
    lowered: Lowered, graph: Graph, values: Mapping[str, Tensor], free: Mapping[str, Tensor]
) -> Iterator[LayerCheck]:
    """Compare each of the engine's `values` (of the folded `graph`, and its input) with what torch makes of the others.

    `free`: what torch computed from the images alone. Values that folding made (bits before a pool) have no counterpart
    in torch: they are judged by what comes of them.
    """
    computed: dict[str, Tensor] = {}
    terms = Terms(lowered.graph, values)
    stand_ins = _stand_ins(lowered, values)
    masks: dict[str, Tensor] = {INPUT: torch.zeros(len(values[INPUT]), dtype=torch.bool)}

    def differs(name: str) -> Tensor:
        """The images on which this value is not that of torch's free run. Real values of the engine differ on all."""
        name = stand_ins.get(name, name)
        if name not in masks:
            if name not in values:
                masks[name] = torch.stack([differs(x.name) for x in lowered.oracle[name].inputs]).any(0)
            elif lowered.oracle[name].is_discrete:
                masks[name] = (values[name] != free[name]).flatten(1).any(1)
            else:
                masks[name] = ~masks[INPUT]
        return masks[name]

    def on_engine_inputs(name: str) -> Tensor:
        if name not in computed:
            op = lowered.oracle[name]
            sources = [x.name for x in op.inputs]
            mask = torch.stack([differs(source) for source in sources]).any(0)
            computed[name] = run_where_different(op, [expected(source) for source in sources], mask, free[name])
        return computed[name]

    def expected(name: str) -> Tensor:
        name = stand_ins.get(name, name)
        return values[name] if name in values else on_engine_inputs(name)

    for op in graph.ops:
        for name in op.written:
            if name not in lowered.oracle:
                continue
            torch_op, layer = lowered.oracle[name], lowered.layers.get(name, "bytes")
            if torch_op.is_discrete:
                source = torch_op.inputs[0].name
                distance = torch_op.divergence(values[name], expected(source), terms.of(source))
                different = distance[distance > 0] if distance.any() else distance.new_zeros(0)
                wrong = int((different > TOLERANCE).sum())
                yield LayerCheck(name, layer, ties=len(different) - wrong, wrong=wrong)
            else:
                want = on_engine_inputs(name)
                reach = op.reach([values[operand].numpy() for operand in op.operands])
                largest = max(_largest(want), reach, float(np.finfo(np.float32).tiny))
                off = (values[name] - want) / terms.of(name).clamp(min=largest)[:, None, None]
                yield LayerCheck(name, layer, _largest(off))


def _stand_ins(lowered: Lowered, values: Mapping[str, Tensor]) -> dict[str, str]:
    """The bits and bytes that the engine has not, as it has equal ones of the same number: these, by their names.

    What reads them is judged on the engine's: torch may have put a near-tie among them on the other side.
    """
    known: dict[tuple[bytes | str | None, ...], str] = {}
    missing: dict[str, tuple[bytes | str | None, ...]] = {}
    for name, op in lowered.oracle.items():
        if op.is_discrete:
            x = op.inputs[0]
            numbers = (op.threshold,) if op.quant is None else (op.quant.scale, op.quant.bias)
            parts = [None if part is None else part.numpy().tobytes() for part in (x.layout, op.layout, *numbers)]
            if name in values:
                known.setdefault((x.name, *parts), name)
            else:
                missing[name] = (x.name, *parts)
    return {name: known[key] for name, key in missing.items() if key in known}


def _largest(x: Tensor) -> float:
    """The largest absolute number; NaN where there is one."""
    low, high = x.aminmax()
    return float(torch.maximum(-low, high))


def diverged(lowered: Lowered, graph: Graph, values: Mapping[str, Tensor], free: Mapping[str, Tensor]) -> list[float]:
    """For each image on which the engine's bits or bytes leave those of `free`: how far from a tie the first were."""
    first = torch.zeros(len(values[INPUT]))
    for name in (name for op in graph.ops for name in op.written if name in lowered.oracle):
        torch_op = lowered.oracle[name]
        if torch_op.is_discrete and not torch.equal(values[name], free[name]):
            distance = torch_op.divergence(values[name], free[torch_op.inputs[0].name])
            first = torch.where(first > 0, first, distance.flatten(1).amax(1))
    return [float(distance) for distance in first if distance > 0]


def batches(graph: Graph, images: Tensor) -> list[tuple[int, Tensor]]:
    """The images in batches of which all values take a bounded memory, and where each batch starts."""
    size = max(1, BATCH_NUMBERS // sum(value.numbers for value in graph.values.values()))
    return [(start, images[start : start + size]) for start in range(0, len(images), size)]


def outputs_of(graph: Graph, values: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    """The outputs of the graph by name, put together from its values."""
    return reference.outputs(graph, {name: value.numpy() for name, value in values.items()})


def _first(values: Mapping[str, Tensor], images: int) -> Mapping[str, Tensor]:
    """The values of the first images."""
    return values if images >= len(values[INPUT]) else {name: value[:images] for name, value in values.items()}


def _enforce(check: LayerCheck) -> None:
    if not check.difference <= TOLERANCE or check.wrong:
        how = f"{check.wrong} bits" if check.wrong else f"{check.difference:.1e} of the layer's largest value"
        raise BbgError(
            f"{check.name} ({check.layer}): engine and torch differ by {how}, allowed is {TOLERANCE:.0e}, and other "
            f"bits only that near to their threshold; {_REFUSED}"
        )


class Comparison:
    """The outputs of two runs, batch by batch."""

    def __init__(self) -> None:
        self.differences: list[np.ndarray] = []
        self.same: list[np.ndarray] = []
        self.diverged: list[float] = []
        self.images = 0

    def add(self, given: Arrays, wanted: Arrays) -> None:
        """Count one batch; BbgError where an output has another shape than wanted."""
        self.images += len(next(iter(wanted.values())))
        for name, want in wanted.items():
            if given[name].shape != want.shape:
                shapes = f"{list(given[name].shape)} and torch's {list(want.shape)}"
                raise BbgError(f"{name or 'the output'}: the engine's shape is {shapes}; {_REFUSED}")
            self.differences.append(np.abs(given[name] - want).ravel())
            if name == "" and want.ndim == 2:
                self.same.append(given[name].argmax(axis=1) == want.argmax(axis=1))

    def result(self) -> EndToEnd:
        """What all batches show."""
        numbers = np.concatenate(self.differences)
        largest, percentile = float(numbers.max()), float(np.percentile(numbers, 99))
        top1 = float(np.concatenate(self.same).mean()) if self.same else None
        divergence = max(self.diverged, default=0.0)
        return EndToEnd(self.images, largest, percentile, top1, len(self.diverged), divergence)


def concatenated(outputs: Sequence[Arrays]) -> Arrays:
    """The outputs of all batches, by name."""
    return {name: np.concatenate([batch[name] for batch in outputs]) for name in outputs[0]}


def difference(given: Arrays, wanted: Arrays) -> EndToEnd:
    """How far the outputs of two runs are apart."""
    compared = Comparison()
    compared.add(given, wanted)
    return compared.result()
