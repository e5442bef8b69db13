"""Balanced Binary Networks with Gated Residual (Shen, Liu, Gong, Han; arXiv 1909.12117), and its three ablations.

Weights, per filter: `q(w) = alpha * sign(w - mean(w))` with `alpha = mean|w - mean(w)|`. Centring puts about half the
bits of a filter at +1, so its entropy is near 1 bit. Activations: `q(x) = sign(x)`, straight through where `|x| <= 1`.
The residual: `y = act(BN(conv(q(x), q(w))) + gate * shortcut(x))`, one learned gate per channel, 1 at first.
"""

from __future__ import annotations

from torch import Tensor

from bbg.methods.base import Binarizer, BinarizerForm, Method, identity


class CentredWeight(Binarizer):
    """`alpha * sign(w - mean w)` per filter, `alpha = mean|w - mean w|`; the gradient passes `sign` as it is."""

    gradient = staticmethod(identity)

    def __init__(self, out_channels: int) -> None:
        super().__init__(axis=0)

    def form(self, x: Tensor) -> BinarizerForm:
        filters = x.flatten(1)
        mean = filters.mean(1)
        return BinarizerForm(threshold=mean, scale=(filters - mean[:, None]).abs().mean(1))


class ScaledWeight(CentredWeight):
    """`alpha * sign(w)` per filter, `alpha = mean|w|` (XNOR-Net, arXiv 1603.05279): what centring is compared with."""

    def form(self, x: Tensor) -> BinarizerForm:
        return BinarizerForm(scale=x.flatten(1).abs().mean(1))


class SignActivation(Binarizer):
    """`sign(x)`; straight through where `|x| <= 1`."""

    def __init__(self, in_channels: int) -> None:
        super().__init__(axis=1)


BBG = Method("bbg", CentredWeight, SignActivation, shortcut="gated")
BALANCED = Method("bbg-balanced", CentredWeight, SignActivation, shortcut="fixed")
GATE = Method("bbg-gate", ScaledWeight, SignActivation, shortcut="gated")
PLAIN = Method("bbg-plain", ScaledWeight, SignActivation, shortcut="fixed")
