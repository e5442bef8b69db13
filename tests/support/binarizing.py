"""What tests of binarize share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import bbg
from bbg.analysis.weights import binary_layers
from bbg.binarization import Binarized

EXAMPLE = torch.randn(4, 3, 12, 12, generator=torch.Generator().manual_seed(2))


class Functional(nn.Module):
    """`function` of the images and the layers, which are called `a`, `b`, `c`, ..."""

    def __init__(self, function: Callable[..., Any], *layers: nn.Module) -> None:
        super().__init__()
        self.function, self.count = function, len(layers)
        for name, layer in zip("abcdefgh", layers, strict=False):
            setattr(self, name, layer)

    def forward(self, x: Tensor) -> Any:
        return self.function(x, *(getattr(self, name) for name in "abcdefgh"[: self.count]))


def images(count: int, size: int) -> Tensor:
    """Random images whose neighbouring pixels are alike, as those of photographs are."""
    generator = torch.Generator().manual_seed(0)
    layers = [torch.randn(count, 3, side, side, generator=generator) for side in (4, 8, 16, 32)]
    x = sum(F.interpolate(layer, (size, size), mode="bilinear") / (i + 1) for i, layer in enumerate(layers))
    assert isinstance(x, Tensor)
    return x / x.std()


def inputs_of_signs(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """What each binary layer gets."""
    met: dict[str, Tensor] = {}
    hooks = [
        layer.register_forward_pre_hook(lambda _, args, name=name: met.__setitem__(name, args[0].detach()))
        for name, layer in binary_layers(model).items()
    ]
    model(x)
    for hook in hooks:
        hook.remove()
    return met


def storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def conv(inputs: int = 4, outputs: int = 4, kernel: int = 3, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, **options)


def three(function: Callable[..., Any], *more: nn.Module, **options: Any) -> Binarized:
    """A first and a last convolution, and one or more between them."""
    return bbg.binarize(Functional(function, conv(3), conv(), conv(), *more), example=EXAMPLE, **options)


def what(binary: Binarized) -> dict[str, tuple[str, str]]:
    return {row.name: (row.action, row.why) for row in binary.report.rows}


class Own(nn.Module):
    """What people write: functions, one ReLU for all, a pool, dropout, a flattened map with a hidden layer behind."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1)
        self.conv2 = nn.Conv2d(8, 16, 3, padding=1, groups=2)
        self.conv3 = nn.Conv2d(16, 12, (3, 1), stride=2)
        self.bn3 = nn.BatchNorm2d(12)
        self.relu = nn.ReLU(inplace=True)
        self.fc1 = nn.Linear(12 * 2 * 3, 10)
        self.fc2 = nn.Linear(10, 16)
        self.bn2 = nn.BatchNorm1d(16)
        self.fc3 = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = self.relu(self.conv2(x))
        x = self.relu(self.bn3(self.conv3(x)))
        x = F.dropout(x, 0.5, training=self.training)
        x = torch.flatten(x, 1)
        x = self.relu(self.fc1(x))
        return self.fc3(torch.relu(self.bn2(self.fc2(x))))
