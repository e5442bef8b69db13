"""Lowering rules over space: pools, means, resizing, shortcuts."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from bbg.conversion.builder import Builder
from bbg.conversion.rules.registry import lowers
from bbg.conversion.views import TracedTensor, channels_last
from bbg.layers import Shortcut


@lowers(nn.MaxPool2d)
def max_pool(builder: Builder, layer: nn.MaxPool2d, x: TracedTensor) -> TracedTensor:
    """Max-pool -> max_pool."""
    if layer.return_indices:
        raise builder.error("return_indices is True, allowed is False")
    window = _pairs(layer, "kernel_size", "stride", "padding", "dilation")
    return builder.add("max_pool", (builder.as_nchw(x),), layer, ceil_mode=layer.ceil_mode, **window)


@lowers(nn.AvgPool2d)
def avg_pool(builder: Builder, layer: nn.AvgPool2d, x: TracedTensor) -> TracedTensor:
    """Average pool -> avg_pool."""
    if layer.divisor_override is not None:
        raise builder.error(f"divisor_override is {layer.divisor_override}, allowed is None")
    window = _pairs(layer, "kernel_size", "stride", "padding")
    window |= {"ceil_mode": layer.ceil_mode, "count_include_pad": layer.count_include_pad}
    return builder.add("avg_pool", (builder.as_nchw(x),), layer, **window)


@lowers(nn.AdaptiveAvgPool2d)
def adaptive_avg_pool(builder: Builder, layer: nn.AdaptiveAvgPool2d, x: TracedTensor) -> TracedTensor:
    """Adaptive average pool -> adaptive_avg_pool."""
    x = builder.as_nchw(x)
    height, width = _pair(layer.output_size)
    size = (x.shape[1] if height is None else height, x.shape[2] if width is None else width)
    return builder.add("adaptive_avg_pool", (x,), layer, size=size)


@lowers(nn.AdaptiveMaxPool2d)
def adaptive_max_pool(builder: Builder, layer: nn.AdaptiveMaxPool2d, x: TracedTensor) -> TracedTensor:
    """Adaptive max-pool -> max_pool, where all its windows are of one size."""
    x = builder.as_nchw(x)
    height, width = layer(x.value).shape[2:]
    if layer.return_indices or x.shape[1] % height or x.shape[2] % width:
        came = f"{list(x.shape[1:])} to {[height, width]}"
        raise builder.error(f"pools {came}; allowed are parts of the size, without indices")
    window = (x.shape[1] // height, x.shape[2] // width)
    return builder.add("max_pool", (x,), layer, kernel=window, stride=window)


@lowers("mean", torch.mean)
def mean(builder: Builder, x: TracedTensor, dim: Any, keepdim: bool = False) -> TracedTensor:
    """Mean over both dimensions of a map -> adaptive_avg_pool to 1x1."""
    x = builder.in_channel_order(x)
    over = sorted(d % x.tensor.ndim for d in _pair(dim))
    if not (x.layout is None and over == [2, 3]) and not (x.is_channels_last and over == [1, 2]):
        raise builder.error(f"mean over {dim} of {x.describe()}; allowed are both dimensions of the map")
    layout = channels_last((x.shape[0], 1, 1)) if keepdim and x.is_channels_last else None
    function = partial(torch.mean, dim=dim, keepdim=keepdim)
    return builder.add("adaptive_avg_pool", (x,), function, size=(1, 1), layout=layout)


@lowers(nn.Upsample)
def upsample(builder: Builder, layer: nn.Upsample, x: TracedTensor) -> TracedTensor:
    """Nearest upsampling by integers -> adaptive_avg_pool to a multiple of the size: each number becomes a block."""
    x = builder.as_nchw(x)
    height, width = layer(x.value).shape[2:]
    if layer.mode not in ("nearest", "nearest-exact") or height % x.shape[1] or width % x.shape[2]:
        came = f"{list(x.shape[1:])} to {[height, width]} by {layer.mode!r}"
        raise builder.error(f"resizes {came}; allowed is 'nearest' to a multiple of the size")
    return builder.add("adaptive_avg_pool", (x,), layer, size=(height, width))


@lowers(Shortcut)
def shortcut(builder: Builder, layer: Shortcut, x: TracedTensor, size: tuple[int, int]) -> TracedTensor:
    """Parameter-free shortcut -> adaptive_avg_pool where the size differs, match_channels where the channels do."""
    x = builder.as_nchw(x)
    if x.shape[1:] != tuple(size):
        pool = partial(F.adaptive_avg_pool2d, output_size=size)
        x = builder.add("adaptive_avg_pool", (x,), pool, suffix=".pool", size=tuple(size))
    if x.shape[0] != layer.channels:
        x = builder.add("match_channels", (x,), partial(layer, size=size), channels=layer.channels)
    return x


def _pair(value: Any) -> tuple[Any, Any]:
    pair = tuple(value) if isinstance(value, (tuple, list)) else (value, value)
    return pair if len(pair) == 2 else pair * 2


def _pairs(layer: nn.Module, *names: str) -> dict[str, Any]:
    """The attributes of a window; `kernel_size` is called `kernel`."""
    return {name.removesuffix("_size"): _pair(getattr(layer, name)) for name in names}
