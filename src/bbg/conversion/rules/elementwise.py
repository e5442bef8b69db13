"""Lowering rules of what works number by number: sums, products, hinges, nonlinearities."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import StochasticDepth
from torchvision.ops.stochastic_depth import stochastic_depth

from bbg.conversion.builder import Lowering
from bbg.conversion.rules.registry import lowers
from bbg.conversion.views import Wire
from bbg.methods import Pointwise


@lowers(Pointwise)
def hinge(to: Lowering, layer: Pointwise, x: Wire) -> Wire:
    """`(above if x >= threshold else below) * (x - threshold) + bias`, clipped: a bias, two slopes, an offset."""
    form = layer.hinge()
    bias = None if form.threshold is None else -form.threshold
    vectors = {"bias": bias, "above": form.above, "below": form.below, "offset": form.bias}
    rows = {name: to.per_channel(x, vector, f"its {name}") for name, vector in vectors.items()}
    return to.emit("pointwise", (x,), layer, rows=rows, clip=(form.low, form.high))


@lowers(nn.PReLU)
def prelu(to: Lowering, layer: nn.PReLU, x: Wire) -> Wire:
    return to.emit("pointwise", (x,), layer, rows={"below": to.per_channel(x, layer.weight, "its slope")})


@lowers(nn.LeakyReLU)
def leaky_relu(to: Lowering, layer: nn.LeakyReLU, x: Wire) -> Wire:
    return to.emit("pointwise", (x,), layer, rows={"below": np.full(x.shape[0], layer.negative_slope)})


@lowers(nn.ReLU)
def relu(to: Lowering, layer: nn.ReLU, x: Wire) -> Wire:
    return to.emit("pointwise", (x,), layer, clip=(0.0, None))


@lowers(nn.Hardtanh, nn.ReLU6)
def hardtanh(to: Lowering, layer: nn.Hardtanh, x: Wire) -> Wire:
    return to.emit("pointwise", (x,), layer, clip=(layer.min_val, layer.max_val))


@lowers(torch.clamp, torch.clip, "clamp", "clamp_", "clip")
def clamp(to: Lowering, x: Wire, min: float | None = None, max: float | None = None) -> Wire:
    if not all(bound is None or isinstance(bound, (int, float)) for bound in (min, max)):
        raise to.refuse("clips to bounds that are tensors; allowed are numbers")
    if min is not None and max is not None and min > max:
        raise to.refuse(f"clips to [{min}, {max}]; the lower bound must come first")
    return to.emit("pointwise", (x,), partial(torch.clamp, min=min, max=max), clip=(min, max))


@lowers(operator.add, operator.iadd, torch.add, "add", "add_")
def add(to: Lowering, input: Any, other: Any) -> Wire:
    """A shortcut, where both depend on the input; else a bias."""
    if isinstance(input, Wire) and isinstance(other, Wire):
        return _sum(to, input, other, torch.add)
    return _affine(to, input, other, torch.add, "bias")


@lowers(operator.sub, operator.isub, torch.sub, "sub", "sub_")
def sub(to: Lowering, input: Any, other: Any) -> Wire:
    if isinstance(input, Wire) and isinstance(other, Wire):
        return _sum(to, input, other, torch.sub, gate=np.full(input.shape[0], -1.0))
    if isinstance(input, Wire):
        return _affine(to, input, -torch.as_tensor(other), torch.add, "bias")
    return add(to, neg(to, other), input)


@lowers(operator.neg, torch.neg, "neg")
def neg(to: Lowering, input: Wire) -> Wire:
    return to.emit("pointwise", (input,), torch.neg, rows={"scale": np.full(input.shape[0], -1.0)})


def _sum(to: Lowering, x: Wire, y: Wire, function: Callable[..., Tensor], gate: np.ndarray | None = None) -> Wire:
    if x.tensor.shape != y.tensor.shape:
        raise to.refuse(f"adds or subtracts maps {list(x.shape)} and {list(y.shape)}; allowed are equal shapes")
    return to.emit("pointwise", _alike(to, x, y), function, rows={"gate": gate})


def _alike(to: Lowering, x: Wire, y: Wire) -> tuple[Wire, Wire]:
    """Two tensors of one shape, their channels brought into order where torch has them in different ones."""
    for bring in (lambda wire: wire, to.ordered, to.map):
        x, y = bring(x), bring(y)
        if x.shape == y.shape and torch.equal(x.order, y.order):
            break
    return x, y


@lowers(operator.mul, operator.imul, torch.mul, "mul", "mul_")
def mul(to: Lowering, input: Any, other: Any) -> Wire:
    """A product of two maps, or of a map and one number per channel; a constant is a gate."""
    if isinstance(input, Wire) and isinstance(other, Wire):
        return product(to, input, other)
    return _affine(to, input, other, torch.mul, "scale")


@lowers(operator.truediv, operator.itruediv, torch.div, "div", "div_")
def div(to: Lowering, input: Any, other: Any) -> Wire:
    if isinstance(other, Wire):
        raise to.refuse("divides by a value that depends on the input; allowed are constants that are not 0")
    factor = 1 / torch.as_tensor(other, dtype=torch.float64)
    if not factor.isfinite().all():
        raise to.refuse("divides by 0; allowed are constants that are not 0")
    return _affine(to, input, factor, lambda v, _: torch.div(v, other), "scale")


def product(to: Lowering, x: Wire, y: Wire, suffix: str = "") -> Wire:
    """`x * y`: of one shape, or one of them with a single number for each channel."""
    if x.value[0].numel() < y.value[0].numel():
        x, y = y, x
    if x.tensor.shape != y.tensor.shape:
        x, y = to.ordered(x), to.ordered(y)
    spread = y.shape == (x.shape[0], 1, 1) and ((x.places is None and y.places is None) or (x.last and y.last))
    if x.tensor.shape == y.tensor.shape:
        x, y = _alike(to, x, y)
    elif not spread:
        came = f"{list(x.tensor.shape[1:])} and {list(y.tensor.shape[1:])}"
        raise to.refuse(f"multiplies {came}; allowed are equal shapes, or one number per channel, [N, C, 1, 1]")
    return to.emit("multiply", (x, y), torch.mul, suffix=suffix)


def _affine(to: Lowering, x: Any, y: Any, function: Callable[..., Tensor], row: str) -> Wire:
    wire, constant = (x, y) if isinstance(x, Wire) else (y, x)
    vector = torch.as_tensor(constant)
    given = vector.detach().to(torch.float32) if vector.ndim else vector
    rows = {row: to.per_channel(wire, vector, "its constant", axis=None)}
    return to.emit("pointwise", (wire,), lambda v: function(v, given), rows=rows)


@lowers(nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)
def nothing(to: Lowering, layer: nn.Module, x: Wire) -> Wire:
    return x


@lowers(F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout, F.feature_alpha_dropout)
def dropout(to: Lowering, x: Wire, p: float = 0.5, training: bool = True, inplace: bool = False) -> Wire:
    if training:
        raise to.refuse("dropout is active in evaluation mode; pass training=self.training")
    return x


@lowers(nn.Tanh)
def tanh(to: Lowering, layer: nn.Tanh, x: Wire) -> Wire:
    return to.emit("unary", (x,), torch.tanh, function="tanh")


@lowers(nn.Sigmoid)
def sigmoid(to: Lowering, layer: nn.Sigmoid, x: Wire) -> Wire:
    return to.emit("unary", (x,), torch.sigmoid, function="sigmoid")


@lowers(nn.SiLU)
def silu(to: Lowering, layer: nn.SiLU, x: Wire) -> Wire:
    return to.emit("unary", (x,), F.silu, function="silu")


@lowers(nn.Hardswish)
def hard_swish(to: Lowering, layer: nn.Hardswish, x: Wire) -> Wire:
    return to.emit("unary", (x,), F.hardswish, function="hardswish")


@lowers(nn.Hardsigmoid)
def hard_sigmoid(to: Lowering, layer: nn.Hardsigmoid, x: Wire) -> Wire:
    """`x/6 + 1/2`, clipped to [0, 1]."""
    rows = {"scale": np.full(x.shape[0], 1 / 6), "bias": np.full(x.shape[0], 0.5)}
    return to.emit("pointwise", (x,), F.hardsigmoid, rows=rows, clip=(0.0, 1.0))


@lowers(nn.GELU)
def gelu(to: Lowering, layer: nn.GELU, x: Wire) -> Wire:
    """By tanh it is `x sigmoid(2 r x (1 + 0.044715 x^2))` with `r = sqrt(2/pi)`, made of products."""
    if layer.approximate == "none":
        return to.emit("unary", (x,), layer, function="gelu")
    twice, bend = 2 * math.sqrt(2 / math.pi), 0.044715
    rows = {"scale": np.full(x.shape[0], twice * bend), "bias": np.full(x.shape[0], twice)}
    square = product(to, x, x, ".square")
    bent = to.emit("pointwise", (square,), lambda v: twice * bend * v + twice, suffix=".bent", rows=rows)
    share = to.emit("unary", (product(to, x, bent, ".inner"),), torch.sigmoid, suffix=".share", function="sigmoid")
    return product(to, x, share)


@lowers(StochasticDepth)
def stochastic_layer(to: Lowering, layer: nn.Module, x: Wire) -> Wire:
    return x


@lowers(stochastic_depth)
def stochastic(to: Lowering, input: Wire, p: float, mode: str, training: bool = True) -> Wire:
    if training:
        raise to.refuse("stochastic depth is active in evaluation mode; pass training=self.training")
    return input
