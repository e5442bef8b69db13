"""Lowering rules of functions that are sums, products and means of others: variances, minima, soft thresholds."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from bbg.conversion.builder import Builder
from bbg.conversion.rules.elementwise import absolute, add, clamp, div, mul, neg, prelu, sub
from bbg.conversion.rules.pool import amax, mean, pixels_apart
from bbg.conversion.rules.registry import lowers
from bbg.conversion.views import TracedTensor


@lowers(torch.var, "var")
def variance(
    builder: Builder,
    input: TracedTensor,
    dim: Any = None,
    unbiased: bool | None = None,
    keepdim: bool = False,
    *,
    correction: float | None = None,
) -> TracedTensor:
    """Variance over axes of a map -> the mean of the squared distances from the mean, times `n / (n - correction)`."""
    if dim is None or isinstance(dim, bool):
        raise builder.error("takes the variance of all numbers; name the axes, as x.var((2, 3))")
    apart = pixels_apart(builder.in_channel_order(input), dim)
    if apart is not None:
        both, axes = apart
        result = variance(builder, both, axes, unbiased, keepdim, correction=correction)
        return result.with_layout(result.indices.squeeze(axes[1] - 1)) if keepdim else result
    away = sub(builder, input, mean(builder, input, dim, keepdim=True))
    averaged = mean(builder, mul(builder, away, away), dim, keepdim)
    dims = dim if isinstance(dim, (tuple, list)) else (dim,)
    count = math.prod(input.tensor.shape[d] for d in dims)
    fewer = correction if correction is not None else 0 if unbiased is False else 1
    if fewer >= count:
        raise builder.error(f"takes the variance of {count} numbers with a correction of {fewer}; pass correction=0")
    return averaged if fewer == 0 else mul(builder, averaged, count / (count - fewer))


@lowers(torch.std, "std")
def deviation(builder: Builder, input: TracedTensor, *args: Any, **options: Any) -> TracedTensor:
    """Standard deviation over axes of a map -> the root of their variance."""
    squared = variance(builder, input, *args, **options)
    return builder.add("unary", (squared,), torch.sqrt, suffix=".root", function="sqrt")


@lowers(torch.minimum, "minimum")
def minimum(builder: Builder, input: TracedTensor, other: TracedTensor) -> TracedTensor:
    """The smaller of two -> `x - relu(x - y)`."""
    if not (isinstance(input, TracedTensor) and isinstance(other, TracedTensor)):
        raise builder.error("compares with a constant; use torch.clamp(x, max=constant)")
    return sub(builder, input, clamp(builder, sub(builder, input, other), min=0.0))


@lowers(torch.var_mean)
def variance_and_mean(builder: Builder, input: TracedTensor, *args: Any, **options: Any) -> Any:
    """Both -> as each."""
    squared = variance(builder, input, *args, **options)
    return squared, _mean_beside(builder, input, *args, **options)


@lowers(torch.std_mean)
def deviation_and_mean(builder: Builder, input: TracedTensor, *args: Any, **options: Any) -> Any:
    """Both -> as each."""
    return deviation(builder, input, *args, **options), _mean_beside(builder, input, *args, **options)


def _mean_beside(
    builder: Builder, input: TracedTensor, dim: Any, unbiased: Any = None, keepdim: bool = False, **rest: Any
) -> TracedTensor:
    return mean(builder, input, dim, keepdim)


@lowers("amin", torch.amin)
def amin(builder: Builder, input: TracedTensor, dim: Any = (), keepdim: bool = False) -> TracedTensor:
    """Minimum over axes -> the maximum of `-x`, negated."""
    return neg(builder, amax(builder, neg(builder, input), dim, keepdim))


@lowers("min", torch.min)
def least(builder: Builder, input: TracedTensor, dim: Any = None, keepdim: bool = False, other: Any = None) -> Any:
    """Of two tensors -> as `torch.minimum`; over an axis -> as `torch.amin`, without the places of the minima."""
    other = dim if isinstance(dim, TracedTensor) else other
    if other is not None:
        return minimum(builder, input, other)
    if dim is None:
        raise builder.error("takes the least number of all; name the axis, as min(x, 1)")
    return amin(builder, input, dim, keepdim), None


@lowers(nn.Softsign)
def softsign(builder: Builder, layer: nn.Softsign, x: TracedTensor) -> TracedTensor:
    """`x / (1 + |x|)` -> a quotient."""
    return div(builder, x, add(builder, absolute(builder, x), 1.0))


@lowers(F.softsign)
def softsign_function(builder: Builder, input: TracedTensor) -> TracedTensor:
    """As the layer."""
    return softsign(builder, nn.Softsign(), input)


@lowers(nn.Softshrink)
def softshrink(builder: Builder, layer: nn.Softshrink, x: TracedTensor) -> TracedTensor:
    """`x - clamp(x, -lambda, lambda)` -> a difference."""
    return sub(builder, x, clamp(builder, x, -layer.lambd, layer.lambd))


@lowers(F.prelu, torch.prelu, "prelu")
def prelu_function(builder: Builder, input: TracedTensor, weight: Any) -> TracedTensor:
    """As the layer with this weight, which must be constant."""
    if not isinstance(weight, torch.Tensor):
        raise builder.error("its weight depends on the images; give it a parameter")
    layer = nn.PReLU(weight.numel())
    layer.weight = nn.Parameter(weight.detach())
    return prelu(builder, layer, input)
