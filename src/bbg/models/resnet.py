"""ResNet of the CIFAR form (He et al., arXiv 1512.03385, section 4.2), one shortcut around every convolution.

Stem 3x3, then three stages of 16, 32 and 64 channels at full, half and quarter resolution, `2 * blocks` one-conv units
each, global average pool, BN and a linear layer. 20 layers: blocks = 3. Stem and last layer stay real-valued.
"""

from __future__ import annotations

from torch import Tensor, nn

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
