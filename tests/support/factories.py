"""Modules of one's own, as a user would name them: `support.factories:mobilenet`."""

from __future__ import annotations

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models import MobileNetV2

import bbg

SIDE = 16


def mobilenet(num_classes: int) -> nn.Module:
    """A short MobileNetV2 of torchvision with dropout, binarized."""
    torch.manual_seed(0)
    blocks = [[1, 16, 1, 1], [6, 24, 2, 2], [6, 32, 2, 2]]
    network = MobileNetV2(num_classes, width_mult=0.5, inverted_residual_setting=blocks, dropout=0.2)
    return bbg.binarize(network, example=torch.randn(2, 3, SIDE, SIDE))


def linear(num_classes: int, in_channels: int) -> nn.Module:
    """One layer for the digits."""
    return nn.Sequential(nn.Flatten(), nn.Linear(in_channels * 64, num_classes))


def convolution(num_classes: int, in_channels: int) -> nn.Module:
    """A small real-valued network for images of any size."""
    layers = nn.Conv2d(in_channels, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, num_classes)
    return nn.Sequential(*layers)


def of_any_keyword(**options: int) -> nn.Module:
    """Takes whatever it is given."""
    return linear(**options)


def without_arguments() -> nn.Module:
    """Takes nothing."""
    return linear(10, 1)


def no_module() -> str:
    """What a factory must not return."""
    return "a network"


NOT_A_FUNCTION = 3


def squeezenet(num_classes: int) -> nn.Module:
    """A float network of torchvision, which takes small images."""
    torch.manual_seed(0)
    return torchvision.models.squeezenet1_1(num_classes=num_classes)


def needs_more(depth: int) -> nn.Module:
    """Cannot be called."""
    return linear(depth, 1)


def pooled(num_classes: int) -> nn.Module:
    """One layer, which is the first and the last."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, num_classes))


class Small(nn.Module):
    """A float network with a batch norm, an activation that is replaced, and a pool behind which one is added."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.middle = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.after = nn.BatchNorm2d(8)
        self.last = nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.max_pool2d(self.norm(self.stem(x)).relu(), 2)
        x = self.last(self.after(self.middle(x)).relu()).relu()
        return self.head(x.mean((2, 3)))
