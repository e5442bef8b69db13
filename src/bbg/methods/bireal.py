"""Bi-Real Net (Liu, Wu, Luo, Yang, Liu, Cheng; arXiv 1808.00278): a shortcut around every convolution.

Weights `mean|w| * sign(w)`, whose gradient is that of w clipped to [-1, 1]: the scale is there forward only, as in the
authors' code (the paper's formula has it backward too).
Activations: `sign(x)` with the derivative of a piecewise quadratic, `2 - 2|x|` on [-1, 1]. No nonlinearity after the
sum.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bbg.methods.base import BinarizerForm, Method, clipped, triangle
from bbg.methods.bbg import ScaledWeight, SignActivation


class ScaledForwardWeight(ScaledWeight):
    """`alpha * sign(w)` per filter, `alpha = mean|w|`; the gradient of q is that of `clip(w, -1, 1)`."""

    gradient = staticmethod(clipped)

    def form(self, x: Tensor) -> BinarizerForm:
        alpha = x.detach().flatten(1).abs().mean(1)
        return BinarizerForm(
            scale=alpha, gain=1 / alpha.clamp(min=torch.finfo(alpha.dtype).eps)
        )  # undoes the factor backward


class QuadraticActivation(SignActivation):
    """`sign(x)`, differentiated as a piecewise quadratic."""

    gradient = staticmethod(triangle)


BIREAL = Method("bireal", ScaledForwardWeight, QuadraticActivation, shortcut="fixed", act="identity")
