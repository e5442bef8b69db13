"""A layer for what a forward does under `if self.training`."""

from __future__ import annotations

from torch import Tensor, fx, nn


class ByMode(nn.Module):
    """Runs `in_training` in training mode, else `in_evaluation`; None in the place of either gives the input itself."""

    def __init__(self, in_training: fx.GraphModule | None, in_evaluation: fx.GraphModule | None) -> None:
        super().__init__()
        self.in_training, self.in_evaluation = in_training, in_evaluation

    def forward(self, x: Tensor) -> Tensor:
        """What the present mode makes of `x`."""
        body = self.in_training if self.training else self.in_evaluation
        if body is None:
            return x
        y: Tensor = body(x)
        return y
