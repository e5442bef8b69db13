"""ResNets (He et al., arXiv 1512.03385), one shortcut around every convolution. Stem and last layer stay real-valued.

The CIFAR form (section 4.2): stem 3x3, then three stages of 16, 32 and 64 channels at full, half and quarter
resolution, `2 * blocks` one-conv units each, global average pool, BN and a linear layer. 20 layers: blocks = 3.

The ImageNet form (table 1): stem 7x7 of stride 2 and 3x3 max-pool of stride 2, then four stages of 64, 128, 256 and 512
channels, each half as large as the one before, of `2 * blocks` one-conv units, global average pool and a linear layer.
18 layers: blocks = (2, 2, 2, 2); 34: (3, 4, 6, 3).
"""

from __future__ import annotations

from torch import Tensor, nn

from bbg.errors import BbgError
from bbg.layers import Unit, pointwise
from bbg.methods import Method, get


class ResNetCifar(nn.Module):
    """Images `[N, in_channels, H, W]` to logits `[N, num_classes]`; `act` None takes the method's nonlinearity."""

    def __init__(self, num_classes: int, method: str | Method = "bbg", *, blocks: int = 3, width: int = 16,
                 in_channels: int = 3, act: str | None = None) -> None:  # fmt: skip
        super().__init__()
        chosen = get(method)
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            pointwise(chosen.act if act is None else act, width),
        )
        units = []
        channels = width
        for stage in range(3):
            for i in range(2 * blocks):
                out = width * 2**stage
                stride = 2 if i == 0 and stage > 0 else 1
                units.append(Unit(channels, out, 3, stride=stride, padding=1, method=chosen, act=act))
                channels = out
        self.units = nn.Sequential(*units)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.norm = nn.BatchNorm1d(channels)
        self.head = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        return self.head(self.norm(self.pool(self.units(self.stem(x))).flatten(1)))


class ResNet(nn.Module):
    """Images `[N, in_channels, H, W]` to logits `[N, num_classes]`.

    `shortcut`: what passes the first unit of a stage that halves the map: "conv", average pooling, a real-valued 1x1
    convolution and BN (Bi-Real Net, arXiv 1808.00278), or "pool", which has no parameters.
    """

    def __init__(self, num_classes: int, method: str | Method = "bbg", *, blocks: tuple[int, ...] = (2, 2, 2, 2),
                 width: int = 64, in_channels: int = 3, act: str | None = None,
                 shortcut: str = "conv") -> None:  # fmt: skip
        super().__init__()
        if shortcut not in ("conv", "pool"):
            raise BbgError(f"shortcut is {shortcut!r}, allowed are 'conv' and 'pool'")
        chosen = get(method)
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, width, 7, stride=2, padding=3, bias=False),
            nn.BatchNorm2d(width),
            pointwise(chosen.act if act is None else act, width),
            nn.MaxPool2d(3, stride=2, padding=1),
        )
        units = []
        channels = width
        for stage, count in enumerate(blocks):
            for i in range(2 * count):
                out = width * 2**stage
                halves = i == 0 and stage > 0
                units.append(Unit(channels, out, 3, stride=2 if halves else 1, padding=1, method=chosen, act=act,
                                  project=halves and shortcut == "conv"))  # fmt: skip
                channels = out
        self.units = nn.Sequential(*units)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        return self.head(self.pool(self.units(self.stem(x))).flatten(1))
