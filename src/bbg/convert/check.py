"""The closing check: does the engine compute what torch computes?

**Layer by layer, on the same inputs.** The engine runs the graph and shows every value; torch then computes each value
anew from the values of the engine that it depends on. Real values may differ by `LAW` of the layer's largest; bits only
where torch's value lies that close to its threshold. A graph that breaks this law is refused.

**End to end.** A near-tie may fall the other way and cascade, so this is only reported: differences of the outputs, how
often the best class is the same, and how near to a tie the bits were that first left torch's path.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bbg.convert.trace import INPUT, Lowered
from bbg.errors import BbgError
from bbg.graph import Graph, Output
from bbg.packed import Model

LAW = 1e-5
BATCH = 16
_REFUSED = "nothing was written: please report this network"


@dataclass(frozen=True)
class Finding:
    """One value of the graph, compared: `difference` is the largest, over the largest value of the layer.

    Of bits: `ties` fell the other way within `LAW` of their threshold, `wrong` outside.
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
    `departed`: images on which bits differ from torch's. `departure`: of the bits that were the first to differ, on any
    of these images, the largest distance of torch's value from its threshold, over the layer's largest value.
    """

    images: int
    largest: float
    percentile99: float
    top1: float | None
    departed: int
    departure: float


def closing_check(
    lowered: Lowered, model: nn.Module, packed: Model, images: Tensor, judged: int
) -> tuple[list[Finding], Agreement]:
    """Findings on the first `judged` of the `images` `[N, C, H, W]`, one per value, and the agreement on all.

    BbgError names the first value that breaks the law. The network as packed must also return, to the bit, what the
    network that shows every value returns: only the former reuses the memory of values that are no longer needed.
    """
    from bbg.engine import Engine

    graph = packed.graph
    names = [name for op in graph.ops for name in (op.real, op.bits) if name is not None]
    engine = Engine(packed)
    shown = Engine(Model(replace(graph, outputs=tuple(Output(name, name) for name in names))))
    findings: dict[str, Finding] = {}
    compared = _Compared()
    for start in range(0, len(images), BATCH):
        batch = images[start : start + BATCH]
        values = {INPUT: batch, **{name: torch.from_numpy(v) for name, v in _named(shown(batch.numpy())).items()}}
        given, wanted = _named(engine(batch.numpy())), _named(model(batch))
        if start < judged:
            for found in judge(lowered, graph, {name: value[: judged - start] for name, value in values.items()}):
                _enforce(found)
                findings[found.name] = found.beside(findings.get(found.name))
        for output in graph.outputs:
            if not np.array_equal(given[output.name].ravel(), values[output.value].numpy().ravel()):
                raise BbgError(f"{output.value}: the engine's answer depends on what it shows; {_REFUSED}")
        compared.add(given, {name: tensor.numpy() for name, tensor in wanted.items()})
        compared.departures += departures(lowered, graph, values)
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
        for name in (op.real, op.bits):
            if name is None or name not in lowered.steps:
                continue
            step, layer = lowered.steps[name], lowered.layers[name]
            if step.threshold is None:
                want = computed(name)
                difference = float((values[name] - want).abs().max())
                yield Finding(name, layer, difference / float(want.abs().max()) if difference else 0.0)
            else:
                distance = _departing(values[name], expected(step.inputs[0].name), step.threshold)
                ties, wrong = (distance > 0) & (distance <= LAW), distance > LAW
                yield Finding(name, layer, ties=int(ties.sum()), wrong=int(wrong.sum()))


def departures(lowered: Lowered, graph: Graph, values: Mapping[str, Tensor]) -> list[float]:
    """For each image on which the engine's bits leave torch's: how far from a tie the first were (see `Agreement`)."""
    free = {INPUT: values[INPUT]}
    for name, step in lowered.steps.items():
        free[name] = step(*(free[wire.name] for wire in step.inputs))
    first = torch.zeros(len(values[INPUT]))
    for bits in (op.bits for op in graph.ops if op.bits in lowered.steps):
        sign = lowered.steps[bits or ""]
        assert sign.threshold is not None
        distance = _departing(values[bits or ""], free[sign.inputs[0].name], sign.threshold)
        first = torch.where(first > 0, first, distance.flatten(1).amax(1))
    return [float(distance) for distance in first if distance > 0]


def _departing(bits: Tensor, x: Tensor, threshold: Tensor) -> Tensor:
    """Where `bits` are not those of `x >= threshold`: distance from it over the largest |x|; elsewhere 0.

    `threshold`: one number, one per channel, or one per number of a map that torch has flattened.
    """
    per_number = threshold.numel() == x[0].numel()
    distance = x - threshold.reshape(x.shape[1:] if per_number else (-1, 1, 1))
    tiny = torch.finfo(x.dtype).tiny  # a departure at distance 0 is one, too
    relative = (distance.abs() / x.abs().max()).clamp(min=tiny)
    return torch.where((distance >= 0) != (bits > 0), relative, torch.zeros(()))


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
