"""The networks, by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn

from bbg.errors import BbgError
from bbg.methods import Method, get
from bbg.models.resnet import ResNet, ResNetCifar
from bbg.models.vgg import VGGSmall

__all__ = ["NETWORKS", "allowed_options", "create"]

NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "resnet20": ResNetCifar,
    "resnet8": partial(ResNetCifar, blocks=1),
    "resnet18": ResNet,
    "resnet18_cifar": partial(ResNet, stem="cifar"),
    "resnet34": partial(ResNet, blocks=(3, 4, 6, 3)),
    "vgg_small": VGGSmall,
}


def create(name: str, method: str | Method = "bbg", *, num_classes: int, **options: Any) -> nn.Module:
    """The network called `name`, its inner convolutions made binary by `method`.

    `options` are the network's own keywords (`act`, `width`, `in_channels`, ...). Weights are drawn from torch's global
    generator. Raises BbgError for an unknown name, method or option.
    """
    allowed = allowed_options(name)
    if unknown := [k for k in options if k not in allowed]:
        raise BbgError(f"network {name!r} has no option {unknown[0]!r}; allowed are {', '.join(allowed)}")
    if num_classes < 1:
        raise BbgError(f"num_classes is {num_classes}, allowed are 1 and more")
    return NETWORKS[name](num_classes, get(method), **options)


def allowed_options(name: str) -> list[str]:
    """The options that the network called `name` takes; BbgError for an unknown name."""
    if name not in NETWORKS:
        raise BbgError(f"unknown network {name!r}; allowed are {', '.join(NETWORKS)}")
    return [k for k in inspect.signature(NETWORKS[name]).parameters if k not in ("num_classes", "method")]
