"""Lowering rules of normalisations."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from bbg.conversion.builder import Lowering
from bbg.conversion.rules.registry import lowers
from bbg.conversion.views import Wire


@lowers(nn.LayerNorm)
def layer_norm(to: Lowering, layer: nn.LayerNorm, x: Wire) -> Wire:
    """Over the channels of each pixel of `[N, H, W, C]`, or over features that come of a 1x1 map."""
    x = to.ordered(x)
    channels = x.shape[0]
    if tuple(layer.normalized_shape) != (channels,) or not (x.last or (x.flat and x.value[0].numel() == channels)):
        came = f"{list(layer.normalized_shape)} of {to.describe(x)}"
        raise to.refuse(f"it normalises {came}; allowed are the channels of [N, H, W, C]")
    axis = x.tensor.ndim - 1
    rows = {
        name: to.per_channel(x, vector, f"its {name}", axis)
        for name, vector in (("scale", layer.weight), ("bias", layer.bias))
    }
    return to.emit("layer_norm", (x,), layer, rows=rows, eps=float(layer.eps))


def _layer_norm(
    normalized_shape: Any, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> nn.LayerNorm:
    layer = nn.LayerNorm(normalized_shape, eps)
    for name, vector in (("weight", weight), ("bias", bias)):
        layer.register_parameter(name, None if vector is None else nn.Parameter(vector.detach()))
    return layer


@lowers(nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm)
def batch_norm(to: Lowering, layer: nn.BatchNorm2d, x: Wire) -> Wire:
    """`gamma (x - mean) / sqrt(var + eps) + beta` is `scale x + bias`."""
    if layer.running_mean is None or layer.running_var is None:
        raise to.refuse("it has no running statistics; train it with track_running_stats=True")
    scale = (layer.running_var.double() + layer.eps).rsqrt()
    scale = scale if layer.weight is None else scale * layer.weight
    bias = -layer.running_mean * scale
    bias = bias if layer.bias is None else bias + layer.bias
    rows = {"scale": to.per_channel(x, scale, "its scale"), "bias": to.per_channel(x, bias, "its bias")}
    return to.emit("pointwise", (x,), layer, rows=rows)
