"""The plan: which layers are binary, from the cheapest change to the dearest, and where the budget says stop.

With each layer at 8 bits or 1, a plan takes about the sum of what its layers take, and loses about the sum of what they
lose alone. Layers become binary in the order of what they lose per second (or byte) saved: each plan of that sequence
is the best of all that save as much, up to one layer (the greedy solution of a knapsack).

The time of a plan is measured, since a network takes another time than the sum of its ops: both ends of the sequence,
and those plans between which the budget lies (a bisection). The others take a share of their sums that lies between.
"""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from bbg.binarization import binarize
from bbg.data.sets import Split, read_batch
from bbg.errors import BbgError
from bbg.layers.bits import bits_of
from bbg.log import track
from bbg.methods import Method
from bbg.planning.budget import Budget, shown
from bbg.planning.costs import Cost, Packed, costs_by_layer, pack, seconds_of
from bbg.planning.sensitivity import recovered_loss
from bbg.tables import Row, Shown

JUDGES = 1024  # training images held back for the losses, at most
LEAST = 1024  # training images that a plan needs, half of which are held back

Variant = Callable[[Mapping[str, int]], nn.Module]


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


class Step(NamedTuple):
    """One plan of the frontier: the layers at 1 bit, what it takes in all, and how much loss it adds at most."""

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


def plan(
    model: nn.Module | Variant,
    data: Split,
    budget: str,
    *,
    method: str | Method = "bbg",
    steps: int = 24,
    batch_size: int = 64,
    seed: int = 0,
) -> Plan:
    """Choose 1 or 8 bits for each layer of a trained classifier, for a `budget` of time or bytes.

    `model`: a trained float network, which `bbg.binarize` can take; or a function that gives the network, with its
    trained weights, for `bits` (patterns and widths). It stays as it is. `data`: its images; only training images are
    looked at. `budget`: "200us" or "1.5ms" for one image on one thread of this CPU, "100kB" or "1MB" of tensors.
    `method`: of the 1-bit layers. `steps`: batches that a network learns from before its loss is measured.

    Raises BbgError for a budget that even 1 bit does not reach (the least is told), and as `binarize` and `convert` do.
    """
    began, wanted = time.monotonic(), Budget.of(budget)
    held = min(JUDGES, len(data.train) // 2)
    pixels, labels = _drawn(data, steps * batch_size + held, seed)
    images = torch.from_numpy(data.preprocess.normalize(pixels))
    judges = images[:held], labels[:held]
    rest_images, rest_labels = images[held:], labels[held:]
    batches = list(zip(rest_images.split(batch_size), rest_labels.split(batch_size), strict=True))
    variant = model if not isinstance(model, nn.Module) else _binarizing(model, method, images[:2])
    all_bytes = variant({"*": 8})
    base = recovered_loss(copy.deepcopy(all_bytes), batches, judges)
    losses: dict[str, float] = {}
    for name in track([name for name, m in all_bytes.named_modules() if bits_of(m) == 8], "measuring layers"):
        with_one = _with_one_binary(variant, name)
        if with_one is not None:
            losses[name] = recovered_loss(with_one, batches, judges) - base
    if not losses:
        raise BbgError("no layer of the network can have 1 bit; bbg.binarize(model, bits=1).report says why")
    layers = list(losses)

    def packed(binary: Sequence[str]) -> Packed:
        return pack(variant({**dict.fromkeys(binary, 1), "*": 8}), images[:64], data.preprocess)

    one, first = pixels[:1], packed(())
    (at_8, rest), (at_1, _) = costs_by_layer([first, packed(layers)], layers, one)
    costs = {1: at_1, 8: at_8}
    frontier = _frontier(layers, costs, losses, rest, wanted.what)
    frontier = _timed(frontier, wanted, lambda step: seconds_of([first, packed(step.binary)], one))
    chosen = next((i for i, step in enumerate(frontier) if getattr(step, wanted.what) <= wanted.amount), None)
    if chosen is None:
        least = shown(wanted.what, min(getattr(step, wanted.what) for step in frontier))
        raise BbgError(f"the budget of {budget} cannot be met: with all layers at 1 bit that can be, it takes {least}")
    binary = frontier[chosen].binary
    bits = {**dict.fromkeys((name for name in layers if name in binary), 1), "*": 8}
    rows = tuple(
        PlannedLayer(
            name,
            1 if name in binary else 8,
            {width: costs[width][name].seconds for width in (1, 8)},
            {width: costs[width][name].bytes for width in (1, 8)},
            losses[name],
        )
        for name in layers
    )
    return Plan(budget, bits, rows, frontier, chosen, rest, time.monotonic() - began)


def _binarizing(model: nn.Module, method: str | Method, example: Tensor) -> Variant:
    """The networks that `bbg.binarize` makes of copies of `model`."""

    def variant(bits: Mapping[str, int]) -> nn.Module:
        return binarize(copy.deepcopy(model), method, (), example, bits=dict(bits))

    return variant


def _drawn(data: Split, count: int, seed: int) -> tuple[np.ndarray, Tensor]:
    """Pixels of training images and their labels, drawn without repetition."""
    found = len(data.train)
    if found < LEAST:
        raise BbgError(f"there are {found} training images; a plan needs {LEAST} or more")
    order = np.random.default_rng(seed).permutation(found)[: min(count, found)]
    pixels, labels = read_batch(data.train, order)
    return pixels, torch.as_tensor(np.asarray(labels)).long()


def _with_one_binary(variant: Variant, name: str) -> nn.Module | None:
    """The network with the layer `name` alone at 1 bit; None where it cannot have 1 bit."""
    try:
        network = variant({name: 1, "*": 8})
    except BbgError:
        return None
    return network if any(bits_of(module) == 1 for module in network.modules()) else None


def _frontier(
    layers: list[str], costs: dict[int, dict[str, Cost]], losses: Mapping[str, float], rest: Cost, what: str
) -> tuple[Step, ...]:
    """The plans, from all layers at 8 bits on, in the order of the loss per `what` saved."""
    saved = {name: getattr(costs[8][name], what) - getattr(costs[1][name], what) for name in layers}
    order = sorted((name for name in layers if saved[name] > 0), key=lambda name: max(losses[name], 0.0) / saved[name])
    steps = []
    for count in range(len(order) + 1):
        binary = order[:count]
        parts = [costs[1 if name in binary else 8][name] for name in layers]
        total = sum(parts, rest)
        steps.append(Step(tuple(binary), total.seconds, total.bytes, sum(losses[name] for name in binary)))
    return tuple(steps)


def _timed(frontier: tuple[Step, ...], wanted: Budget, measure: Callable[[Step], Sequence[float]]) -> tuple[Step, ...]:
    """The steps with measured times. `measure`: the times of the first step and of the one given, in one go.

    A step is measured beside the first one, and their ratio counts: it is the same in slow minutes of the machine.
    """
    ratios = {0: 1.0}
    best = np.inf

    def look(i: int) -> float:
        nonlocal best
        if i not in ratios:
            first, seconds = measure(frontier[i])
            best, ratios[i] = min(best, first), seconds / first
        return ratios[i] * best

    last = len(frontier) - 1
    if not last:
        return (frontier[0]._replace(seconds=measure(frontier[0])[0]),)
    look(last)
    if wanted.what == "seconds" and best > wanted.amount >= ratios[last] * best:
        slow, fast = 0, last
        while fast - slow > 1:
            middle = (slow + fast) // 2
            slow, fast = (slow, middle) if look(middle) <= wanted.amount else (middle, fast)
    known = sorted(ratios)
    of_sums = [best * ratios[i] / frontier[i].seconds for i in known]
    shares = np.interp(np.arange(len(frontier)), known, of_sums)
    return tuple(step._replace(seconds=step.seconds * float(s)) for step, s in zip(frontier, shares, strict=True))
