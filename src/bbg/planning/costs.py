"""What the layers of a network take in the engine, in time and in bytes, by their width.

The network is packed with all layers at 8 bits, and with all at 1 bit where they can be, and each op is timed. An op
belongs to the layer whose name its own begins with: a unit's shortcut is part of what its convolution costs. What
belongs to no layer is there at any width.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from bbg.conversion import convert
from bbg.engine import Engine, load
from bbg.graph.file import read
from bbg.graph.graph import Cost as OpCost
from bbg.image import Preprocess
from bbg.layers import ByteConv2d, ByteLinear
from bbg.layers.byte import fix_pixels
from bbg.limits import UNLIMITED
from bbg.tracing.neutral import neutral

ROUNDS = 30  # turns, of which the fastest counts
RUNS = 5  # of a whole network in its turn


@dataclass(frozen=True)
class Cost:
    """Time of one image on one thread, and bytes of tensors in the packed file."""

    seconds: float = 0.0
    bytes: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.seconds + other.seconds, self.bytes + other.bytes)


Costs = dict[str, Cost]  # by layer


class Packed(NamedTuple):
    """A packed network: bytes per op, and an engine of one thread."""

    ops: list[OpCost]
    engine: Engine


def pack(model: nn.Module, images: Tensor, preprocess: Preprocess) -> Packed:
    """`model` packed; the ranges of its 8-bit layers are recorded on `images`, normalised by `preprocess`."""
    fix_pixels(model, images[:1], torch.tensor(preprocess.mean), torch.tensor(preprocess.std))
    record(model, images)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "network.bbg"
        convert(model, path, images[:2], edges="fp32", preprocess=preprocess)
        return Packed(read(path).graph.costs(), load(path, 1, UNLIMITED))


def costs_by_layer(packed: Sequence[Packed], layers: Collection[str], image: np.ndarray) -> list[tuple[Costs, Cost]]:
    """Per packed network, the cost of each of the `layers`, by their qualified names, and of all that belongs to none.

    Time is that of the `image`, a batch of one as an engine takes it. The networks take turns, since a machine has slow
    minutes.
    """
    turns = [[[op.seconds for op in network.engine.profile(image)] for network in packed] for _ in range(ROUNDS)]
    result = []
    for network, times in zip(packed, zip(*turns, strict=True), strict=True):
        found, rest = {name: Cost() for name in layers}, Cost()
        for op, seconds in zip(network.ops, np.min(times, axis=0), strict=True):
            cost = Cost(float(seconds), op.bytes)
            owner = layer_of(op.name, layers)
            if owner is None:
                rest = rest + cost
            else:
                found[owner] = found[owner] + cost
        result.append((found, rest))
    return result


def seconds_of(packed: Sequence[Packed], image: np.ndarray) -> list[float]:
    """The time of the whole network for the `image`, of each; they take turns.

    It is less than the sum of its ops, each of which is stopped and timed; and a network whose weights fit into the
    caches gains more than that.
    """
    times = np.full(len(packed), np.inf)
    for _ in range(ROUNDS):
        for i, network in enumerate(packed):
            for _ in range(RUNS):
                began = time.perf_counter()
                network.engine(image)
                times[i] = min(times[i], time.perf_counter() - began)
    return [float(seconds) for seconds in times]


def layer_of(op: str, layers: Collection[str]) -> str | None:
    """The layer that the op of this name belongs to: the longest name, or that of its unit, which the op's begins with.

    The layer `units.3.conv` of a unit owns what the unit does around it, `units.3.shortcut.pool`.
    """
    owners = [name for name in layers if f"{op}.".startswith(f"{name}.")]
    owners = owners or [n for n in layers if n.endswith(".conv") and f"{op}.".startswith(n.removesuffix("conv"))]
    return max(owners, key=len, default=None)


def record(model: nn.Module, images: Tensor) -> None:
    """Let the 8-bit layers of `model` record the ranges of their inputs on `images`; nothing else changes."""
    layers = [m for m in model.modules() if isinstance(m, (ByteConv2d, ByteLinear))]
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    for layer in layers:
        layer.training = layer.recording = True
    with neutral():
        model(images)
    for layer in layers:
        layer.recording = False
    for module, mode in modes:
        module.training = mode
