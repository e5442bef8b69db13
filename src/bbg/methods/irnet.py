"""IR-Net (Qin, Gong, Liu, Shen, Wei, Yu, Song; arXiv 1909.10788): standardised weights, a sharpening backward pass.

With `v = (w - mean w) / std w` per filter, `q(w) = 2^round(log2(mean|v|)) * sign(v)`; activations `sign(x)`. Both count
backward as `k tanh(t v)`, `k = max(1/t, 1)`: t rises over the training from 0.1, nearly the identity, to 10, nearly the
sign itself. A shortcut of weight 1 around every convolution, Hardtanh after the sum.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bbg.methods.base import Binarizer, BinarizerForm, Method

SHALLOW, STEEP = 0.1, 10.0  # t at the beginning and at the end of the training


class Sharpening(Binarizer):
    """Base of what counts backward as `k tanh(t v)`; t is a function of the share of the training that is over."""

    t: Tensor

    def __init__(self, axis: int) -> None:
        super().__init__(axis)
        self.register_buffer("t", torch.tensor(SHALLOW), persistent=False)

    @staticmethod
    def gradient(x: Tensor) -> Tensor:
        """Derivative of tanh."""
        return 1 - x.tanh().square()

    def anneal(self, progress: float) -> None:
        self.t.fill_(SHALLOW * (STEEP / SHALLOW) ** progress)

    def sharpened(self, form: BinarizerForm, deviation: Tensor | float = 1.0) -> BinarizerForm:
        """`form` with the width and gain that make `(x - threshold) / deviation` count as `k tanh(t ...)`."""
        return form._replace(width=deviation / self.t, gain=(1 / self.t).clamp(min=1))


def standardised(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (of all numbers, not an estimate) of each filter of `[O, ...]`, the latter not 0."""
    filters = weight.flatten(1)
    mean = filters.mean(1)
    deviation = (filters - mean[:, None]).square().mean(1).clamp(min=torch.finfo(weight.dtype).eps ** 2).sqrt()
    return mean, deviation


class StandardisedWeight(Sharpening):
    """`2^round(log2(mean|v|)) * sign(v)`, `v` the standardised filter; the scale takes no gradient."""

    def __init__(self, out_channels: int) -> None:
        super().__init__(axis=0)

    def form(self, x: Tensor) -> BinarizerForm:
        mean, deviation = standardised(x)
        size = ((x.flatten(1) - mean[:, None]).abs().mean(1) / deviation).detach()
        scale = torch.where(size > 0, size.clamp(min=torch.finfo(size.dtype).tiny).log2().round().exp2(), size)
        return self.sharpened(BinarizerForm(threshold=mean, scale=scale), deviation)


class SharpeningActivation(Sharpening):
    """`sign(x)`."""

    def __init__(self, in_channels: int) -> None:
        super().__init__(axis=1)

    def form(self, x: Tensor) -> BinarizerForm:
        return self.sharpened(BinarizerForm())


IRNET = Method("irnet", StandardisedWeight, SharpeningActivation, shortcut="fixed", act="hardtanh")
