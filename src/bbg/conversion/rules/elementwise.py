"""Lowering rules of what works number by number: nonlinearities, sums, products, constants."""

from __future__ import annotations

import math
import operator
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bbg.conversion.builder import Builder
from bbg.conversion.rules.registry import lowers
from bbg.conversion.views import TracedTensor, View
from bbg.errors import first_line
from bbg.layers import FixedSize
from bbg.methods import Pointwise

# ---- hinges and clips ----------------------------------------------------------------------------------------------


@lowers(Pointwise)
def hinge(builder: Builder, layer: Pointwise, x: TracedTensor) -> TracedTensor:
    """`(above if x >= threshold else below) * (x - threshold) + bias`, clipped -> pointwise.

    The threshold becomes a bias of the accumulator, the bias an offset behind the slopes.
    """
    form = layer.hinge()
    bias = None if form.threshold is None else -form.threshold
    vectors = {"bias": bias, "above": form.above, "below": form.below, "offset": form.bias}
    parameters = {name: builder.per_channel(x, vector, f"its {name}") for name, vector in vectors.items()}
    return builder.add("pointwise", (x,), layer, parameters=parameters, clip=(form.low, form.high))


@lowers(nn.PReLU)
def prelu(builder: Builder, layer: nn.PReLU, x: TracedTensor) -> TracedTensor:
    """PReLU -> pointwise with a slope per channel below 0."""
    return builder.add(
        "pointwise", (x,), layer, parameters={"below": builder.per_channel(x, layer.weight, "its slope")}
    )


@lowers(nn.LeakyReLU)
def leaky_relu(builder: Builder, layer: nn.LeakyReLU, x: TracedTensor) -> TracedTensor:
    """Leaky ReLU -> pointwise with one slope below 0."""
    return builder.add("pointwise", (x,), layer, parameters={"below": np.full(x.shape[0], layer.negative_slope)})


@lowers(nn.ReLU)
def relu(builder: Builder, layer: nn.ReLU, x: TracedTensor) -> TracedTensor:
    """ReLU -> pointwise clipped to [0, inf)."""
    return builder.add("pointwise", (x,), layer, clip=(0.0, None))


@lowers(nn.Hardtanh, nn.ReLU6)
def hardtanh(builder: Builder, layer: nn.Hardtanh, x: TracedTensor) -> TracedTensor:
    """Hardtanh, ReLU6 -> pointwise clipped to their bounds."""
    return builder.add("pointwise", (x,), layer, clip=(layer.min_val, layer.max_val))


@lowers(torch.clamp, torch.clip, "clamp", "clamp_", "clip")
def clamp(builder: Builder, x: TracedTensor, min: float | None = None, max: float | None = None) -> TracedTensor:
    """A clamp to numbers -> pointwise, clipped."""
    if not all(bound is None or isinstance(bound, (int, float)) for bound in (min, max)):
        raise builder.error("clips to bounds that are tensors; give numbers")
    if min is not None and max is not None and min > max:
        raise builder.error(f"clips to [{min}, {max}]; give the lower bound first")
    return builder.add("pointwise", (x,), partial(torch.clamp, min=min, max=max), clip=(min, max))


@lowers(torch.clamp_min, "clamp_min", "clamp_min_")
def clamp_min(builder: Builder, input: TracedTensor, min: float) -> TracedTensor:
    """A clamp from below -> as the clamp."""
    return clamp(builder, input, min=min)


@lowers(torch.clamp_max, "clamp_max", "clamp_max_")
def clamp_max(builder: Builder, input: TracedTensor, max: float) -> TracedTensor:
    """A clamp from above -> as the clamp."""
    return clamp(builder, input, max=max)


@lowers(nn.Hardsigmoid)
def hardsigmoid(builder: Builder, layer: nn.Hardsigmoid, x: TracedTensor) -> TracedTensor:
    """Hardsigmoid -> pointwise: `x/6 + 1/2`, clipped to [0, 1]."""
    parameters = {"scale": np.full(x.shape[0], 1 / 6), "bias": np.full(x.shape[0], 0.5)}
    return builder.add("pointwise", (x,), F.hardsigmoid, parameters=parameters, clip=(0.0, 1.0))


# ---- scalar functions ----------------------------------------------------------------------------------------------


def _unary(layer_type: type[nn.Module], name: str, function: Callable[[Tensor], Tensor]) -> None:
    """Registers the rule of a layer that is the scalar function `name` of the format."""

    @lowers(layer_type)
    def rule(builder: Builder, layer: nn.Module, x: TracedTensor) -> TracedTensor:
        return builder.add("unary", (x,), function, function=name)


_unary(nn.Tanh, "tanh", torch.tanh)
_unary(nn.Sigmoid, "sigmoid", torch.sigmoid)
_unary(nn.SiLU, "silu", F.silu)
_unary(nn.Hardswish, "hardswish", F.hardswish)
_unary(nn.Mish, "mish", F.mish)


@lowers(nn.GELU)
def gelu(builder: Builder, layer: nn.GELU, x: TracedTensor) -> TracedTensor:
    """GELU -> unary; by tanh it is `x sigmoid(2 r x (1 + 0.044715 x^2))` with `r = sqrt(2/pi)`, made of products."""
    if layer.approximate == "none":
        return builder.add("unary", (x,), layer, function="gelu")
    twice, bend = 2 * math.sqrt(2 / math.pi), 0.044715
    parameters = {"scale": np.full(x.shape[0], twice * bend), "bias": np.full(x.shape[0], twice)}
    square = _product(builder, x, x, ".square")
    bent = builder.add(
        "pointwise", (square,), lambda v: twice * bend * v + twice, suffix=".bent", parameters=parameters
    )
    inner = _product(builder, x, bent, ".inner")
    return _product(builder, x, builder.add("unary", (inner,), torch.sigmoid, suffix=".share", function="sigmoid"))


@lowers(nn.ELU, nn.CELU, nn.SELU)
def elu(builder: Builder, layer: nn.ELU | nn.CELU | nn.SELU, x: TracedTensor) -> TracedTensor:
    """ELU -> unary, and a slope for what is negative; SELU: another for the rest."""
    alpha, above = getattr(layer, "alpha", 1.6732632423543772), 1.0
    if isinstance(layer, nn.CELU) and alpha != 1:
        raise builder.error(f"alpha is {alpha}; use nn.ELU")
    if isinstance(layer, nn.SELU):
        above = 1.0507009873554805
    slopes = {"above": np.full(x.shape[0], above), "below": np.full(x.shape[0], above * alpha)}
    return builder.add("unary", (x,), layer, function="elu", parameters=slopes)


def _function(name: str, *spellings: Any) -> None:
    """Registers the rule of a function of torch that is the scalar function `name` of the format."""

    @lowers(getattr(torch, name), name, f"{name}_", *spellings)
    def rule(builder: Builder, input: TracedTensor) -> TracedTensor:
        return builder.add("unary", (input,), getattr(torch, name), function=name)


for _name in ("exp", "sqrt", "rsqrt", "reciprocal"):
    _function(_name)


@lowers(torch.abs, operator.abs, "abs", "abs_")
def absolute(builder: Builder, input: TracedTensor) -> TracedTensor:
    """A size -> pointwise with the slope -1 below 0."""
    return builder.add("pointwise", (input,), torch.abs, parameters={"below": np.full(input.shape[0], -1.0)})


# ---- sums and products ---------------------------------------------------------------------------------------------


@lowers(operator.add, operator.iadd, torch.add, "add", "add_")
def add(builder: Builder, input: Any, other: Any, *, alpha: float = 1) -> TracedTensor:
    """A sum of two maps -> pointwise with a shortcut; of a map and a constant -> pointwise with a bias."""
    other = _times(builder, other, alpha)
    if isinstance(input, TracedTensor) and isinstance(other, TracedTensor):
        return _sum(builder, input, other, torch.add)
    return _affine(builder, input, other, torch.add, "bias")


@lowers(operator.sub, operator.isub, torch.sub, "sub", "sub_")
def sub(builder: Builder, input: Any, other: Any, *, alpha: float = 1) -> TracedTensor:
    """A difference of two maps -> pointwise with a shortcut whose gate is -1; a constant -> a bias."""
    other = _times(builder, other, alpha)
    if isinstance(input, TracedTensor) and isinstance(other, TracedTensor):
        return _sum(builder, input, other, torch.sub, gate=np.full(input.shape[0], -1.0))
    if isinstance(input, TracedTensor):
        return _affine(builder, input, -torch.as_tensor(other), torch.add, "bias")
    return _affine(builder, neg(builder, other), input, torch.add, "bias")


@lowers(operator.neg, torch.neg, "neg")
def neg(builder: Builder, input: TracedTensor) -> TracedTensor:
    """A negation -> pointwise with the scale -1."""
    return builder.add("pointwise", (input,), torch.neg, parameters={"scale": np.full(input.shape[0], -1.0)})


@lowers(operator.mul, operator.imul, torch.mul, "mul", "mul_", takes_views=True)
def mul(builder: Builder, input: Any, other: Any) -> TracedTensor:
    """A product of two maps, or of a map and one number per channel -> multiply; by a constant -> a scale."""
    input, other = (_unrepeated(builder, x) if isinstance(x, View) else x for x in (input, other))
    if isinstance(input, TracedTensor) and isinstance(other, TracedTensor):
        return _product(builder, input, other)
    return _affine(builder, input, other, torch.mul, "scale")


@lowers(operator.truediv, operator.itruediv, torch.div, "div", "div_")
def div(builder: Builder, input: Any, other: Any) -> TracedTensor:
    """A quotient by a constant -> pointwise with a scale; by a tensor -> unary and multiply."""
    if isinstance(other, TracedTensor):
        part = builder.add("unary", (other,), torch.reciprocal, suffix=".part", function="reciprocal")
        return mul(builder, input, part)
    factor = 1 / torch.as_tensor(other, dtype=torch.float64)
    if not factor.isfinite().all():
        raise builder.error("divides by 0; divide by another number")
    return _affine(builder, input, factor, lambda v, _: torch.div(v, other), "scale")


def _times(builder: Builder, x: Any, factor: float) -> Any:
    """`factor * x` of a tensor or a constant."""
    if factor == 1:
        return x
    return mul(builder, x, factor) if isinstance(x, TracedTensor) else x * factor


def _sum(
    builder: Builder,
    x: TracedTensor,
    y: TracedTensor,
    function: Callable[..., Tensor],
    gate: np.ndarray | None = None,
) -> TracedTensor:
    x, y = _broadcast(builder, x, y, "adds or subtracts")
    return builder.add("pointwise", _alike(builder, x, y), function, parameters={"gate": gate})


def _product(builder: Builder, x: TracedTensor, y: TracedTensor, suffix: str = "") -> TracedTensor:
    """`x * y`: of one shape, or one of them with a single number for each channel."""
    if x.numbers < y.numbers:
        x, y = y, x
    if x.tensor.shape != y.tensor.shape:
        x, y = builder.in_channel_order(x), builder.in_channel_order(y)
    if not _is_factor_of_channels(x, y):
        x, y = _alike(builder, *_broadcast(builder, x, y, "multiplies"))
    return builder.add("multiply", (x, y), torch.mul, suffix=suffix)


def _is_factor_of_channels(x: TracedTensor, y: TracedTensor) -> bool:
    """Whether y has one number for each channel of x, which torch multiplies with it."""
    if y.shape != (x.shape[0], 1, 1):
        return False
    channels = x.indices // (x.shape[1] * x.shape[2])
    try:
        return torch.equal(torch.broadcast_to(y.indices, channels.shape), channels)
    except RuntimeError:
        return False


def _unrepeated(builder: Builder, x: View) -> TracedTensor:
    """One number for each channel that is repeated to a map, as `[N, C, 1, 1]`; anything else as it is."""
    if isinstance(x, TracedTensor) and x.layout is not None and x.layout.ndim == 3 and x.shape[1:] == (1, 1):
        channels = torch.arange(x.shape[0])[:, None, None]
        if torch.equal(x.layout, channels.expand_as(x.layout) if len(x.layout) == len(channels) else channels):
            return TracedTensor(x.name, x.value)
    return builder.materialize(x)


def _broadcast(builder: Builder, x: TracedTensor, y: TracedTensor, does: str) -> tuple[TracedTensor, TracedTensor]:
    """Two tensors, each repeated along the axes in which it has one number and the other more."""
    if x.tensor.shape == y.tensor.shape:
        return x, y
    try:
        shape = torch.broadcast_shapes(x.tensor.shape, y.tensor.shape)
        last = any(tensor.tensor.shape == shape and tensor.is_channels_last for tensor in (x, y))
        return builder.spread(x, shape, last), builder.spread(y, shape, last)
    except RuntimeError as error:
        came = f"{list(x.tensor.shape[1:])} and {list(y.tensor.shape[1:])}"
        raise builder.error(f"{does} {came} ({first_line(error)})", of_input=True) from None


def _alike(builder: Builder, x: TracedTensor, y: TracedTensor) -> tuple[TracedTensor, TracedTensor]:
    """Two tensors of one shape, their channels brought into order where torch has them in different ones."""
    for bring in (lambda tensor: tensor, builder.in_channel_order, builder.as_nchw):
        x, y = bring(x), bring(y)
        if x.shape == y.shape and torch.equal(x.indices, y.indices):
            break
    return x, y


def _affine(builder: Builder, x: Any, y: Any, function: Callable[..., Tensor], parameter: str) -> TracedTensor:
    """`function` of a tensor and a constant, which becomes this parameter of a pointwise op."""
    traced, constant = (x, y) if isinstance(x, TracedTensor) else (y, x)
    vector = torch.as_tensor(constant)
    given = vector.detach().to(torch.float32) if vector.ndim else vector
    parameters = {parameter: builder.per_channel(traced, vector, "its constant", axis=None)}
    return builder.add("pointwise", (traced,), lambda v: function(v, given), parameters=parameters)


@lowers(torch.maximum, "maximum")
def maximum(builder: Builder, input: TracedTensor, other: TracedTensor) -> TracedTensor:
    """The larger of two -> `x + relu(y - x)`, made of sums."""
    if not (isinstance(input, TracedTensor) and isinstance(other, TracedTensor)):
        raise builder.error("compares with a constant; use torch.clamp(x, min=constant)")
    x, y = _alike(builder, *_broadcast(builder, input, other, "compares"))
    minus = {"gate": np.full(x.shape[0], -1.0)}
    above = builder.add(
        "pointwise", (y, x), lambda b, a: (b - a).relu(), suffix=".above", parameters=minus, clip=(0.0, None)
    )
    return builder.add("pointwise", (x, above), torch.add)


@lowers(torch.addcmul, "addcmul")
def addcmul(builder: Builder, input: Any, tensor1: Any, tensor2: Any, value: float = 1) -> TracedTensor:
    """`input + value * tensor1 * tensor2` -> as the product and the sum."""
    if not any(isinstance(t, TracedTensor) for t in (tensor1, tensor2)):
        plus = value * tensor1 * tensor2
    else:
        plus = mul(builder, tensor1, tensor2)
        plus = plus if value == 1 else mul(builder, plus, value)
    return add(builder, input, plus)


@lowers(torch.square, "square", "square_")
def square(builder: Builder, input: TracedTensor) -> TracedTensor:
    """A square -> multiply."""
    return _product(builder, input, input)


@lowers(torch.zeros_like)
def zeros_like(builder: Builder, input: TracedTensor, **options: Any) -> TracedTensor:
    """Zeros -> a scale of 0."""
    return _affine(builder, input, 0.0, torch.mul, "scale")


@lowers(torch.ones_like)
def ones_like(builder: Builder, input: TracedTensor, **options: Any) -> TracedTensor:
    """Ones -> a scale of 0, and a bias."""
    return _affine(builder, zeros_like(builder, input), 1.0, torch.add, "bias")


# ---- nothing to compute --------------------------------------------------------------------------------------------


@lowers(
    nn.Identity,
    FixedSize,
    nn.Dropout,
    nn.Dropout1d,
    nn.Dropout2d,
    nn.Dropout3d,
    nn.AlphaDropout,
    nn.FeatureAlphaDropout,
    takes_views=True,
)
def identity(builder: Builder, layer: nn.Module, x: View) -> View:
    """Layers that do nothing in evaluation mode -> no op."""
    return x


@lowers(F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout, F.feature_alpha_dropout, takes_views=True)
def dropout(builder: Builder, x: View, p: float = 0.5, training: bool = True, inplace: bool = False) -> View:
    """Dropout that is not active -> no op."""
    if training:
        raise builder.error("dropout is active in evaluation mode; pass training=self.training")
    return x


def register_torchvision() -> None:
    """Registers stochastic depth, a layer and a function of torchvision, where that has been imported.

    A network that uses them has imported it; conversion itself does not need it.
    """
    ops = sys.modules.get("torchvision.ops.stochastic_depth")
    if ops is not None:
        lowers(ops.StochasticDepth, takes_views=True)(identity)
        lowers(ops.stochastic_depth, takes_views=True)(stochastic_depth)


def stochastic_depth(builder: Builder, input: View, p: float, mode: str, training: bool = True) -> View:
    """Stochastic depth that is not active -> no op."""
    if training:
        raise builder.error("stochastic depth is active in evaluation mode; pass training=self.training")
    return input
