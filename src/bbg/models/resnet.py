"""ResNets (He et al., arXiv 1512.03385), one shortcut around every convolution. Stem and last layer stay real-valued.

The CIFAR form (section 4.2): stem 3x3, then three stages of 16, 32 and 64 channels at full, half and quarter
resolution, `2 * blocks` one-conv units each, global average pool, BN and a linear layer. 20 layers: blocks = 3.

The ImageNet form (table 1): stem 7x7 of stride 2 and 3x3 max-pool of stride 2, then four stages of 64, 128, 256 and 512
channels, each half as large as the one before, of `2 * blocks` one-conv units, global average pool and a linear layer.
18 layers: blocks = (2, 2, 2, 2); 34: (3, 4, 6, 3). For images of CIFAR's size its stem is a 3x3 convolution of stride 1
without a pool.

The light form, for few images and cores: the ImageNet form's stem, then five stages, at strides 4 to 64, of 1, 2, 4, 4
and 4 times the width. The detector `ssd_light` has the same stages, so that this is what it starts from.

Methods without a shortcut of their own keep the one that He et al. have around each pair of convolutions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple, cast

from torch import Tensor, nn

from bbg.errors import BbgError, allowed
from bbg.layers import Projection, Shortcut, Unit, pointwise, set_bits
from bbg.methods import Method, get
from bbg.models.names import Names, of_resnet

# Stages of the light form: multiples of the width, pairs of convolutions, bits.
LIGHT = ((1, 1, 1), (2, 2, 1), (4, 2, 1), (4, 1, 1), (4, 1, 1))
MIXED = ((1, 1, 8), (2, 2, 8), (8, 2, 1), (8, 1, 1), (8, 1, 1))  # few channels in 8 bits, where the map is large


class Residual(nn.Module):
    """`units(x) + shortcut(x)`, `[N, C, H, W]` to `[N, channels, H', W']`; `project`: see `Projection`."""

    def __init__(self, in_channels: int, channels: int, units: list[Unit], project: bool) -> None:
        super().__init__()
        self.units = nn.Sequential(*units)
        self.shortcut: nn.Module = Projection(in_channels, channels) if project else Shortcut(channels)

    def forward(self, x: Tensor) -> Tensor:
        """The sum."""
        y: Tensor = self.units(x)
        return y + cast(Tensor, self.shortcut(x, (y.shape[2], y.shape[3])))


class Stage(NamedTuple):
    """`blocks` pairs of convolutions of `channels` channels; `bits` 8 or 32, or 1 for what the method makes of them."""

    channels: int
    blocks: int
    bits: int = 1


def doubling(blocks: tuple[int, ...], width: int) -> list[Stage]:
    """Stages of `width`, `2 * width`, `4 * width`, ... channels."""
    return [Stage(width * 2**i, count) for i, count in enumerate(blocks)]


def units_of(parts: Sequence[Stage], method: Method, act: str | None, project: bool) -> nn.Sequential:
    """Two units for each block of the stages `parts`; the first of each stage but the first one has stride 2."""
    modules: list[nn.Module] = []
    channels = parts[0].channels
    for number, (out, blocks, bits) in enumerate(parts):
        for i in range(blocks):
            halves = i == 0 and number > 0
            pair = [
                Unit.build(
                    channels,
                    out,
                    3,
                    stride=2 if halves else 1,
                    padding=1,
                    method=method,
                    act=act,
                    project=halves and project,
                ),
                Unit.build(out, out, 3, padding=1, method=method, act=act),
            ]
            if bits != 1:
                for unit in pair:
                    set_bits(unit, {"conv": bits})
            modules += [Residual(channels, out, pair, halves and project)] if method.shortcut == "none" else pair
            channels = out
    return nn.Sequential(*modules)


def stages_of(parts: Sequence[Stage], method: Method, act: str | None) -> list[nn.Sequential]:
    """The same units, projecting, as one module for each stage."""
    units = list(units_of(parts, method, act, project=True))
    per_block = 1 if method.shortcut == "none" else 2
    found, begin = [], 0
    for part in parts:
        end = begin + per_block * part.blocks
        found.append(nn.Sequential(*units[begin:end]))
        begin = end
    return found


STEMS = {"imagenet": (7, 2), "patch": (7, 4), "cifar": (3, 1)}  # kernel and stride of the first convolution


def stem_of(stem: str, in_channels: int, width: int, act: str) -> nn.Sequential:
    """The real-valued first layers, one of STEMS; "imagenet" has a max-pool of stride 2 behind its convolution.

    "patch" reaches the same stride 4 with a fourth of the products: a stem of 8 bits takes nearly half the time of a
    small network whose other layers have 1 bit.
    """
    if stem not in STEMS:
        raise BbgError(f"stem is {stem!r}; {allowed(stem, STEMS)}")
    size, stride = STEMS[stem]
    return nn.Sequential(
        nn.Conv2d(in_channels, width, size, stride=stride, padding=size // 2, bias=False),
        nn.BatchNorm2d(width),
        pointwise(act, width),
        *([nn.MaxPool2d(3, stride=2, padding=1)] if stem == "imagenet" else []),
    )


class CifarForm(nn.Module):
    """Stem and units, then global average pool, BN and a linear layer: images `[N, in_channels, H, W]` to logits."""

    def __init__(self, stem: nn.Module, units: nn.Module, channels: int, num_classes: int) -> None:
        super().__init__()
        self.stem = stem
        self.units = units
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.norm = nn.BatchNorm1d(channels)
        self.head = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        logits: Tensor = self.head(self.norm(self.pool(self.units(self.stem(x))).flatten(1)))
        return logits


class PooledForm(nn.Module):
    """Stages, then global average pool and a linear layer: images `[N, in_channels, H, W]` to logits."""

    elsewhere: Sequence[Names] = ()  # how others name its modules (`bbg.models.names`)

    def __init__(self, stages: Sequence[nn.Module], channels: int, num_classes: int) -> None:
        super().__init__()
        self.stages = nn.Sequential(*stages)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        logits: Tensor = self.head(self.pool(self.stages(x)).flatten(1))
        return logits


class ResNetCifar(CifarForm):
    """Images `[N, in_channels, H, W]` to logits `[N, num_classes]`; `act` None takes the method's nonlinearity."""

    def __init__(
        self,
        num_classes: int,
        method: str | Method = "bbg",
        *,
        blocks: int = 3,
        width: int = 16,
        in_channels: int = 3,
        act: str | None = None,
    ) -> None:
        chosen = get(method)
        stem = stem_of("cifar", in_channels, width, chosen.act if act is None else act)
        units = units_of(doubling((blocks,) * 3, width), chosen, act, project=False)
        super().__init__(stem, units, 4 * width, num_classes)


class ResNet(nn.Module):
    """Images `[N, in_channels, H, W]` to logits `[N, num_classes]`.

    `shortcut`: what passes the first unit of a stage that halves the map: "conv", average pooling, a real-valued 1x1
    convolution and BN (Bi-Real Net, arXiv 1808.00278), or "pool", which has no parameters. `stem`: "imagenet" or
    "cifar". `elsewhere`: how others name its modules (`bbg.models.names`).
    """

    elsewhere: Sequence[Names]

    def __init__(
        self,
        num_classes: int,
        method: str | Method = "bbg",
        *,
        blocks: tuple[int, ...] = (2, 2, 2, 2),
        width: int = 64,
        in_channels: int = 3,
        act: str | None = None,
        shortcut: str = "conv",
        stem: str = "imagenet",
    ) -> None:
        super().__init__()
        if shortcut not in ("conv", "pool"):
            raise BbgError(f"shortcut is {shortcut!r}, allowed are 'conv' and 'pool'")
        chosen = get(method)
        self.stem = stem_of(stem, in_channels, width, chosen.act if act is None else act)
        self.units = units_of(doubling(blocks, width), chosen, act, project=shortcut == "conv")
        channels = width * 2 ** (len(blocks) - 1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(channels, num_classes)
        self.elsewhere = [of_resnet(blocks, chosen.shortcut == "none")]

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        logits: Tensor = self.head(self.pool(self.units(self.stem(x))).flatten(1))
        return logits


def light_stages(
    method: Method,
    width: int,
    in_channels: int,
    act: str | None,
    stem: str,
    form: Sequence[tuple[int, int, int]] = LIGHT,
) -> list[nn.Sequential]:
    """The stages of `form` at strides 8, 16, 32 and 64, each from the one before; the first from the images."""
    parts = [Stage(factor * width, blocks, bits if method.weight else 1) for factor, blocks, bits in form]
    units = stages_of(parts, method, act)
    first = stem_of(stem, in_channels, width, method.act if act is None else act)
    return [nn.Sequential(first, *units[:2]), *units[2:]]


class ResNetLight(PooledForm):
    """Images `[N, in_channels, H, W]` to logits `[N, num_classes]`; `stages`: those of the detector `ssd_light`."""

    def __init__(
        self,
        num_classes: int,
        method: str | Method = "bbg",
        *,
        width: int = 32,
        in_channels: int = 3,
        act: str | None = "rprelu",
        stem: str = "imagenet",
    ) -> None:
        stages = light_stages(get(method), width, in_channels, act, stem)
        super().__init__(stages, LIGHT[-1][0] * width, num_classes)


NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "resnet20": ResNetCifar,
    "resnet8": partial(ResNetCifar, blocks=1),
    "resnet18": ResNet,
    "resnet18_cifar": partial(ResNet, stem="cifar"),
    "resnet34": partial(ResNet, blocks=(3, 4, 6, 3)),
    "resnet_light": ResNetLight,
}
