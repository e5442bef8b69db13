"""Networks of the study that the package has not: a depthwise one, and networks of layers of different widths."""

from __future__ import annotations

from torch import nn

from bbg.layers import Unit
from bbg.methods import get
from bbg.models.resnet import ResNetCifar


def staged(num_classes: int, stages: list[tuple[int, str]], blocks: int, act: str = "rprelu") -> nn.Module:
    """A ResNet (CIFAR) whose stages have channels and a method of their own, which binarizes them or does not."""
    channels = stages[0][0]
    network = ResNetCifar(num_classes, "float", blocks=blocks, width=channels, act=act)
    units: list[nn.Module] = []
    for number, (out, method) in enumerate(stages):
        for i in range(2 * blocks):
            stride = 2 if number and not i else 1
            units.append(Unit.build(channels, out, 3, stride=stride, padding=1, method=get(method), act=act))
            channels = out
    network.units = nn.Sequential(*units)
    network.norm, network.head = nn.BatchNorm1d(channels), nn.Linear(channels, num_classes)
    return network


def resnet8_mixed(num_classes: int) -> nn.Module:
    """ResNet-8 with 16 and 32 channels real-valued and 128 at 1 bit."""
    return staged(num_classes, [(16, "float"), (32, "float"), (128, "bbg")], blocks=1)


def resnet8_mixed_twin(num_classes: int) -> nn.Module:
    """The same at the widths of ResNet-8 and real-valued throughout, for the same recipe."""
    return staged(num_classes, [(16, "float"), (32, "float"), (64, "float")], blocks=1)


def resnet18_mixed(num_classes: int) -> nn.Module:
    """ResNet-18 (CIFAR) w16 with its stages of 16 and 32 channels real-valued and those of 64 and 128 at 1 bit."""
    return staged(num_classes, [(16, "float"), (32, "float"), (64, "bbg"), (128, "bbg")], blocks=2)


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
