"""Lowering rules over space: pools, means, resizing, shortcuts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial, reduce
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from bbg.conversion.builder import MOST_PARTS, Builder
from bbg.conversion.rules.elementwise import add, maximum, mul
from bbg.conversion.rules.registry import lowers
from bbg.conversion.views import JoinedTensor, StackedTensors, TracedTensor, View, value_layout
from bbg.layers import Shortcut


@lowers(nn.MaxPool2d)
def max_pool(builder: Builder, layer: nn.MaxPool2d, x: TracedTensor) -> TracedTensor:
    """Max-pool -> max_pool."""
    if layer.return_indices:
        raise builder.error("return_indices is True; leave it out")
    window = _pairs(layer, "kernel_size", "stride", "padding", "dilation")
    return builder.add("max_pool", (builder.as_nchw(x),), layer, ceil_mode=layer.ceil_mode, **window)


@lowers(nn.AvgPool2d)
def avg_pool(builder: Builder, layer: nn.AvgPool2d, x: TracedTensor) -> TracedTensor:
    """Average pool -> avg_pool."""
    x = builder.as_nchw(x)
    window = _pairs(layer, "kernel_size", "stride", "padding")
    window |= {"ceil_mode": layer.ceil_mode, "count_include_pad": layer.count_include_pad}
    if layer.divisor_override is None:
        return builder.add("avg_pool", (x,), layer, **window)
    if layer.ceil_mode:  # the last windows have fewer numbers, which torch's means are not divided by
        raise builder.error("divisor_override with ceil_mode=True cannot be converted; pass ceil_mode=False")
    window["count_include_pad"] = True
    scale = math.prod(window["kernel"]) / layer.divisor_override
    return builder.add("avg_pool", (x,), layer, parameters={"scale": np.full(x.shape[0], scale)}, **window)


@lowers(nn.AdaptiveAvgPool2d)
def adaptive_avg_pool(builder: Builder, layer: nn.AdaptiveAvgPool2d, x: TracedTensor) -> TracedTensor:
    """Adaptive average pool -> adaptive_avg_pool."""
    x = builder.as_nchw(x)
    height, width = _pair(layer.output_size)
    size = (x.shape[1] if height is None else height, x.shape[2] if width is None else width)
    return builder.add("adaptive_avg_pool", (x,), layer, size=size)


@lowers(nn.AdaptiveMaxPool2d)
def adaptive_max_pool(builder: Builder, layer: nn.AdaptiveMaxPool2d, x: TracedTensor) -> TracedTensor:
    """Adaptive max-pool -> max_pool where all its windows are of one size, else maxima of rows, then of columns.

    Window i of n over m rows goes from `floor(i m / n)` to `ceil((i + 1) m / n)`. With k the shortest window's length,
    none is longer than 2 k: its maximum is that of its first k rows and its last k rows.
    """
    if layer.return_indices:
        raise builder.error("return_indices is True; leave it out")
    x = builder.as_nchw(x)
    sizes = tuple(layer(x.value).shape[2:])
    if 0 in sizes:
        raise builder.error(f"gives a map {list(sizes)}, no number; give it a size from 1 on")
    if all(have % want == 0 for have, want in zip(x.shape[1:], sizes, strict=True)):
        window = (x.shape[1] // sizes[0], x.shape[2] // sizes[1])
        return builder.add("max_pool", (x,), layer, kernel=window, stride=window)
    for axis, (have, want) in enumerate(zip(x.shape[1:], sizes, strict=True)):
        first = torch.arange(want) * have // want
        last = -(-(torch.arange(want) + 1) * have // want)
        k = int((last - first).min())
        kernel = (k, 1) if axis == 0 else (1, k)
        pool = partial(F.max_pool2d, kernel_size=kernel, stride=1)
        pooled = builder.add("max_pool", (x,), pool, suffix=".pool", kernel=kernel, stride=(1, 1))
        begin, end = (
            builder.as_nchw(pooled.with_layout(pooled.indices.index_select(axis + 1, at))) for at in (first, last - k)
        )
        x = maximum(builder, begin, end)
    return x


@lowers("mean", torch.mean, takes_views=True, takes_stacks=True)
def mean(builder: Builder, input: View | StackedTensors, dim: Any = None, keepdim: bool = False) -> TracedTensor:
    """Mean over axes -> adaptive_avg_pool over those of the map, conv over the channels."""
    return _reduce(builder, input, torch.mean, dim, keepdim)


@lowers("sum", torch.sum, takes_views=True, takes_stacks=True)
def total(builder: Builder, input: View | StackedTensors, dim: Any = None, keepdim: bool = False) -> TracedTensor:
    """Sum over axes -> as the mean, times how many numbers there are; over tensors that are joined -> their sum."""
    return _reduce(builder, input, torch.sum, dim, keepdim)


@lowers("amax", torch.amax, takes_views=True, takes_stacks=True)
def amax(builder: Builder, input: View | StackedTensors, dim: Any = (), keepdim: bool = False) -> TracedTensor:
    """Maximum over axes of the map -> max_pool; over the channels -> max_channels; over branches -> of two and two."""
    return _reduce(builder, input, torch.amax, dim, keepdim)


@lowers("max", torch.max, takes_views=True, takes_stacks=True)
def largest(
    builder: Builder, input: View | StackedTensors, dim: Any = None, keepdim: bool = False, other: Any = None
) -> Any:
    """Of two tensors -> as `torch.maximum`; over an axis -> as `torch.amax`, without the places of the maxima."""
    other = dim if isinstance(dim, (TracedTensor, JoinedTensor)) else other
    if other is not None:
        if isinstance(input, StackedTensors):
            raise builder.error("compares a stack along a first axis; stack along another axis")
        return maximum(builder, builder.materialize(input), builder.materialize(other))
    if dim is None:
        raise builder.error("takes the largest number of all; name the axis, as max(x, 1)")
    return _reduce(builder, input, torch.amax, dim, keepdim), None


def _over_branches(builder: Builder, x: View, how: Any, dim: Any, keepdim: bool) -> TracedTensor | None:
    """What `how` makes of one axis that is none of the value's: of the slices along it, one after the other."""
    dims = [dim] if isinstance(dim, int) else list(dim or ())
    ndim = x.indices.ndim + 1
    if len(dims) != 1 or dims[0] % ndim == 0:
        return None
    axis = dims[0] % ndim - 1
    if x.indices.shape[axis] > MOST_PARTS:
        raise builder.error(f"{how.__name__} over {x.indices.shape[axis]} branches; use at most {MOST_PARTS}")
    slices = x.along(axis) if isinstance(x, JoinedTensor) else None
    if slices is not None and x.indices.ndim == 3 and not all(part.is_complete for part in slices):
        return None  # channels of maps that are joined, which are one value
    if slices is None:
        whole = builder.materialize(x)
        slices = [whole.with_layout(layout) for layout in whole.indices.unbind(axis)]
    result = _of_several(builder, [builder.materialize(part) for part in slices], how)
    return result.with_layout(result.indices.unsqueeze(axis)) if keepdim else result


def _of_several(builder: Builder, tensors: Sequence[TracedTensor], how: Any) -> TracedTensor:
    """What `how` makes of tensors of one shape, number by number."""
    result = reduce(partial(maximum if how is torch.amax else add, builder), tensors)
    return mul(builder, result, 1 / len(tensors)) if how is torch.mean else result


def pixels_apart(x: TracedTensor, dim: Any) -> tuple[TracedTensor, tuple[int, int]] | None:
    """`x`, of which one axis `dim` is that of all pixels, with one for the rows and one for the columns, and these two
    axes; None where it is any other.
    """
    dims = [dim] if isinstance(dim, int) else list(dim or ())
    if len(dims) != 1 or x.axes is not None or min(x.shape[1:]) < 2 or dims[0] % (x.indices.ndim + 1) == 0:
        return None
    axis = dims[0] % (x.indices.ndim + 1)
    if x.indices.shape[axis - 1] != x.shape[1] * x.shape[2]:
        return None
    both = x.with_layout(x.indices.unflatten(axis - 1, x.shape[1:]))
    found = both.axes
    return (both, (axis, axis + 1)) if found is not None and found[axis - 1 : axis + 1] == (1, 2) else None


def _reduce(builder: Builder, given: View | StackedTensors, how: Any, dim: Any, keepdim: bool) -> TracedTensor:
    """What `how`, torch's mean, sum or amax, makes of the axes `dim`."""
    if isinstance(given, StackedTensors):
        if dim not in (0, (0,), [0]) or keepdim:
            raise builder.error(f"{how.__name__} over {dim} of a stack along a first axis; take it over 0 alone")
        return _of_several(builder, given, how)
    if dim is None:
        raise builder.error(f"takes the {how.__name__} of all numbers, of all images; name the axes, as (2, 3)")
    x = None if isinstance(given, JoinedTensor) else builder.in_channel_order(builder.materialize(given))
    apart = None if x is None else pixels_apart(x, dim)
    if apart is not None:
        both, (first, second) = apart
        result = _reduce(builder, both, how, (first, second), keepdim)
        return result.with_layout(result.indices.squeeze(second - 1)) if keepdim else result
    if x is None or x.axes is None:
        over = _over_branches(builder, given if x is None else x, how, dim, keepdim)
        if over is not None:
            return over
        x = builder.materialize(given)
    dims = sorted(d % x.tensor.ndim for d in (dim if isinstance(dim, (tuple, list)) else (dim,)))
    axes = x.axes
    if axes is None or not dims or dims[0] == 0:
        raise builder.error(f"{how.__name__} over {dim} of {x.describe()}; take it over axes of a map", of_input=True)
    along = {d: axes[d - 1] for d in dims}
    in_map = [d for d, axis in along.items() if axis in (1, 2)]
    if 0 in along.values() and in_map:  # one after the other
        x = _reduce(builder, x, how, in_map, True)
        return _reduce(builder, x, how, dims, keepdim)
    channels, height, width = x.shape
    whole = 0 in along.values()
    size = (1 if 1 in along.values() else height, 1 if 2 in along.values() else width)
    shape = (1 if whole else channels, *size)
    kept = [axis for d, axis in enumerate(axes, 1) if axis is not None and d not in dims]
    order = [*kept, *(axis for axis in range(3) if axis not in kept)]
    layout = value_layout(shape).permute(order).reshape(how(x.tensor, dims, keepdim=keepdim).shape[1:])
    function = partial(how, dim=dims, keepdim=keepdim)
    count = math.prod(x.shape) // math.prod(shape)
    if whole and how is torch.amax:
        return builder.add("max_channels", (x,), function, layout=layout, channels=1)
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
    """Resizing -> bilinear; nearest to a multiple of the size -> adaptive_avg_pool; to any other -> take."""
    x = builder.as_nchw(x)
    (height, width), (rows, columns) = x.shape[1:], layer(x.value).shape[2:]
    size = (rows, columns)
    corners = bool(layer.align_corners)
    by_size = layer.scale_factor is None or layer.recompute_scale_factor or corners
    scales = _pair(layer.scale_factor or 1)
    exact = by_size or (height * scales[0], width * scales[1]) == size  # else torch samples by the factor
    if layer.mode == "bilinear" and exact:
        return builder.add("bilinear", (x,), layer, size=size, align_corners=corners)
    nearest = layer.mode in ("nearest", "nearest-exact")
    if nearest and rows % height == 0 and columns % width == 0:
        return builder.add("adaptive_avg_pool", (x,), layer, size=size)
    if nearest:
        places = layer(torch.arange(float(height * width), dtype=torch.float64).reshape(1, 1, height, width))
        first = x.indices[:, :1, :1]
        return builder.as_nchw(x.with_layout(first + places[0].to(torch.int64)))
    came = f"{[height, width]} to {list(size)} by {layer.mode!r}"
    instead = "give the size, not a factor" if layer.mode == "bilinear" else "use mode='bilinear', and give the size"
    raise builder.error(f"resizes {came}; {instead}")


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
