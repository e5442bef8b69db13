"""VGG-Small (as in LQ-Net and IR-Net): six 3x3 convolutions of 128, 128, 256, 256, 512, 512 channels, one linear layer.

A 2x2 max-pool follows the second, fourth and sixth. The first convolution and the linear layer stay real-valued.
"""

from __future__ import annotations

from torch import Tensor, nn

from bbg.errors import BbgError
from bbg.layers import Unit, pointwise
from bbg.methods import Method, get


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
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            pointwise(chosen.act if act is None else act, width),
        )
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


NETWORKS = {"vgg_small": VGGSmall}
