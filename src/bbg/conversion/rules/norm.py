"""Lowering rules of normalisations."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bbg.conversion.builder import Builder
from bbg.conversion.rules.elementwise import add, mul, sub
from bbg.conversion.rules.pool import mean, total
from bbg.conversion.rules.powers import power
from bbg.conversion.rules.registry import lowers
from bbg.conversion.views import TracedTensor


@lowers(nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm)
def batch_norm(builder: Builder, layer: nn.BatchNorm2d | nn.InstanceNorm2d, x: TracedTensor) -> TracedTensor:
    """Batch norm -> pointwise: `gamma (x - mean) / sqrt(var + eps) + beta` is `scale x + bias`."""
    if layer.running_mean is None or layer.running_var is None:
        raise builder.error("it has no running statistics; train it with track_running_stats=True")
    if x.tensor.ndim == 4 and x.channel_indices() is None:  # as a pixel unshuffle leaves it
        x = builder.as_nchw(x)
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
        raise builder.error(f"it normalises {came}; normalise the channels of [N, H, W, C]", of_input=True)
    axis = x.tensor.ndim - 1
    vectors = {"scale": layer.weight, "bias": layer.bias}
    parameters = {name: builder.per_channel(x, vector, f"its {name}", axis) for name, vector in vectors.items()}
    return builder.add("layer_norm", (x,), layer, parameters=parameters, eps=float(layer.eps))


@lowers(nn.GroupNorm, nn.InstanceNorm2d)
def group_norm(builder: Builder, layer: nn.GroupNorm | nn.InstanceNorm2d, x: TracedTensor) -> TracedTensor:
    """Group norm -> means over the map and over a group's channels, differences, products, and `1 / sqrt`."""
    if isinstance(layer, nn.InstanceNorm2d) and layer.running_mean is not None:
        return batch_norm(builder, layer, x)
    x = builder.as_nchw(x)
    channels = x.shape[0]
    groups = layer.num_groups if isinstance(layer, nn.GroupNorm) else channels
    mean = _mean_of_groups(builder, x, groups, ".mean", 0.0)
    distance = sub(builder, x, builder.spread(mean, x.tensor.shape))
    square = builder.add("multiply", (distance, distance), torch.mul, suffix=".square")
    variance = _mean_of_groups(builder, square, groups, ".variance", layer.eps)
    factor = builder.add("unary", (variance,), torch.rsqrt, suffix=".factor", function="rsqrt")
    weight, bias = layer.weight, layer.bias
    parameters = {
        name: builder.per_channel(x, vector, f"its {name}") for name, vector in (("scale", weight), ("bias", bias))
    }

    def normalize(v: Tensor, by: Tensor) -> Tensor:
        y = v * by
        y = y if weight is None else y * weight.detach()[:, None, None]
        return y if bias is None else y + bias.detach()[:, None, None]

    return builder.add("multiply", (distance, factor), normalize, parameters=parameters)


def _mean_of_groups(builder: Builder, x: TracedTensor, groups: int, suffix: str, plus: float) -> TracedTensor:
    """The mean over each group's channels and map, and `plus`, for each channel: `[C, 1, 1]`.

    match_channels takes the means of channels that are congruent modulo `groups`, so a group's channels go there first.
    """
    channels = x.shape[0]
    each = channels // groups
    mean = builder.add("adaptive_avg_pool", (x,), lambda v: v.mean((2, 3), keepdim=True), suffix=suffix, size=(1, 1))
    if each > 1:
        order = torch.arange(channels).reshape(groups, each).T.flatten()
        mean = builder.as_nchw(mean.with_layout(mean.indices[order])) if groups > 1 else mean

        def of_groups(v: Tensor) -> Tensor:
            return v.reshape(len(v), each, groups, 1, 1).mean(1)

        mean = builder.add("match_channels", (mean,), of_groups, suffix=f"{suffix}.groups", channels=groups)
        mean = builder.materialize(mean.with_layout(mean.indices.repeat_interleave(each, 0)))
    if not plus:
        return mean
    parameters = {"bias": np.full(channels, plus)}
    return builder.add("pointwise", (mean,), lambda v: v + plus, suffix=f"{suffix}.eps", parameters=parameters)


@lowers(nn.RMSNorm)
def rms_norm(builder: Builder, layer: nn.RMSNorm, x: TracedTensor) -> TracedTensor:
    """RMS norm over the last axis -> as `x / sqrt(mean(x^2) + eps)`."""
    if len(layer.normalized_shape) != 1:
        raise builder.error(f"it normalises {list(layer.normalized_shape)}; normalise one axis")
    eps = torch.finfo(torch.float32).eps if layer.eps is None else layer.eps
    squares = add(builder, mean(builder, power(builder, x, 2), -1, True), eps)
    factor = builder.add("unary", (squares,), torch.rsqrt, suffix=".factor", function="rsqrt")
    y = mul(builder, x, factor)
    if layer.weight is not None:
        y = mul(builder, y, layer.weight.detach())
    return y


@lowers(F.normalize)
def normalize(
    builder: Builder, input: TracedTensor, p: float = 2.0, dim: int = 1, eps: float = 1e-12, out: None = None
) -> TracedTensor:
    """`x / max(|x|, eps)` by the Euclidean norm over an axis -> as its squares' sum, and `1 / sqrt`."""
    if p != 2:
        raise builder.error(f"p is {p}; use 2")
    squares = total(builder, power(builder, input, 2), dim, True)
    least = eps * eps
    squares = builder.add("pointwise", (squares,), lambda v: v.clamp(min=least), suffix=".least", clip=(least, None))
    factor = builder.add("unary", (squares,), torch.rsqrt, suffix=".factor", function="rsqrt")
    return mul(builder, input, factor)


@lowers("norm", torch.norm, torch.linalg.vector_norm)
def norm(
    builder: Builder, input: TracedTensor, p: Any = 2, dim: Any = None, keepdim: bool = False, **rest: Any
) -> TracedTensor:
    """The Euclidean norm over axes -> the root of the squares' sum."""
    p = rest.pop("ord", p)
    if p not in (2, "fro") or dim is None or any(value is not None for value in rest.values()):
        raise builder.error(f"takes the norm of order {p} over {dim}; use 2, and name the axes")
    return power(builder, total(builder, power(builder, input, 2), dim, keepdim), 0.5)


@lowers(nn.LocalResponseNorm)
def local_response_norm(builder: Builder, layer: nn.LocalResponseNorm, x: TracedTensor) -> TracedTensor:
    """`x / (k + alpha / size * sum of x^2 over neighbouring channels)^beta` -> multiply, conv, roots, multiply.

    The sums are a convolution of 1x1 over the squares, whose filter c has `alpha / size` at the channels from
    `c - size // 2` to `c + (size - 1) // 2`. Of its result t the powers are `t^-1/2` and, for beta = 3/4, that times
    its own root.
    """
    if layer.beta not in (0.5, 0.75, 1.0):
        raise builder.error(f"beta is {layer.beta}; use 0.75")
    x = builder.as_nchw(x)
    channels = x.shape[0]
    away = torch.arange(channels) - torch.arange(channels)[:, None]
    near = (away >= -(layer.size // 2)) & (away <= (layer.size - 1) // 2)
    weight = (near * (layer.alpha / layer.size)).to(torch.float32)[..., None, None]
    square = builder.add("multiply", (x, x), torch.mul, suffix=".square")
    level = builder.add(
        "conv",
        (square,),
        lambda v: F.conv2d(v, weight, torch.full((channels,), float(layer.k))),
        suffix=".level",
        tensors={"weight": weight.permute(0, 2, 3, 1).numpy()},
        parameters={"bias": np.full(channels, float(layer.k))},
        kernel=(1, 1),
        channels=channels,
    )
    factor = power(builder, level, -1 if layer.beta == 1 else -0.5)
    if layer.beta == 0.75:
        factor = mul(builder, factor, power(builder, factor, 0.5))
    return mul(builder, x, factor)
