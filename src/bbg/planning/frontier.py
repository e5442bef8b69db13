"""The plan: which layers are binary, from the cheapest change to the dearest, and where the budget says stop.

With each layer at 8 bits or 1, a plan takes about the sum of what its layers take, and loses about the sum of what they
lose alone. Layers become binary in the order of what they lose per second (or byte) saved: each plan of that sequence
is the best of all that save as much, up to one layer (the greedy solution of a knapsack).
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from bbg.budget import Budget, shown
from bbg.errors import BbgError
from bbg.graph.checked_json import mapping, name, names, number, parse, sequence, string
from bbg.planning.costs import Cost
from bbg.reading import TEXT, contents
from bbg.tables import Row, Shown


@dataclass(frozen=True)
class PlannedLayer:
    """A layer, the `bits` that the plan gives it, and what it takes at 1 and at 8 bits.

    `loss`: how much the loss of the whole network rises with this layer alone at 1 bit.
    """

    name: str
    bits: int
    seconds: dict[int, float]
    bytes: dict[int, float]
    loss: float

    def cost(self, bits: int) -> Cost:
        """What it takes at that width."""
        return Cost(self.seconds[bits], self.bytes[bits])


class Step(NamedTuple):
    """One plan of the frontier: the layers at 1 bit, what it takes in all, and the sum of the losses they add."""

    binary: tuple[str, ...]
    seconds: float
    bytes: float
    loss: float


@dataclass(frozen=True)
class Plan:
    """The widths for a budget. `bits` is what `bbg.create`, `bbg.binarize` and recipes take; `str()` prints the table.

    `rest`: what belongs to no layer. `took`: the seconds of planning.
    """

    budget: str
    bits: dict[str, int]
    layers: tuple[PlannedLayer, ...]
    frontier: tuple[Step, ...]
    chosen: int
    rest: Cost
    took: float

    @classmethod
    def chosen_for(
        cls, budget: str, layers: Sequence[PlannedLayer], frontier: tuple[Step, ...], rest: Cost, took: float
    ) -> Plan:
        """The first step of the frontier that meets the budget; BbgError, with the least there is, where none does."""
        what, amount = Budget.of(budget)
        chosen = next((i for i, step in enumerate(frontier) if getattr(step, what) <= amount), None)
        if chosen is None:
            least = shown(what, min(getattr(step, what) for step in frontier))
            raise BbgError(
                f"the budget of {budget} cannot be met: the least is {least}, with 1 bit wherever that saves"
            )
        binary = frontier[chosen].binary
        bits = {**dict.fromkeys((layer.name for layer in layers if layer.name in binary), 1), "*": 8}
        planned = tuple(replace(layer, bits=1 if layer.name in binary else 8) for layer in layers)
        return cls(budget, bits, planned, frontier, chosen, rest, took)

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Plan:
        """The plan that `bbg plan --json` wrote, here or on another machine; BbgError for anything else."""
        what = f"the plan {os.fspath(path)!r}"
        try:
            found = parse(contents(path, TEXT), what)
        except OSError as error:
            raise BbgError(f"{what} cannot be read: {error.strerror}") from error
        needed = ("budget", "layers", "frontier", "rest", "took")
        facts = mapping({key: found[key] for key in needed if key in found}, what, needed)
        layers = [_layer(entry, f"a layer of {what}") for entry in sequence(facts["layers"], f"layers of {what}")]
        steps = [_step(entry, f"a step of {what}") for entry in sequence(facts["frontier"], f"frontier of {what}")]
        rest = mapping(facts["rest"], f"rest of {what}", ("seconds", "bytes"))
        cost = Cost(*(_amount(rest[key], f"rest of {what}") for key in ("seconds", "bytes")))
        known = {layer.name for layer in layers}
        if not steps or any(
            not known.issuperset(step.binary) or _total(layers, cost, step.binary).seconds <= 0 for step in steps
        ):
            raise BbgError(f"the frontier of {what} does not fit its layers; write it anew with bbg plan --json")
        took = _amount(facts["took"], f"took of {what}")
        return cls.chosen_for(string(facts["budget"], f"budget of {what}"), layers, tuple(steps), cost, took)

    def at(self, budget: str) -> Plan:
        """The plan for another budget from the same measurements; nothing is measured again.

        Steps of this plan keep their measured times. The time of any other step is the sum over its ops, scaled as for
        measured steps with about the same sum.
        """
        sums = frontier_of(self.layers, self.rest, Budget.of(budget).what)
        known = sorted((_total(self.layers, self.rest, s.binary).seconds, s.seconds) for s in self.frontier)
        at, shares = [total for total, _ in known], [seconds / total for total, seconds in known]
        measured = {frozenset(step.binary): step.seconds for step in self.frontier}

        def seconds(step: Step) -> float:
            found = measured.get(frozenset(step.binary))
            return step.seconds * float(np.interp(step.seconds, at, shares)) if found is None else found

        frontier = tuple(step._replace(seconds=seconds(step)) for step in sums)
        return self.chosen_for(budget, self.layers, frontier, self.rest, self.took)

    @property
    def seconds(self) -> float:
        """Expected time of one image on one thread."""
        return self.frontier[self.chosen].seconds

    @property
    def bytes(self) -> float:
        """Expected bytes of the packed network's tensors."""
        return self.frontier[self.chosen].bytes

    def to_toml(self) -> str:
        """The widths as a line of a recipe, with what they are expected to take."""
        entries = ", ".join(f"{json.dumps(name, ensure_ascii=False)} = {bits}" for name, bits in self.bits.items())
        takes = f"{shown('seconds', self.seconds)} and {shown('bytes', self.bytes)} expected"
        return f"# for a budget of {self.budget}: {takes}\nbits = {{{entries}}}\n"

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain data."""
        return {
            "budget": self.budget,
            "bits": self.bits,
            "layers": [asdict(layer) for layer in self.layers],
            "frontier": [step._asdict() for step in self.frontier],
            "rest": asdict(self.rest),
            "seconds": self.seconds,
            "bytes": self.bytes,
            "took": self.took,
        }

    @property
    def _shown(self) -> Shown:
        rows: list[Row] = [
            {
                "layer": layer.name,
                "bits": layer.bits,
                "us at 1": round(1e6 * layer.seconds[1], 1),
                "us at 8": round(1e6 * layer.seconds[8], 1),
                "bytes at 1": int(layer.bytes[1]),
                "bytes at 8": int(layer.bytes[8]),
                "loss at 1": round(layer.loss, 3),
            }
            for layer in self.layers
        ]
        binary = sum(layer.bits == 1 for layer in self.layers)
        return Shown(
            rows,
            [
                f"budget {self.budget}: {binary} of {len(self.layers)} layers at 1 bit, "
                f"{shown('seconds', self.seconds)} on one thread and {shown('bytes', self.bytes)} expected",
                f"from {shown('seconds', self.frontier[0].seconds)} and {shown('bytes', self.frontier[0].bytes)} with "
                f"all at 8 bits to {shown('seconds', self.frontier[-1].seconds)} and "
                f"{shown('bytes', self.frontier[-1].bytes)}; planned in {self.took:.0f} s",
            ],
        )

    def __str__(self) -> str:
        return str(self._shown)

    def _repr_html_(self) -> str:
        return self._shown._repr_html_()


def frontier_of(layers: Sequence[PlannedLayer], rest: Cost, what: str) -> tuple[Step, ...]:
    """The plans, from all layers at 8 bits on, in the order of the loss per `what` saved; times are sums of ops."""

    def saved(layer: PlannedLayer) -> float:
        amounts: dict[int, float] = getattr(layer, what)
        return amounts[8] - amounts[1]

    paying = [layer for layer in layers if saved(layer) > 0]
    order = sorted(paying, key=lambda layer: max(layer.loss, 0.0) / saved(layer))
    steps = []
    for count in range(len(order) + 1):
        binary = [layer.name for layer in order[:count]]
        total = _total(layers, rest, binary)
        steps.append(Step(tuple(binary), total.seconds, total.bytes, sum(layer.loss for layer in order[:count])))
    return tuple(steps)


def _total(layers: Sequence[PlannedLayer], rest: Cost, binary: Collection[str]) -> Cost:
    return sum((layer.cost(1 if layer.name in binary else 8) for layer in layers), rest)


def _amount(value: Any, what: str) -> float:
    if not number(value, what) >= 0:
        raise BbgError(f"{what} is {value}, it must not be negative")
    return float(value)


def _layer(value: Any, what: str) -> PlannedLayer:
    facts = mapping(value, what, ("name", "bits", "seconds", "bytes", "loss"))
    seconds, taken = (
        {bits: _amount(mapping(facts[key], what, ("1", "8"))[str(bits)], what) for bits in (1, 8)}
        for key in ("seconds", "bytes")
    )
    return PlannedLayer(name(facts["name"], what), 8, seconds, taken, float(number(facts["loss"], what)))


def _step(value: Any, what: str) -> Step:
    facts = mapping(value, what, Step._fields)
    seconds, taken = (_amount(facts[key], what) for key in ("seconds", "bytes"))
    return Step(names(facts["binary"], what), seconds, taken, float(number(facts["loss"], what)))
