"""bbgnet: ResNets with 8 bits in the first stages and 1 bit in the last, made for the costs of this engine.

A first stage has few channels and few weights, and a sign there costs accuracy: it has 8 bits. A last stage holds most
of the weights, and its products are cheapest at 1 bit. Stem and last layer have 8 bits, and the residual stream passes
all convolutions real-valued. Each stage but the first works at half the resolution of the one before:

    name         channels of the stages, in 8 bits | at 1 bit      pairs of convolutions in each
    bbgnet_xs    16  32 | 96  112                                  1
    bbgnet_s     32  64 | 128                                      1
    bbgnet_m     32  64 | 128                                      2
    bbgnet_l     32  64 | 128  256                                 2
    bbgnet_224   64  128 | 256  512                                2, behind the stem of an ImageNet ResNet

The method says what the 1-bit layers are; with "float" all layers are real-valued.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from bbg.layers import set_bits
from bbg.methods import Method, get
from bbg.models.resnet import CifarForm, Stage, stem_of, units_of

# Of each stage: its channels in multiples of the width, its pairs of convolutions, its bits.
EXTRA_SMALL = ((1, 1, 8), (2, 1, 8), (6, 1, 1), (7, 1, 1))
SMALL = ((1, 1, 8), (2, 1, 8), (4, 1, 1))
MEDIUM = ((1, 2, 8), (2, 2, 8), (4, 2, 1))
LARGE = ((1, 2, 8), (2, 2, 8), (4, 2, 1), (8, 2, 1))


class BBGNet(CifarForm):
    """Images `[N, in_channels, H, W]` to logits `[N, num_classes]`; `act` None is "rprelu"."""

    def __init__(
        self,
        num_classes: int,
        method: str | Method = "bbg-plus",
        *,
        stages: tuple[tuple[int, int, int], ...] = SMALL,
        width: int = 32,
        in_channels: int = 3,
        act: str | None = None,
        stem: str = "cifar",
    ) -> None:
        chosen, nonlinearity = get(method), "rprelu" if act is None else act
        parts = [Stage(factor * width, blocks, bits if chosen.weight else 1) for factor, blocks, bits in stages]
        units = units_of(parts, chosen, nonlinearity, project=False)
        super().__init__(stem_of(stem, in_channels, width, nonlinearity), units, parts[-1].channels, num_classes)
        if chosen.weight:
            set_bits(self, {"first": 8, "last": 8})


def _of(stages: tuple[tuple[int, int, int], ...], first: int, stem: str = "cifar") -> Callable[..., nn.Module]:
    """What makes the network of these `stages`, `first` channels in the first one."""

    def build(
        num_classes: int, method: str | Method, *, width: int = first, in_channels: int = 3, act: str | None = None
    ) -> nn.Module:
        return BBGNet(num_classes, method, stages=stages, width=width, in_channels=in_channels, act=act, stem=stem)

    return build


NETWORKS = {
    "bbgnet_xs": _of(EXTRA_SMALL, 16),
    "bbgnet_s": _of(SMALL, 32),
    "bbgnet_m": _of(MEDIUM, 32),
    "bbgnet_l": _of(LARGE, 32),
    "bbgnet_224": _of(LARGE, 64, "imagenet"),
}
