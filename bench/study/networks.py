"""Networks of the study that the package has not: a depthwise one, and networks of layers of different widths."""

from __future__ import annotations

from torch import Tensor, nn

from bbg.layers import Unit, pointwise
from bbg.methods import get


class Stages(nn.Module):
    """ResNetCifar with a method of its own for each stage: channels, and the method that binarizes them or does not."""

    def __init__(self, num_classes: int, stages: list[tuple[int, str]], blocks: int, act: str = "rprelu") -> None:
        super().__init__()
        channels = stages[0][0]
        conv = nn.Conv2d(3, channels, 3, padding=1, bias=False)
        self.stem = nn.Sequential(conv, nn.BatchNorm2d(channels), pointwise(act, channels))
        units: list[nn.Module] = []
        for number, (out, method) in enumerate(stages):
            for i in range(2 * blocks):
                stride = 2 if number and not i else 1
                units.append(Unit.build(channels, out, 3, stride=stride, padding=1, method=get(method), act=act))
                channels = out
        self.units = nn.Sequential(*units)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.norm = nn.BatchNorm1d(channels)
        self.head = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Images `[N, 3, H, W]` to logits."""
        logits: Tensor = self.head(self.norm(self.pool(self.units(self.stem(x))).flatten(1)))
        return logits


def resnet8_mixed(num_classes: int) -> nn.Module:
    """ResNet-8 with 16 and 32 channels real-valued and 128 at 1 bit."""
    return Stages(num_classes, [(16, "float"), (32, "float"), (128, "bbg")], blocks=1)


def resnet8_mixed_twin(num_classes: int) -> nn.Module:
    """The same at the widths of ResNet-8 and real-valued throughout, for the same recipe."""
    return Stages(num_classes, [(16, "float"), (32, "float"), (64, "float")], blocks=1)


def resnet18_mixed(num_classes: int) -> nn.Module:
    """ResNet-18 (CIFAR) w16 with its stages of 16 and 32 channels real-valued and those of 64 and 128 at 1 bit."""
    return Stages(num_classes, [(16, "float"), (32, "float"), (64, "bbg"), (128, "bbg")], blocks=2)


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
