"""torchvision's networks, none of them written here: builder and the smallest image that each is tried on."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
import torchvision.models as tv
from torch import Tensor, nn

import bbg
from bbg.binarization import Binarized
from bbg.image import Preprocess
from cases.images import photographs

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


def binary_twin(
    name: str, side: int, classes: int = 10, method: str = "bbg", steps: int = 3
) -> tuple[Binarized, nn.Module, Tensor, list[float]]:
    """That of `binary_twin_of` for the network called `name`."""
    return binary_twin_of(partial(NETWORKS[name][0], weights=None), side, classes, method, steps)


def binary_twin_of(
    make: Callable[..., nn.Module],
    side: int,
    classes: int = 10,
    method: str = "bbg",
    steps: int = 3,
    binary: Collection[str] | None = None,
) -> tuple[Binarized, nn.Module, Tensor, list[float]]:
    """A network binarized and trained for some steps on images; with the original, the images and the losses.

    `binary`: the layers of 1 bit, all others stay real-valued; None: all that can be, but for the first and the last.
    The original's batch norms hold the statistics of the images, so that its numbers stay in a trained network's range.
    """
    torch.manual_seed(0)
    preprocess = Preprocess(side)
    images = torch.from_numpy(preprocess.normalize(photographs(side)))
    original = make(num_classes=classes)
    twin = copy.deepcopy(original)
    for module in twin.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        twin.train()(images)
    bits = None if binary is None else {**dict.fromkeys(binary, 1), "*": 32}
    network = bbg.binarize(original.train(), method, example=images[:1], bits=bits)
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    losses = []
    for _ in range(steps):
        loss = F.cross_entropy(network(images), torch.arange(len(images)) % classes)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network.eval(), twin.eval(), images, losses
