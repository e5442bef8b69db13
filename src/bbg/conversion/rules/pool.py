"""Lowering rules over space: pools, means, resizing, shortcuts."""

from __future__ import annotations

import math
from functools import partial, reduce
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from bbg.conversion.builder import Builder
from bbg.conversion.rules.elementwise import add
from bbg.conversion.rules.registry import lowers
from bbg.conversion.views import JoinedTensor, TracedTensor, View, value_layout
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


@lowers("sum", torch.sum, takes_views=True)
def total(builder: Builder, input: View, dim: Any, keepdim: bool = False) -> TracedTensor:
    """Sum over axes -> as the mean, times how many numbers there are; over tensors that are joined -> their sum."""
    if isinstance(input, JoinedTensor) and isinstance(dim, int) and not keepdim:
        parts = input.along(dim % input.tensor.ndim - 1) if dim % input.tensor.ndim else None
        if parts is not None:
            return reduce(partial(add, builder), [builder.materialize(part) for part in parts])
    return _reduce(builder, builder.materialize(input), torch.sum, dim, keepdim)


@lowers("amax", torch.amax)
def amax(builder: Builder, input: TracedTensor, dim: Any = (), keepdim: bool = False) -> TracedTensor:
    """Maximum over axes of the map -> max_pool."""
    return _reduce(builder, input, torch.amax, dim, keepdim)


def _reduce(builder: Builder, x: TracedTensor, how: Any, dim: Any, keepdim: bool) -> TracedTensor:
    """What `how`, torch's mean, sum or amax, makes of the axes `dim`."""
    x = builder.in_channel_order(x)
    dims = sorted(d % x.tensor.ndim for d in (dim if isinstance(dim, (tuple, list)) else (dim,)))
    axes = x.axes
    if axes is None or not dims or dims[0] == 0:
        raise builder.error(f"{how.__name__} over {dim} of {x.describe()}; allowed are axes of a map")
    over = {d: axes[d - 1] for d in dims}
    if 0 in over.values() and how is torch.amax:
        raise builder.error("takes the largest number of all channels; allowed are axes of the map")
    in_map = [d for d, axis in over.items() if axis in (1, 2)]
    if 0 in over.values() and in_map:  # one after the other
        x = _reduce(builder, x, how, in_map, True)
        return _reduce(builder, x, how, dims, keepdim)
    channels, height, width = x.shape
    whole = 0 in over.values()
    size = (1 if 1 in over.values() else height, 1 if 2 in over.values() else width)
    shape = (1 if whole else channels, *size)
    kept = [axis for d, axis in enumerate(axes, 1) if axis is not None and d not in dims]
    order = [*kept, *(axis for axis in range(3) if axis not in kept)]
    layout = value_layout(shape).permute(order).reshape(how(x.tensor, dims, keepdim=keepdim).shape[1:])
    function = partial(how, dim=dims, keepdim=keepdim)
    count = math.prod(x.shape) // math.prod(shape)
    if whole:
        weight = np.full((1, 1, 1, channels), 1.0 if how is torch.sum else 1 / channels, np.float32)
        tensors = {"weight": weight}
        return builder.add("conv", (x,), function, tensors=tensors, layout=layout, kernel=(1, 1), channels=1)
    if how is torch.amax:
        window = (height // size[0], width // size[1])
        return builder.add("max_pool", (x,), function, layout=layout, kernel=window, stride=window)
    scale = {"scale": np.full(channels, float(count))} if how is torch.sum else None
    return builder.add("adaptive_avg_pool", (x,), function, size=size, parameters=scale, layout=layout)


@lowers(nn.Upsample)
def upsample(builder: Builder, layer: nn.Upsample, x: TracedTensor) -> TracedTensor:
    """Upsampling by integers -> adaptive_avg_pool to a multiple of the size; bilinear: and avg_pool.

    Each number becomes a block of s numbers, for either axis. The means of windows of s of these, where s is odd, are
    the bilinear ones: at d steps from the middle of a block, a share d / s of the window lies in the next block. Where
    s is even, the middle lies between two numbers: means of two come first. Windows leave out what is beyond the
    border, so that all their numbers are those of the last block there.
    """
    x = builder.as_nchw(x)
    height, width = size = tuple(layer(x.value).shape[2:])
    bilinear = layer.mode == "bilinear" and x.shape[1:] != (1, 1)
    allowed = layer.mode in ("nearest", "nearest-exact", "bilinear") and not (bilinear and layer.align_corners)
    if not allowed or height % x.shape[1] or width % x.shape[2]:
        corners = ", align_corners=True" if layer.align_corners else ""
        came = f"{list(x.shape[1:])} to {[height, width]} by {layer.mode!r}{corners}"
        raise builder.error(f"resizes {came}; allowed are 'nearest' and 'bilinear' to a multiple of the size")
    if not bilinear:
        return builder.add("adaptive_avg_pool", (x,), layer, size=size)
    by = (height // x.shape[1], width // x.shape[2])
    odd = tuple(n % 2 for n in by)
    x = builder.add("adaptive_avg_pool", (x,), partial(F.adaptive_avg_pool2d, output_size=size), size=size)
    if not all(odd):
        x = _mean_of_windows(builder, x, tuple(2 - n for n in odd), tuple(1 - n for n in odd))
    return _mean_of_windows(builder, x, by, tuple((n - 2 + n % 2) // 2 for n in by))


def _mean_of_windows(
    builder: Builder, x: TracedTensor, kernel: tuple[int, ...], padding: tuple[int, ...]
) -> TracedTensor:
    """Means of the numbers in windows that move by one; what is outside the map is left out."""
    window: dict[str, Any] = {"kernel": kernel, "stride": (1, 1), "padding": padding, "count_include_pad": False}
    pool = partial(F.avg_pool2d, kernel_size=kernel, stride=1, padding=padding, count_include_pad=False)
    return builder.add("avg_pool", (x,), pool, **window)


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
