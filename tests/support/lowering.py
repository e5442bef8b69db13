"""Networks of one function."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

EXAMPLE = torch.randn(5, 3, 16, 16, generator=torch.Generator().manual_seed(0))


class Functional(nn.Module):
    """A network of torch's functions: `function` of the input and the layers."""

    def __init__(self, function: Callable[..., object], *layers: nn.Module) -> None:
        super().__init__()
        self.function = function
        self.layers = nn.ModuleList(layers)

    def forward(self, x: torch.Tensor) -> object:
        return self.function(x, *self.layers)
