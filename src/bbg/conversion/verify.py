"""The closing check: does the engine compute what torch computes?

**Layer by layer, on the same inputs.** The engine runs the graph and shows every value; torch then computes each value
anew from the values of the engine that it depends on. Real values may differ by `LAW` of the layer's largest; bits only
where torch's value lies that close to its threshold. A graph that breaks this law is refused.

**End to end.** A near-tie may fall the other way and cascade, so this is only reported: differences of the outputs, how
often the best class is the same, and how near to a tie the bits were that first left torch's path.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from bbg.conversion.builder import INPUT, Lowered
from bbg.errors import BbgError
from bbg.graph import Graph, reference
from bbg.graph.file import PackedModel

if TYPE_CHECKING:
    from bbg.engine import Engine

LAW = 1e-5
BATCH = 16
_REFUSED = "nothing was written: please report this network"


@dataclass(frozen=True)
class Finding:
    """One value of the graph, compared: `difference` is the largest, over the largest value of the layer.

    Of bits and bytes: `ties` fell the other way within `LAW` of their threshold, `wrong` outside.
    """

    name: str
    layer: str
    difference: float = 0.0
    ties: int = 0
    wrong: int = 0

    def beside(self, other: Finding | None) -> Finding:
        """What both batches show of the same value."""
        if other is None:
            return self
        difference = max(self.difference, other.difference)
        return replace(self, difference=difference, ties=self.ties + other.ties, wrong=self.wrong + other.wrong)


@dataclass(frozen=True)
class Agreement:
    """Engine and torch end to end: differences of all numbers of the outputs.

    `top1`: share of images whose best class is the same; None where the network returns no scores of classes.
    `departed`: images on which bits or bytes differ from torch's. `departure`: of those that were the first to differ,
    on any of these images, the largest distance of torch's value from its threshold, over the layer's largest value.
    """

    images: int
    largest: float
    percentile99: float
    top1: float | None
    departed: int
    departure: float


def show(graph: Graph, names: Iterable[str]) -> Graph:
    """The graph that returns the values `names`, each under its name."""
    return graph.with_outputs(names)


def closing_check(
    lowered: Lowered, model: nn.Module | None, packed: PackedModel, images: Tensor, judged: int
) -> tuple[list[Finding], Agreement]:
    """Findings on the first `judged` of the `images` `[N, C, H, W]`, one per value, and the agreement on all.

    The engine's outputs are compared with those of `model`, or where that is None with what torch makes of the images
    by the steps of `lowered`. BbgError names the first value that breaks the law. The network as packed must also
    return, to the bit, what the network that shows every value returns: only the former reuses the memory of values
    that are no longer needed.
    """
    from bbg.engine import Engine

    graph = packed.graph
    engine = Engine(packed)
    shown = Engine(replace(packed, graph=show(graph, [name for op in graph.ops for name in op.written])))
    findings: dict[str, Finding] = {}
    compared = _Compared()
    for start in range(0, len(images), BATCH):
        batch = images[start : start + BATCH]
        values = {INPUT: batch, **{name: torch.from_numpy(v) for name, v in shown.run(batch.numpy()).items()}}
        free = by_steps(lowered, batch)
        wanted = _outputs(graph, free) if model is None else _named(model(batch))
        given = engine.run(batch.numpy())
        if start < judged:
            for found in judge(lowered, graph, {name: value[: judged - start] for name, value in values.items()}):
                _enforce(found)
                findings[found.name] = found.beside(findings.get(found.name))
        returned = reference.outputs(graph, {name: value.numpy() for name, value in values.items()})
        for output in graph.outputs:
            if not np.array_equal(given[output.name], returned[output.name]):
                raise BbgError(
                    f"{output.name or 'the output'}: the engine's answer depends on what it shows; {_REFUSED}"
                )
        compared.add(given, {name: tensor.numpy() for name, tensor in wanted.items()})
        compared.departures += departures(lowered, graph, values, free)
    return list(findings.values()), compared.agreement()


def judge(lowered: Lowered, graph: Graph, values: Mapping[str, Tensor]) -> Iterator[Finding]:
    """Compare each of the engine's `values` (of the folded `graph`, and its input) with what torch makes of the others.

    Values that folding made (bits before a pool) have no counterpart in torch: they are judged by what comes of them.
    """

    def expected(name: str) -> Tensor:
        return values[name] if name in values else computed(name)

    def computed(name: str) -> Tensor:
        step = lowered.steps[name]
        return step(*(expected(wire.name) for wire in step.inputs))

    for op in graph.ops:
        for name in op.written:
            if name not in lowered.steps:
                continue
            step, layer = lowered.steps[name], lowered.layers.get(name, "bytes")
            if not step.decides:
                want = computed(name)
                reach = op.reach([values[name].numpy() for name in op.operands])
                largest = max(float(want.abs().max()), reach, float(np.finfo(np.float32).tiny))
                yield Finding(name, layer, float((values[name] - want).abs().max()) / largest)
            else:
                distance = step.departing(values[name], expected(step.inputs[0].name))
                ties, wrong = (distance > 0) & (distance <= LAW), distance > LAW
                yield Finding(name, layer, ties=int(ties.sum()), wrong=int(wrong.sum()))


def by_steps(lowered: Lowered, images: Tensor) -> dict[str, Tensor]:
    """Every value of the unfolded graph, computed by torch from the images alone."""
    values = {INPUT: images}
    for name, step in lowered.steps.items():
        values[name] = step(*(values[wire.name] for wire in step.inputs))
    return values


def departures(lowered: Lowered, graph: Graph, values: Mapping[str, Tensor], free: Mapping[str, Tensor]) -> list[float]:
    """For each image on which the engine's bits or bytes leave those of `free`: how far from a tie the first were."""
    first = torch.zeros(len(values[INPUT]))
    for name in (name for op in graph.ops for name in op.written if name in lowered.steps):
        step = lowered.steps[name]
        if step.decides:
            distance = step.departing(values[name], free[step.inputs[0].name])
            first = torch.where(first > 0, first, distance.flatten(1).amax(1))
    return [float(distance) for distance in first if distance > 0]


def difference(engine: Engine, other: Engine, images: Tensor) -> Agreement:
    """How far the outputs of two engines are apart on the images."""
    compared = _Compared()
    for start in range(0, len(images), BATCH):
        batch = images[start : start + BATCH].numpy()
        compared.add(engine.run(batch), other.run(batch))
    return compared.agreement()


def _outputs(graph: Graph, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The outputs of the graph among the values."""
    arrays = reference.outputs(graph, {name: value.numpy() for name, value in values.items()})
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def _enforce(found: Finding) -> None:
    if not found.difference <= LAW or found.wrong:
        how = f"{found.wrong} bits" if found.wrong else f"{found.difference:.1e} of the layer's largest value"
        raise BbgError(
            f"{found.name} ({found.layer}): engine and torch differ by {how}, allowed is {LAW:.0e}, and other "
            f"bits only that near to their threshold; {_REFUSED}"
        )


class _Compared:
    """Outputs of engine and torch, batch by batch."""

    def __init__(self) -> None:
        self.differences: list[np.ndarray] = []
        self.same: list[np.ndarray] = []
        self.departures: list[float] = []
        self.images = 0

    def add(self, given: Mapping[str, np.ndarray], wanted: Mapping[str, np.ndarray]) -> None:
        self.images += len(next(iter(wanted.values())))
        for name, want in wanted.items():
            if given[name].shape != want.shape:
                shapes = f"{list(given[name].shape)} and torch's {list(want.shape)}"
                raise BbgError(f"{name or 'the output'}: the engine's shape is {shapes}; {_REFUSED}")
            self.differences.append(np.abs(given[name] - want).ravel())
            if name == "" and want.ndim == 2:
                self.same.append(given[name].argmax(axis=1) == want.argmax(axis=1))

    def agreement(self) -> Agreement:
        numbers = np.concatenate(self.differences)
        largest, percentile = float(numbers.max()), float(np.percentile(numbers, 99))
        top1 = float(np.concatenate(self.same).mean()) if self.same else None
        departure = max(self.departures, default=0.0)
        return Agreement(self.images, largest, percentile, top1, len(self.departures), departure)


def _named(outputs: Any) -> dict[str, Any]:
    """The outputs by name, of which one alone has none."""
    return outputs if isinstance(outputs, dict) else {"": outputs}
