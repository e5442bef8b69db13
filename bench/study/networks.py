"""Networks of the study that the package has not: a depthwise one, and networks of layers of different widths."""

from __future__ import annotations

from typing import NamedTuple

from torch import nn

from bbg.layers import Unit, set_bits
from bbg.methods import get
from bbg.models.resnet import ResNetCifar


class Stage(NamedTuple):
    """`units` one-conv units of `channels` channels, their convolutions of `bits` bits."""

    channels: int
    bits: int
    units: int


def staged(num_classes: int, *stages: Stage, method: str = "bbg-gate", act: str = "rprelu") -> nn.Module:
    """A ResNet (CIFAR) of these stages, each behind the first at half the resolution; stem and head have 8 bits."""
    channels = stages[0].channels
    network = ResNetCifar(num_classes, method, width=channels, act=act)
    units: list[nn.Module] = []
    for number, stage in enumerate(stages):
        for i in range(stage.units):
            stride = 2 if number and not i else 1
            unit = Unit.build(channels, stage.channels, 3, stride=stride, padding=1, method=get(method), act=act)
            units.append(set_bits(unit, stage.bits))
            channels = stage.channels
    network.units = nn.Sequential(*units)
    network.norm, network.head = nn.BatchNorm1d(channels), nn.Linear(channels, num_classes)
    return set_bits(network, {"first": 8, "last": 8})


# Beside ResNet-8 w16 in 8 bits


def mixed_small(num_classes: int) -> nn.Module:
    """Deeper than ResNet-8, with a last stage of 96 channels at 1 bit."""
    return staged(num_classes, Stage(16, 8, 4), Stage(32, 8, 4), Stage(96, 1, 3))


def mixed_small_wide(num_classes: int) -> nn.Module:
    """As deep as ResNet-8, with wider stages of 8 bits and a last one of 128 channels at 1 bit."""
    return staged(num_classes, Stage(24, 8, 2), Stage(48, 8, 2), Stage(128, 1, 2))


def mixed_small_broad(num_classes: int) -> nn.Module:
    """The same with a wider first stage and a last one of 96 channels."""
    return staged(num_classes, Stage(32, 8, 2), Stage(48, 8, 2), Stage(96, 1, 2))


def mixed_small_fast(num_classes: int) -> nn.Module:
    """ResNet-8 with its last stage at 1 bit, and another one of 128 channels behind it."""
    return staged(num_classes, Stage(16, 8, 2), Stage(32, 8, 2), Stage(64, 1, 2), Stage(128, 1, 2))


# Beside ResNet-20 w16 in 8 bits


def mixed_medium(num_classes: int) -> nn.Module:
    """ResNet-18 (CIFAR) w16 with half of its third stage, and its last stage at 1 bit."""
    return staged(num_classes, Stage(16, 8, 4), Stage(32, 8, 4), Stage(64, 8, 2), Stage(128, 1, 4))


def mixed_medium_plus(num_classes: int) -> nn.Module:
    """The same with balanced activations at 1 bit."""
    stages = Stage(16, 8, 4), Stage(32, 8, 4), Stage(64, 8, 2), Stage(128, 1, 4)
    return staged(num_classes, *stages, method="bbg-plus")


def mixed_medium_wide(num_classes: int) -> nn.Module:
    """Two short and wide stages of 8 bits, and a long one of 128 channels at 1 bit."""
    return staged(num_classes, Stage(32, 8, 2), Stage(64, 8, 2), Stage(128, 1, 6))


def mixed_medium_short(num_classes: int) -> nn.Module:
    """The same stages, two convolutions in each: as deep as ResNet-8, and twice as wide."""
    return staged(num_classes, Stage(32, 8, 2), Stage(64, 8, 2), Stage(128, 1, 2))


def mixed_medium_deep(num_classes: int) -> nn.Module:
    """ResNet-18 (CIFAR) w32 without its last stage, its third one at 1 bit."""
    return staged(num_classes, Stage(32, 8, 4), Stage(64, 8, 4), Stage(128, 1, 4))


# Beside ResNet-18 (CIFAR) w16 in 8 bits


def resnet18_mixed(num_classes: int) -> nn.Module:
    """ResNet-18 (CIFAR) w16 with its last stage at 1 bit."""
    return staged(num_classes, Stage(16, 8, 4), Stage(32, 8, 4), Stage(64, 8, 4), Stage(128, 1, 4))


def resnet18_mixed_wide(num_classes: int) -> nn.Module:
    """The same with a last stage twice as wide."""
    return staged(num_classes, Stage(16, 8, 4), Stage(32, 8, 4), Stage(64, 8, 4), Stage(256, 1, 4))


def mixed_large(num_classes: int) -> nn.Module:
    """ResNet-18 (CIFAR) w32 with its last two stages at 1 bit."""
    return staged(num_classes, Stage(32, 8, 4), Stage(64, 8, 4), Stage(128, 1, 4), Stage(256, 1, 4))


def mixed_large_short(num_classes: int) -> nn.Module:
    """ResNet-18 (CIFAR) w32 without half of its last two stages, its last one at 1 bit."""
    return staged(num_classes, Stage(32, 8, 4), Stage(64, 8, 4), Stage(128, 8, 2), Stage(256, 1, 2))


def mixed_large_narrow(num_classes: int) -> nn.Module:
    """ResNet-18 (CIFAR) w24 with its last stage at 1 bit."""
    return staged(num_classes, Stage(24, 8, 4), Stage(48, 8, 4), Stage(96, 8, 4), Stage(192, 1, 4))


def depthwise(num_classes: int) -> nn.Module:
    """Depthwise 3x3 and pointwise 1x1 convolutions with BN and ReLU (MobileNet, arXiv 1704.04861), for 32x32 images."""

    def layers(inputs: int, outputs: int, size: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
        conv = nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups, bias=False)
        return [conv, nn.BatchNorm2d(outputs), nn.ReLU()]

    modules, channels = layers(3, 32, 3), 32
    for out, stride in ((32, 1), (64, 2), (64, 1), (128, 2), (128, 1), (128, 1)):
        modules += layers(channels, channels, 3, stride, groups=channels) + layers(channels, out, 1)
        channels = out
    return nn.Sequential(*modules, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, num_classes))
