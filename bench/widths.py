"""Which layers of a network are faster at 1 bit than at 8, on this CPU.

Both ends are packed, all layers in 8 bits, and all at 1 bit that can be, and each op is timed. Where a layer pays is
not quite the sum of its ops: a 1-bit layer between 8-bit ones makes its neighbours turn bytes into real values. So
layers that gain little are left at 8 bits in a second choice, and the networks say which one is faster.
"""

from __future__ import annotations

import copy
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import nn

import bbg
from bbg.graph.file import read
from bbg.planning.costs import Packed, costs_by_layer

GAINS = (1.0, 1.3)  # how many times faster a layer must be


def packed(network: nn.Module, images: torch.Tensor, preset: str, to: Path | None = None) -> Packed:
    """`network` with all that is not 1 bit in 8, as an engine of one thread; the file goes to `to`, if given."""
    with tempfile.TemporaryDirectory() as folder:
        path = to or Path(folder) / "network.bbg"
        bbg.convert(network.eval(), path, images, edges="int8", preprocess=preset)
        return Packed(read(path).graph.costs(), bbg.load(path, 1))


def choices(original: nn.Module, images: torch.Tensor, preset: str, image: np.ndarray) -> list[tuple[str, ...]]:
    """The names of the layers that are to have 1 bit, for each of the GAINS; none twice, and none that is empty."""
    binary = bbg.binarize(copy.deepcopy(original), example=images[:1])
    layers = [row.name for row in binary.report.rows if row.bits == 1]
    ends = [packed(network, images, preset) for network in (original, binary)]
    (at_8, _), (at_1, _) = costs_by_layer(ends, layers, image)
    found = (tuple(n for n in layers if gain * at_1[n].seconds < at_8[n].seconds) for gain in GAINS)
    return [names for names in dict.fromkeys(found) if names]
