"""The closing check: does the engine compute what torch computes?

**Layer by layer, on the same inputs.** The engine runs the graph and shows every value; torch then computes each value
anew from the values of the engine that it depends on. Real values may differ by `LAW` of the layer's largest; bits only
where torch's value lies that close to its threshold. A graph that breaks this law is refused.

**End to end.** A near-tie may fall the other way and cascade, so this is only reported: differences of the outputs, and
how often the best class is the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from bbg.convert.trace import INPUT, Lowered
from bbg.errors import BbgError
from bbg.graph import Graph, Output
from bbg.packed import Model

LAW = 1e-5
BATCH = 16


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
    """

    images: int
    largest: float
    percentile99: float
    top1: float | None


def judge(lowered: Lowered, graph: Graph, values: Mapping[str, np.ndarray]) -> Iterator[Finding]:
    """Compare each of the engine's `values` (of the folded `graph`, and its input) with what torch makes of the others.

    Values that folding made (bits before a pool) have no counterpart in torch: they are judged by what comes of them.
    """
    known = {name: torch.from_numpy(np.ascontiguousarray(v, np.float32)) for name, v in values.items()}

    def expected(name: str) -> Tensor:
        return known[name] if name in known else computed(name)

    def computed(name: str) -> Tensor:
        step = lowered.steps[name]
        return step(*(expected(wire.name) for wire in step.inputs))

    for op in graph.ops:
        for name in (op.real, op.bits):
            if name is None or name not in lowered.steps:
                continue
            step, layer = lowered.steps[name], lowered.layers[name]
            if step.threshold is None:
                yield _compare_real(name, layer, known[name], computed(name))
            else:
                yield _compare_bits(name, layer, known[name], expected(step.inputs[0].name), step.threshold)


def _compare_real(name: str, layer: str, got: Tensor, want: Tensor) -> Finding:
    difference, largest = float((got - want).abs().max()), float(want.abs().max())
    return Finding(name, layer, difference / largest if difference else 0.0)


def _compare_bits(name: str, layer: str, got: Tensor, x: Tensor, threshold: Tensor) -> Finding:
    """`threshold`: one number, one per channel, or one per number of a map that torch has flattened."""
    per_number = threshold.numel() == x[0].numel()
    distance = x - threshold.reshape(x.shape[1:] if per_number else (-1, 1, 1))
    other = (distance >= 0) != (got > 0)
    near = distance.abs() <= LAW * x.abs().max()
    return Finding(name, layer, ties=int((other & near).sum()), wrong=int((other & ~near).sum()))


def check_layers(lowered: Lowered, graph: Graph, images: np.ndarray) -> list[Finding]:
    """The findings for `images` `[N, C, H, W]`, one per value; BbgError names the first value that breaks the law.

    The network as packed must also return, to the bit, what the one that shows every value returns: only the former
    reuses the memory of values that are no longer needed.
    """
    from bbg.engine import Engine

    names = [name for op in graph.ops for name in (op.real, op.bits) if name is not None]
    shown = Engine(Model(replace(graph, outputs=tuple(Output(name, name) for name in names))))
    packed = Engine(Model(replace(graph, outputs=tuple(replace(o, name=o.name or "output") for o in graph.outputs))))
    findings: dict[str, Finding] = {}
    for start in range(0, len(images), BATCH):
        batch = images[start : start + BATCH]
        values, outputs = _named(shown(batch)), _named(packed(batch))
        for found in judge(lowered, graph, {**values, INPUT: batch}):
            _enforce(found)
            findings[found.name] = found.beside(findings.get(found.name))
        for output in graph.outputs:
            if not np.array_equal(outputs[output.name or "output"].ravel(), values[output.value].ravel()):
                raise BbgError(f"{output.value}: the engine's answer depends on what it shows; {_REFUSED}")
    return list(findings.values())


_REFUSED = "nothing was written: please report this network"


def _enforce(found: Finding) -> None:
    if not found.difference <= LAW or found.wrong:
        how = f"{found.wrong} bits" if found.wrong else f"{found.difference:.1e} of the layer's largest value"
        raise BbgError(
            f"{found.name} ({found.layer}): engine and torch differ by {how}, allowed is {LAW:.0e}, and other "
            f"bits only that near to their threshold; {_REFUSED}"
        )


def _named(outputs: np.ndarray | dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    assert isinstance(outputs, dict)
    return outputs


def compare_outputs(model: nn.Module, packed: Model, images: Tensor) -> Agreement:
    """Engine and torch end to end on `images` `[N, C, H, W]`."""
    from bbg.engine import Engine

    engine = Engine(packed)
    scores = [(o.name, o.flat) for o in packed.graph.outputs] == [("", True)]
    differences, same = [], 0
    for batch in images.split(BATCH):
        with torch.no_grad():
            want = model(batch)
        wanted = {name: v.numpy() for name, v in (want if isinstance(want, dict) else {"": want}).items()}
        got = engine(batch.numpy())
        given = got if isinstance(got, dict) else {"": got}
        differences += [np.abs(given[name] - wanted[name]).ravel() for name in wanted]
        if scores:
            same += int((given[""].argmax(axis=1) == wanted[""].argmax(axis=1)).sum())
    numbers = np.concatenate(differences)
    percentile = float(np.percentile(numbers, 99))
    return Agreement(len(images), float(numbers.max()), percentile, same / len(images) if scores else None)
