"""ReActNet (Liu, Shen, Savvides, Cheng; arXiv 2003.03488): learned thresholds before `sign`, RPReLU after the sum.

`RSign(x) = sign(x - threshold_c)` with one learned threshold per input channel; weights `mean|w| * sign(w)`; the
activation's pseudo-gradient is Bi-Real's; `y = RPReLU(BN(conv(q(x), q(w))) + shortcut(x))`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bbg.methods.base import Binarizer, BinarizerForm, Method, triangle
from bbg.methods.bbg import ScaledWeight


class RSign(Binarizer):
    """`sign(x - threshold_c)`, the threshold learned, 0 at first."""

    gradient = staticmethod(triangle)

    def __init__(self, in_channels: int) -> None:
        super().__init__(axis=1)
        self.threshold = nn.Parameter(torch.zeros(in_channels))

    def form(self, x: Tensor) -> BinarizerForm:
        return BinarizerForm(threshold=self.threshold)


REACTNET = Method("reactnet", ScaledWeight, RSign, shortcut="fixed", act="rprelu")
