"""BBG (arXiv 1909.12117) that balances activations, not weights: about half of a channel's bits are +1.

Activations: `q(x) = sign(x - mean_c)`, with the mean that channel c has in the batch while it learns, and its running
mean afterwards. Weights: `mean|w| * sign(w)`. The residual is BBG's, one learned gate per channel, with RPReLU after
the sum (arXiv 2003.03488).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from bbg.methods.base import Binarizer, BinarizerForm, Method
from bbg.methods.bbg import ScaledWeight


class BalancedActivation(Binarizer):
    """`sign(x - mean_c)`; straight through where `|x - mean_c| <= 1`, and as written through the mean.

    In training mode the mean is that of the batch, `[C]` over all other axes in float32, and `running_mean` follows it
    as that of a BatchNorm does: `momentum` is its pace, None for the plain mean of all batches since the last reset.
    Otherwise the threshold is `running_mean`. `across`: takes the mean in the batches of several processes that train
    together, of a tensor over these axes; None: that of the batch which is here.
    """

    running_mean: Tensor
    num_batches_tracked: Tensor
    across: Callable[[Tensor, list[int]], Tensor] | None = None

    def __init__(self, in_channels: int) -> None:
        super().__init__(axis=1)
        self.momentum: float | None = 0.1
        self.register_buffer("running_mean", torch.zeros(in_channels))
        self.register_buffer("num_batches_tracked", torch.zeros((), dtype=torch.int64))

    def reset_running_stats(self) -> None:
        """Forget the running mean."""
        self.running_mean.zero_()
        self.num_batches_tracked.zero_()

    def form(self, x: Tensor) -> BinarizerForm:
        if not self.training:
            return BinarizerForm(threshold=self.running_mean)
        axes, dtype = [axis for axis in range(x.ndim) if axis != self.axis], self.running_mean.dtype
        mean = x.mean(axes, dtype=dtype) if self.across is None else self.across(x, axes).to(dtype)
        with torch.no_grad():
            self.num_batches_tracked += 1
            pace = 1 / self.num_batches_tracked if self.momentum is None else self.momentum
            self.running_mean += pace * (mean - self.running_mean)
        return BinarizerForm(threshold=mean)


PLUS = Method("bbg-plus", ScaledWeight, BalancedActivation, shortcut="gated", act="rprelu")
