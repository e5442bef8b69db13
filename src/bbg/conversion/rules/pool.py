"""Lowering rules over space: pools, means, resizing, shortcuts."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from bbg.conversion.builder import Lowering
from bbg.conversion.rules.registry import lowers
from bbg.conversion.views import Wire, channels_last
from bbg.layers import Shortcut


@lowers(nn.MaxPool2d)
def max_pool(to: Lowering, layer: nn.MaxPool2d, x: Wire) -> Wire:
    if layer.return_indices:
        raise to.refuse("return_indices is True, allowed is False")
    return to.emit(
        "max_pool",
        (to.map(x),),
        layer,
        ceil_mode=layer.ceil_mode,
        **_pairs(layer, "kernel_size", "stride", "padding", "dilation"),
    )


@lowers(nn.AvgPool2d)
def avg_pool(to: Lowering, layer: nn.AvgPool2d, x: Wire) -> Wire:
    if layer.divisor_override is not None:
        raise to.refuse(f"divisor_override is {layer.divisor_override}, allowed is None")
    return to.emit(
        "avg_pool",
        (to.map(x),),
        layer,
        ceil_mode=layer.ceil_mode,
        count_include_pad=layer.count_include_pad,
        **_pairs(layer, "kernel_size", "stride", "padding"),
    )


@lowers(nn.AdaptiveAvgPool2d)
def adaptive_avg_pool(to: Lowering, layer: nn.AdaptiveAvgPool2d, x: Wire) -> Wire:
    x = to.map(x)
    height, width = _pair(layer.output_size)
    size = (x.shape[1] if height is None else height, x.shape[2] if width is None else width)
    return to.emit("adaptive_avg_pool", (x,), layer, size=size)


@lowers(Shortcut)
def shortcut(to: Lowering, layer: Shortcut, x: Wire, size: tuple[int, int]) -> Wire:
    x = to.map(x)
    if x.shape[1:] != tuple(size):
        pool = partial(F.adaptive_avg_pool2d, output_size=size)
        x = to.emit("adaptive_avg_pool", (x,), pool, suffix=".pool", size=tuple(size))
    if x.shape[0] != layer.channels:
        x = to.emit("match_channels", (x,), partial(layer, size=size), channels=layer.channels)
    return x


def _pair(value: Any) -> tuple[Any, Any]:
    pair = tuple(value) if isinstance(value, (tuple, list)) else (value, value)
    return pair if len(pair) == 2 else pair * 2


def _pairs(layer: nn.Module, *names: str) -> dict[str, Any]:
    return {name.removesuffix("_size"): _pair(getattr(layer, name)) for name in names}


@lowers("mean", torch.mean)
def mean(to: Lowering, x: Wire, dim: Any, keepdim: bool = False) -> Wire:
    """The mean of each map."""
    x = to.ordered(x)
    over = sorted(d % x.tensor.ndim for d in _pair(dim))
    if not (x.places is None and over == [2, 3]) and not (x.last and over == [1, 2]):
        raise to.refuse(f"mean over {dim} of {to.describe(x)}; allowed are both dimensions of the map")
    places = channels_last((x.shape[0], 1, 1)) if keepdim and x.last else None
    return to.emit("adaptive_avg_pool", (x,), partial(torch.mean, dim=dim, keepdim=keepdim), size=(1, 1), places=places)


@lowers(nn.Upsample)
def upsample(to: Lowering, layer: nn.Upsample, x: Wire) -> Wire:
    """Each number as a block of equal ones, which is what adaptive average pooling to a multiple of the size gives."""
    x = to.map(x)
    height, width = layer(x.value).shape[2:]
    if layer.mode not in ("nearest", "nearest-exact") or height % x.shape[1] or width % x.shape[2]:
        came = f"{list(x.shape[1:])} to {[height, width]} by {layer.mode!r}"
        raise to.refuse(f"resizes {came}; allowed is 'nearest' to a multiple of the size")
    return to.emit("adaptive_avg_pool", (x,), layer, size=(height, width))


@lowers(nn.AdaptiveMaxPool2d)
def adaptive_max_pool(to: Lowering, layer: nn.AdaptiveMaxPool2d, x: Wire) -> Wire:
    """A max-pool, where its windows are of one size."""
    x = to.map(x)
    height, width = layer(x.value).shape[2:]
    if layer.return_indices or x.shape[1] % height or x.shape[2] % width:
        came = f"{list(x.shape[1:])} to {[height, width]}"
        raise to.refuse(f"pools {came}; allowed are parts of the size, without indices")
    window = (x.shape[1] // height, x.shape[2] // width)
    return to.emit("max_pool", (x,), layer, kernel=window, stride=window)
