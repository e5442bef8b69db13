"""A network of one function, written as a lambda."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn


class Functional(nn.Module):
    """A network whose forward is `function(x, *layers, **named)`."""

    def __init__(self, function: Callable[..., Any], *layers: nn.Module, **named: nn.Module) -> None:
        super().__init__()
        self.function = function
        self.layers, self.named = nn.ModuleList(layers), nn.ModuleDict(named)

    def forward(self, x: Tensor) -> Any:
        return self.function(x, *self.layers, **self.named)
