"""Signs, entropies and gates: what the weights of a binary network are."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bbg.errors import BbgError
from bbg.layers import BinaryConv2d, BinaryLinear, Unit
from bbg.methods import Binarizer


@dataclass(frozen=True)
class Entropy:
    """Entropy of the weight signs of one layer, `H(p) = -p log2 p - (1-p) log2 (1-p)` bits, `p` the share of +1.

    `layer`: H over all its weights; `filters`: `[O]` float64, H of each filter. 0 where all signs are alike, 1 where
    half of them are +1. `least` and `mean` are those of the filters.
    """

    name: str
    weights: int
    positive: float
    layer: float
    filters: Tensor

    @property
    def least(self) -> float:
        return float(self.filters.min())

    @property
    def mean(self) -> float:
        return float(self.filters.mean())


def binary_layers(model: nn.Module) -> dict[str, BinaryConv2d | BinaryLinear]:
    """The binary layers of `model` by name, in the order of `named_modules`."""
    return {name: m for name, m in model.named_modules() if isinstance(m, BinaryConv2d | BinaryLinear)}


@torch.no_grad()
def signs(model: nn.Module) -> dict[str, Tensor]:
    """Of every binary layer, where its weight is +1: bool, of the weight's shape, on the CPU.

    That is `sign(w - threshold) > 0`, the threshold being that of the layer's weight binarizer.
    """
    return {name: signs_of(layer.weight_binarizer, layer.weight).cpu() for name, layer in binary_layers(model).items()}


def signs_of(binarizer: Binarizer, x: Tensor) -> Tensor:
    """Where `binarizer` makes `x` a +1: bool, of its shape."""
    return binarizer.signs(x, binarizer.form(x)) > 0


def flips(before: dict[str, Tensor], after: dict[str, Tensor]) -> dict[str, float]:
    """Per layer, the share of signs that differ between two answers of `signs`: 0 to 1.

    Raises BbgError where the two do not have the same layers with the same shapes.
    """
    for name in {**before, **after}:
        shapes = [list(side[name].shape) if name in side else "missing" for side in (before, after)]
        if shapes[0] != shapes[1]:
            raise BbgError(f"flips: layer {name!r} is {shapes[0]} before and {shapes[1]} after; compare one network")
    return {name: float((before[name] != sign).double().mean()) for name, sign in after.items()}


def weight_entropy(model: nn.Module) -> list[Entropy]:
    """The entropy of the weight signs of every binary layer, as a whole and per filter."""
    rows = []
    for name, sign in signs(model).items():
        share = sign.flatten(1).double().mean(1)
        rows.append(Entropy(name, sign.numel(), float(share.mean()), float(_entropy(share.mean())), _entropy(share)))
    return rows


def _entropy(p: Tensor) -> Tensor:
    nats: Tensor = torch.special.entr(p) + torch.special.entr(1 - p)
    return nats / math.log(2)


@dataclass(frozen=True)
class Gates:
    """The learned gates of one unit, `values` `[O]` on the CPU, and their statistics.

    `std` divides by O; `negative` is the share below 0: channels whose shortcut is turned round.
    """

    name: str
    values: Tensor
    mean: float
    std: float
    least: float
    largest: float
    negative: float


def gates(model: nn.Module) -> list[Gates]:
    """The gates of every unit (bbg.layers.Unit) that has learned ones."""
    rows = []
    for name, unit in model.named_modules():
        if isinstance(unit, Unit) and unit.gate is not None:
            g = unit.gate.detach().cpu().clone()
            facts = (g.mean(), g.std(correction=0), g.min(), g.max(), (g < 0).double().mean())
            rows.append(Gates(name, g, *map(float, facts)))
    return rows
