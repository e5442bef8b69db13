"""torchvision's networks, none of them written here: builder and the smallest image that each is tried on."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torchvision.models as tv
from torch import nn

NETWORKS: dict[str, tuple[Callable[..., nn.Module], int]] = {
    "resnet18": (tv.resnet18, 64),
    "resnet34": (tv.resnet34, 64),
    "resnet50": (tv.resnet50, 64),
    "vgg11": (tv.vgg11, 32),
    "vgg11_bn": (tv.vgg11_bn, 32),
    "vgg16": (tv.vgg16, 32),
    "vgg16_bn": (tv.vgg16_bn, 32),
    "densenet121": (tv.densenet121, 64),
    "mobilenet_v2": (tv.mobilenet_v2, 64),
    "mobilenet_v3_small": (tv.mobilenet_v3_small, 96),
    "mobilenet_v3_large": (tv.mobilenet_v3_large, 64),
    "efficientnet_b0": (tv.efficientnet_b0, 64),
    "googlenet": (partial(tv.googlenet, init_weights=False), 64),
    "squeezenet1_1": (tv.squeezenet1_1, 64),
    "regnet_x_400mf": (tv.regnet_x_400mf, 64),
    "regnet_y_400mf": (tv.regnet_y_400mf, 64),
    "shufflenet_v2_x1_0": (tv.shufflenet_v2_x1_0, 64),
    "convnext_tiny": (tv.convnext_tiny, 64),
}


def build(name: str, **options: Any) -> nn.Module:
    """The network called `name` with random weights, for ten classes."""
    return NETWORKS[name][0](weights=None, num_classes=10, **options)
