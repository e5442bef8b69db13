"""Networks of the study that the package has not: a depthwise one, and networks of layers of different widths."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
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


def staged(*stages: Stage, method: str = "bbg-gate", act: str = "rprelu") -> Callable[[int], nn.Module]:
    """What makes a ResNet (CIFAR) of these stages, each behind the first at half the resolution.

    Stem and head have 8 bits.
    """
    return partial(_of_stages, stages=stages, method=method, act=act)


def _of_stages(num_classes: int, stages: tuple[Stage, ...], method: str, act: str) -> nn.Module:
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

# Deeper than ResNet-8, with a last stage of 96 channels at 1 bit.
mixed_small = staged(Stage(16, 8, 4), Stage(32, 8, 4), Stage(96, 1, 3))
# As deep as ResNet-8, with wider stages of 8 bits and a last one of 128 channels at 1 bit.
mixed_small_wide = staged(Stage(24, 8, 2), Stage(48, 8, 2), Stage(128, 1, 2))
# The same with a wider first stage and a last one of 96 channels.
mixed_small_broad = staged(Stage(32, 8, 2), Stage(48, 8, 2), Stage(96, 1, 2))
# ResNet-8 with its last stage at 1 bit, and another one of 128 channels behind it.
mixed_small_fast = staged(Stage(16, 8, 2), Stage(32, 8, 2), Stage(64, 1, 2), Stage(128, 1, 2))

# Beside ResNet-20 w16 in 8 bits

# ResNet-18 (CIFAR) w16 with half of its third stage, and its last stage at 1 bit.
mixed_medium = staged(Stage(16, 8, 4), Stage(32, 8, 4), Stage(64, 8, 2), Stage(128, 1, 4))
# The same with balanced activations at 1 bit.
mixed_medium_plus = staged(Stage(16, 8, 4), Stage(32, 8, 4), Stage(64, 8, 2), Stage(128, 1, 4), method="bbg-plus")
# Two short and wide stages of 8 bits, and a long one of 128 channels at 1 bit.
mixed_medium_wide = staged(Stage(32, 8, 2), Stage(64, 8, 2), Stage(128, 1, 6))
# The same stages, two convolutions in each: as deep as ResNet-8, and twice as wide.
mixed_medium_short = staged(Stage(32, 8, 2), Stage(64, 8, 2), Stage(128, 1, 2))
# ResNet-18 (CIFAR) w32 without its last stage, its third one at 1 bit.
mixed_medium_deep = staged(Stage(32, 8, 4), Stage(64, 8, 4), Stage(128, 1, 4))

# Beside ResNet-18 (CIFAR) w16 in 8 bits

# ResNet-18 (CIFAR) w16 with its last stage at 1 bit.
resnet18_mixed = staged(Stage(16, 8, 4), Stage(32, 8, 4), Stage(64, 8, 4), Stage(128, 1, 4))
# The same with a last stage twice as wide.
resnet18_mixed_wide = staged(Stage(16, 8, 4), Stage(32, 8, 4), Stage(64, 8, 4), Stage(256, 1, 4))
# ResNet-18 (CIFAR) w32 with its last two stages at 1 bit.
mixed_large = staged(Stage(32, 8, 4), Stage(64, 8, 4), Stage(128, 1, 4), Stage(256, 1, 4))
# ResNet-18 (CIFAR) w32 without half of its last two stages, its last one at 1 bit.
mixed_large_short = staged(Stage(32, 8, 4), Stage(64, 8, 4), Stage(128, 8, 2), Stage(256, 1, 2))
# ResNet-18 (CIFAR) w24 with its last stage at 1 bit.
mixed_large_narrow = staged(Stage(24, 8, 4), Stage(48, 8, 4), Stage(96, 8, 4), Stage(192, 1, 4))


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
