"""VGG: plain stacks of 3x3 convolutions. The first convolution and the linear layer stay real-valued.

VGG-Small (as in LQ-Net and IR-Net): six convolutions of 128, 128, 256, 256, 512, 512 channels, one linear layer. A 2x2
max-pool follows the second, fourth and sixth.

VGG-16 (Simonyan and Zisserman, arXiv 1409.1556) in the form that SSD reads (arXiv 1512.02325, section 3): thirteen
convolutions, then a dilated 3x3 and a 1x1 in place of its two large linear layers; a fifth pool that keeps the size;
global average pool and a linear layer.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from bbg.errors import BbgError
from bbg.layers import Unit, pointwise
from bbg.methods import Method, get
from bbg.models.names import Names, of_vgg16
from bbg.models.resnet import PooledForm

VGG = ((1, 2), (2, 2), (4, 3), (8, 3), (8, 3))  # of VGG-16 between its pools: multiples of the width, convolutions


class VGGSmall(nn.Module):
    """Images `[N, in_channels, *size]` to logits `[N, num_classes]`; the sides of `size` are multiples of 8."""

    def __init__(
        self,
        num_classes: int,
        method: str | Method = "bbg",
        *,
        width: int = 128,
        in_channels: int = 3,
        size: int | tuple[int, int] = 32,
        act: str | None = None,
    ) -> None:
        super().__init__()
        high, wide = (size, size) if isinstance(size, int) else size
        if min(high, wide) < 8 or high % 8 or wide % 8:
            raise BbgError(f"vgg_small: size is {size}, allowed are multiples of 8")
        chosen = get(method)
        self.stem = nn.Sequential(*_first(chosen, width, in_channels, act))
        units = []
        channels = width
        for i, factor in enumerate((1, 2, 2, 4, 4)):
            pool = nn.MaxPool2d(2) if i % 2 == 0 else None
            units.append(Unit.build(channels, width * factor, 3, padding=1, method=chosen, act=act, pool=pool))
            channels = width * factor
        self.units = nn.Sequential(*units)
        self.head = nn.Linear(channels * (high // 8) * (wide // 8), num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        logits: Tensor = self.head(self.units(self.stem(x)).flatten(1))
        return logits


def _first(method: Method, width: int, in_channels: int, act: str | None) -> list[nn.Module]:
    """The real-valued first layer."""
    conv = nn.Conv2d(in_channels, width, 3, padding=1, bias=False)
    return [conv, nn.BatchNorm2d(width), pointwise(method.act if act is None else act, width)]


def vgg16_stages(method: Method, width: int, in_channels: int, act: str | None) -> list[nn.Sequential]:
    """The convolutions of VGG-16 up to conv4_3, with 8 * `width` channels, and from its pool to conv7, 16 * `width`."""
    first, second = _first(method, width, in_channels, act), list[nn.Module]()
    have = width

    def unit(channels: int, kernel: int, **options: Any) -> Unit:
        nonlocal have
        made = Unit.build(have, channels, kernel, method=method, act=act, **options)
        have = channels
        return made

    for block, (factor, count) in enumerate(VGG):
        for i in range(1 if block == 0 else 0, count):
            pool = nn.MaxPool2d(2, ceil_mode=True) if i == count - 1 and block < 3 else None
            if i == count - 1 and block == 4:
                pool = nn.MaxPool2d(3, stride=1, padding=1)
            (first if block < 4 else second).append(unit(factor * width, 3, padding=1, pool=pool))
    second.insert(0, nn.MaxPool2d(2, ceil_mode=True))
    second += [unit(16 * width, 3, padding=6, dilation=6), unit(16 * width, 1)]
    return [nn.Sequential(*first), nn.Sequential(*second)]


def vgg16_elsewhere() -> list[Names]:
    """Tables of others' names to those of `vgg16_stages`, which are the attribute `stages`."""
    first, second = [f"stages.0.{i}" for i in (0, *range(3, 12))], [f"stages.1.{i}" for i in range(1, 6)]
    return of_vgg16(first + second)


class VGG16(PooledForm):
    """Images `[N, in_channels, H, W]` to logits `[N, num_classes]`; `stages`: those of the detector `ssd300_vgg16`."""

    def __init__(
        self,
        num_classes: int,
        method: str | Method = "bbg",
        *,
        width: int = 64,
        in_channels: int = 3,
        act: str | None = None,
    ) -> None:
        super().__init__(vgg16_stages(get(method), width, in_channels, act), 16 * width, num_classes)
        self.elsewhere = vgg16_elsewhere()


NETWORKS = {"vgg_small": VGGSmall, "vgg16": VGG16}
