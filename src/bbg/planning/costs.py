"""What the layers of a network take in the engine, in time and in bytes, by their width.

The network is packed with all layers at 8 bits, and with all at 1 bit where they can be, and each op is timed. An op
belongs to the layer whose name its own begins with: a unit's shortcut is part of what its convolution costs. What
belongs to no layer is there at any width.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import Tensor, nn

from bbg.conversion import convert
from bbg.engine import load
from bbg.graph.file import read
from bbg.image import Preprocess
from bbg.layers import ByteConv2d, ByteLinear
from bbg.layers.byte import fix_pixels
from bbg.tracing.neutral import neutral

ROUNDS = 30  # runs, of which each op's fastest counts


@dataclass(frozen=True)
class Cost:
    """Time of one image on one thread, and bytes of tensors in the packed file."""

    seconds: float = 0.0
    bytes: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.seconds + other.seconds, self.bytes + other.bytes)


def costs_by_layer(
    model: nn.Module, layers: Collection[str], images: Tensor, preprocess: Preprocess
) -> tuple[dict[str, Cost], Cost]:
    """The cost of each of the `layers`, by their qualified names in `model`, and of all that belongs to none.

    `images`: a batch of images, normalised by `preprocess`, which the ranges of 8-bit layers are recorded on.
    """
    fix_pixels(model, images[:1], torch.tensor(preprocess.mean), torch.tensor(preprocess.std))
    record(model, images)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "network.bbg"
        convert(model, path, images[:2], edges="fp32", preprocess=preprocess)
        ops = read(path).graph.costs()
        engine = load(path, 1)
    one = images[:1].numpy()
    times = np.min([[op.seconds for op in engine.profile(one)] for _ in range(ROUNDS)], axis=0)
    found = {name: Cost() for name in layers}
    rest = Cost()
    for op, seconds in zip(ops, times, strict=True):
        cost = Cost(float(seconds), op.bytes)
        owner = layer_of(op.name, layers)
        if owner is None:
            rest = rest + cost
        else:
            found[owner] = found[owner] + cost
    return found, rest


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
