"""Lowering rules of normalisations."""

from __future__ import annotations

from torch import nn

from bbg.conversion.builder import Builder
from bbg.conversion.rules.registry import lowers
from bbg.conversion.views import TracedTensor


@lowers(nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm)
def batch_norm(builder: Builder, layer: nn.BatchNorm2d, x: TracedTensor) -> TracedTensor:
    """Batch norm -> pointwise: `gamma (x - mean) / sqrt(var + eps) + beta` is `scale x + bias`."""
    if layer.running_mean is None or layer.running_var is None:
        raise builder.error("it has no running statistics; train it with track_running_stats=True")
    scale = (layer.running_var.double() + layer.eps).rsqrt()
    scale = scale if layer.weight is None else scale * layer.weight
    bias = -layer.running_mean * scale
    bias = bias if layer.bias is None else bias + layer.bias
    vectors = {"scale": scale, "bias": bias}
    parameters = {name: builder.per_channel(x, vector, f"its {name}") for name, vector in vectors.items()}
    return builder.add("pointwise", (x,), layer, parameters=parameters)


@lowers(nn.LayerNorm)
def layer_norm(builder: Builder, layer: nn.LayerNorm, x: TracedTensor) -> TracedTensor:
    """Layer norm over the channels of each pixel of `[N, H, W, C]`, or over features of a 1x1 map -> layer_norm."""
    x = builder.in_channel_order(x)
    channels = x.shape[0]
    over_channels = x.is_channels_last or (x.is_flat and x.numbers == channels)
    if tuple(layer.normalized_shape) != (channels,) or not over_channels:
        came = f"{list(layer.normalized_shape)} of {x.describe()}"
        raise builder.error(f"it normalises {came}; allowed are the channels of [N, H, W, C]")
    axis = x.tensor.ndim - 1
    vectors = {"scale": layer.weight, "bias": layer.bias}
    parameters = {name: builder.per_channel(x, vector, f"its {name}", axis) for name, vector in vectors.items()}
    return builder.add("layer_norm", (x,), layer, parameters=parameters, eps=float(layer.eps))
