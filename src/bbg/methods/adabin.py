"""AdaBin (Tu, Chen, Ren, Wang; arXiv 2208.08084): two values of their own for every filter and every activation.

Weights, per filter: `q(w) = mean + std * sign(w - mean)`. Activations, per layer: `q(x) = b + a * sign(x - b)`, a and b
learned. Backward the weights sharpen as in IR-Net, and activations count as a piecewise quadratic of `(x - b) / a` as
in Bi-Real Net. After the sum Maxout: one learned slope for each side of 0, per channel.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bbg.methods.base import ACTIVATIONS, Binarizer, BinarizerForm, Hinge, Method, Pointwise, triangle
from bbg.methods.irnet import Sharpening, standardised

LEAST = 1e-3  # distance of an activation's two values from their mean


class TwoValueWeight(Sharpening):
    """`mean + std * sign(w - mean)` per filter."""

    def __init__(self, out_channels: int) -> None:
        super().__init__(axis=0)

    def form(self, x: Tensor) -> BinarizerForm:
        mean, deviation = standardised(x)
        return self.sharpened(BinarizerForm(threshold=mean, scale=deviation, shift=mean), deviation)


class TwoValueActivation(Binarizer):
    """`centre + distance * sign(x - centre)`, one learned number each, at first 0 and 1."""

    gradient = staticmethod(triangle)

    def __init__(self, in_channels: int) -> None:
        super().__init__(axis=1)
        self.centre = nn.Parameter(torch.zeros(1))
        self.distance = nn.Parameter(torch.ones(1))

    def form(self, x: Tensor) -> BinarizerForm:
        distance = self.distance.abs().clamp(min=LEAST)
        return BinarizerForm(threshold=self.centre, scale=distance, shift=self.centre, width=distance)


class Maxout(Pointwise):
    """`h(x) = above * x if x >= 0 else below * x`, learned slopes per channel, 1 and 0.25 at first."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.above = nn.Parameter(torch.ones(channels))
        self.below = nn.Parameter(torch.full((channels,), 0.25))

    def hinge(self) -> Hinge:
        return Hinge(above=self.above, below=self.below)


ACTIVATIONS["maxout"] = Maxout
ADABIN = Method("adabin", TwoValueWeight, TwoValueActivation, shortcut="fixed", act="maxout")
