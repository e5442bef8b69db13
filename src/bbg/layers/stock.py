"""What the stock convolution of torch is built from, for twins of other widths."""

from __future__ import annotations

from typing import Any

from torch import nn


def arguments_of(layer: nn.Conv2d) -> dict[str, Any]:
    """The arguments that build a convolution like `layer`, on no device and without a bias: parameters come later."""
    names = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "padding_mode")
    return {**{name: getattr(layer, name) for name in names}, "bias": False, "device": "meta"}
