"""Lowering rules over space: pools, means, resizing, shortcuts."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from bbg.conversion.builder import Builder
from bbg.conversion.rules.registry import lowers
from bbg.conversion.views import TracedTensor, value_layout
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
def mean(builder: Builder, input: TracedTensor, dim: Any, keepdim: bool = False) -> TracedTensor:
    """Mean over axes -> adaptive_avg_pool over those of the map, conv over the channels."""
    return _reduce(builder, input, torch.mean, dim, keepdim)


@lowers("sum", torch.sum)
def total(builder: Builder, input: TracedTensor, dim: Any, keepdim: bool = False) -> TracedTensor:
    """Sum over axes -> as the mean, times how many numbers there are."""
    return _reduce(builder, input, torch.sum, dim, keepdim)


@lowers("amax", torch.amax)
def amax(builder: Builder, input: TracedTensor, dim: Any = (), keepdim: bool = False) -> TracedTensor:
    """Maximum over axes of the map -> max_pool."""
    return _reduce(builder, input, torch.amax, dim, keepdim)


def _reduce(builder: Builder, x: TracedTensor, reduce: Any, dim: Any, keepdim: bool) -> TracedTensor:
    """What `reduce`, torch's mean, sum or amax, makes of the axes `dim`."""
    x = builder.in_channel_order(x)
    dims = sorted(d % x.tensor.ndim for d in (dim if isinstance(dim, (tuple, list)) else (dim,)))
    axes = x.axes
    if axes is None or not dims or dims[0] == 0:
        raise builder.error(f"{reduce.__name__} over {dim} of {x.describe()}; allowed are axes of a map")
    over = {d: axes[d - 1] for d in dims}
    if 0 in over.values() and reduce is torch.amax:
        raise builder.error("takes the largest number of all channels; allowed are axes of the map")
    in_map = [d for d, axis in over.items() if axis in (1, 2)]
    if 0 in over.values() and in_map:  # one after the other
        x = _reduce(builder, x, reduce, in_map, True)
        return _reduce(builder, x, reduce, dims, keepdim)
    channels, height, width = x.shape
    whole = 0 in over.values()
    size = (1 if 1 in over.values() else height, 1 if 2 in over.values() else width)
    shape = (1 if whole else channels, *size)
    kept = [axis for d, axis in enumerate(axes, 1) if axis is not None and d not in dims]
    order = [*kept, *(axis for axis in range(3) if axis not in kept)]
    layout = value_layout(shape).permute(order).reshape(reduce(x.tensor, dims, keepdim=keepdim).shape[1:])
    function = partial(reduce, dim=dims, keepdim=keepdim)
    count = math.prod(x.shape) // math.prod(shape)
    if whole:
        weight = np.full((1, 1, 1, channels), 1.0 if reduce is torch.sum else 1 / channels, np.float32)
        tensors = {"weight": weight}
        return builder.add("conv", (x,), function, tensors=tensors, layout=layout, kernel=(1, 1), channels=1)
    if reduce is torch.amax:
        window = (height // size[0], width // size[1])
        return builder.add("max_pool", (x,), function, layout=layout, kernel=window, stride=window)
    scale = {"scale": np.full(channels, float(count))} if reduce is torch.sum else None
    return builder.add("adaptive_avg_pool", (x,), function, size=size, parameters=scale, layout=layout)


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
