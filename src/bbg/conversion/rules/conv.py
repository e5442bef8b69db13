"""The lowering rules: one per layer, each from a layer to ops of docs/format.md.

A rule reads the layer's parameters and forms, and knows no method's name. Vectors stay in float64 until the passes of
fold.py have combined them. Every op carries the function that computes the same in torch: the layer itself.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bbg.conversion.trace import Lowering, lowers
from bbg.conversion.views import Wire, channels_last, in_order
from bbg.graph import pack_bits
from bbg.layers import BinaryConv2d, BinaryLinear, Shortcut
from bbg.methods import Form, Pointwise

# ---- convolutions and linear layers --------------------------------------------------------------------------------


@lowers(nn.Conv2d)
def conv(to: Lowering, layer: nn.Conv2d, x: Wire) -> Wire:
    x = to.map(x)
    weight = layer.weight.detach().permute(0, 2, 3, 1).numpy()
    return to.emit("conv", (x,), layer, tensors={"weight": weight}, rows={"bias": _double(layer.bias)},
                   **_window(to, layer))  # fmt: skip


@lowers(nn.Linear)
def linear(to: Lowering, layer: nn.Linear, x: Wire) -> Wire:
    """Of features, a convolution whose kernel is the map; of a map `[N, H, W, C]`, one whose kernel is 1x1."""
    x = to.ordered(x)
    weight = _filters(to, layer.weight.detach(), x).permute(0, 2, 3, 1).numpy()
    return to.emit("conv", (x,), layer, tensors={"weight": weight}, rows={"bias": _double(layer.bias)},
                   **_linear_window(layer, x))  # fmt: skip


@lowers(BinaryConv2d)
def binary_conv(to: Lowering, layer: BinaryConv2d, x: Wire) -> Wire:
    return _binary(to, layer, to.map(x), lambda weight: weight, **_window(to, layer))


@lowers(BinaryLinear)
def binary_linear(to: Lowering, layer: BinaryLinear, x: Wire) -> Wire:
    return _binary(to, layer, x, lambda weight: _filters(to, weight, x), **_linear_window(layer, x))


def _binary(to: Lowering, layer: BinaryConv2d | BinaryLinear, x: Wire, filters: Callable[[Tensor], Tensor],
            **attributes: Any) -> Wire:  # fmt: skip
    """A sign, and a convolution of bits.

    With `q(x) = m_i + r a` (channel i, a the sign) and `q(w) = n_o + s_o b` (filter o, b the sign), the sum over taps
    t inside the map and channels i is

        sum q(x) q(w)  =  r s_o sum(a b)  +  r n_o sum(a)  +  sum_t sum_i m_i (n_o + s_o b_oti)
                          scale   acc        shift    S             tap_bias[t, o]

    Where there is no padding, every tap is inside: the tap biases add up to one bias.
    """
    binarizer = layer.activation_binarizer
    form = _activation_form(to, layer, x)
    row = to.per_channel(x, form.threshold, "its threshold")
    threshold = torch.zeros(x.shape[0]) if row is None else torch.from_numpy(row).float()
    signs = to.emit("pointwise", (x,), lambda v: binarizer.signs(v, form), suffix=".sign", threshold=threshold,
                    rows={"sign": row})  # fmt: skip

    def from_signs(a: Tensor) -> Tensor:
        t = torch.zeros(()) if form.threshold is None else binarizer.along(form.threshold.detach(), a)
        return layer(t + a * (1 + t.abs()))  # any number on the side of the threshold that `a` says

    weight = layer.weight.detach()
    weight_form = layer.weight_binarizer.form(weight)
    b = filters(layer.weight_binarizer.signs(weight, weight_form)).double().numpy()  # [O, I/g, kh, kw]
    r = 1.0 if form.scale is None else float(form.scale)
    s, n = (_vector(v, neutral, len(b)) for v, neutral in ((weight_form.scale, 1.0), (weight_form.shift, 0.0)))
    rows = {"scale": r * s, "bias": _double(layer.bias)}
    tensors = {"weight": pack_bits(b.transpose(0, 2, 3, 1), len(b))}
    if weight_form.shift is not None:
        rows["shift"] = r * n
    if form.shift is not None:
        q = n[:, None, None, None] + s[:, None, None, None] * b
        m = _shift_of_taps(to, form.shift, x, len(b), attributes.get("groups", 1))
        tap_bias = (m * q).sum(axis=1).reshape(len(b), -1).T
        if max(attributes.get("padding", (0, 0))):
            tensors["tap_bias"] = tap_bias
        else:
            rows["bias"] = tap_bias.sum(axis=0) + (0.0 if rows["bias"] is None else rows["bias"])
    return to.emit("binary_conv", (signs,), from_signs, rows=rows, tensors=tensors, **attributes)


def _activation_form(to: Lowering, layer: BinaryConv2d | BinaryLinear, x: Wire) -> Form:
    """The vectors of the activation's form, which must be parameters: the same for every input."""
    form, other = (layer.activation_binarizer.form(v) for v in (x.tensor, -1 - x.tensor))
    for name in ("threshold", "scale", "shift"):
        a, b = getattr(form, name), getattr(other, name)
        if a is not None and not torch.equal(a, b):
            raise to.refuse(f"the {name} of its activation depends on the input; allowed are fixed parameters")
    if form.scale is not None and (form.scale.numel() != 1 or not form.scale):
        raise to.refuse("the scale of its activation must be one number that is not 0: others cannot leave the sum")
    return form


def _shift_of_taps(to: Lowering, shift: Tensor, x: Wire, filters: int, groups: int) -> np.ndarray:
    """The activation's shift as each filter meets it: `[O, I/g, 1, 1]`, or `[1, C, H, W]` for a whole map flattened."""
    numbers = shift.detach().double().reshape(1, -1)
    if x.flat and numbers.numel() == x.value[0].numel():
        return in_order(numbers, x.places, x.shape).numpy()
    return _vector(shift, 0.0, x.shape[0]).reshape(groups, -1).repeat(filters // groups, axis=0)[:, :, None, None]


def _window(to: Lowering, layer: nn.Conv2d) -> dict[str, Any]:
    """The attributes of a convolution."""
    if layer.padding_mode != "zeros":
        raise to.refuse(f"padding_mode is {layer.padding_mode!r}, allowed is 'zeros'")
    padding: Any = layer.padding
    if padding == "valid":
        padding = (0, 0)
    elif padding == "same":
        total = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
        if any(t % 2 for t in total):
            raise to.refuse("padding 'same' is not symmetric for this kernel; use an odd kernel, or pad by a number")
        padding = tuple(t // 2 for t in total)
    return {"kernel": layer.kernel_size, "stride": layer.stride, "padding": padding, "dilation": layer.dilation,
            "groups": layer.groups, "channels": layer.out_channels}  # fmt: skip


def _filters(to: Lowering, weight: Tensor, x: Wire) -> Tensor:
    """The weight `[O, features]` of a linear layer as that of a convolution, `[O, C, H, W]` or `[O, C, 1, 1]`."""
    if x.flat:
        return in_order(weight, x.places, x.shape)
    if x.last:
        return weight[:, :, None, None]
    raise to.refuse(f"its input is {to.describe(x)}; flatten it to [N, features], or permute it to [N, H, W, C]")


def _linear_window(layer: nn.Linear, x: Wire) -> dict[str, Any]:
    """The attributes of that convolution, and how torch has its result."""
    outputs = layer.out_features
    if x.flat:
        return {"channels": outputs, "kernel": x.shape[1:], "places": torch.arange(outputs)}
    return {"channels": outputs, "kernel": (1, 1), "places": channels_last((outputs, *x.shape[1:]))}


def _double(vector: Tensor | None) -> np.ndarray | None:
    return None if vector is None else vector.detach().double().numpy()


def _vector(given: Tensor | None, neutral: float, channels: int) -> np.ndarray:
    """A form's vector as float64 `[channels]`."""
    numbers = torch.full((1,), neutral) if given is None else given.detach().reshape(-1)
    return numbers.double().expand(channels).numpy()


# ---- per channel ---------------------------------------------------------------------------------------------------


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


# ---- over space ----------------------------------------------------------------------------------------------------


@lowers(nn.MaxPool2d)
def max_pool(to: Lowering, layer: nn.MaxPool2d, x: Wire) -> Wire:
    if layer.return_indices:
        raise to.refuse("return_indices is True, allowed is False")
    return to.emit("max_pool", (to.map(x),), layer, ceil_mode=layer.ceil_mode,
                   **_pairs(layer, "kernel_size", "stride", "padding", "dilation"))  # fmt: skip


@lowers(nn.AvgPool2d)
def avg_pool(to: Lowering, layer: nn.AvgPool2d, x: Wire) -> Wire:
    if layer.divisor_override is not None:
        raise to.refuse(f"divisor_override is {layer.divisor_override}, allowed is None")
    return to.emit("avg_pool", (to.map(x),), layer, ceil_mode=layer.ceil_mode,
                   count_include_pad=layer.count_include_pad,
                   **_pairs(layer, "kernel_size", "stride", "padding"))  # fmt: skip


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


# ---- nothing to compute --------------------------------------------------------------------------------------------


@lowers(nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)
def nothing(to: Lowering, layer: nn.Module, x: Wire) -> Wire:
    return x


@lowers("mean", torch.mean)
def mean(to: Lowering, x: Wire, dim: Any, keepdim: bool = False) -> Wire:
    """The mean of each map."""
    x = to.ordered(x)
    over = sorted(d % x.tensor.ndim for d in _pair(dim))
    if not (x.places is None and over == [2, 3]) and not (x.last and over == [1, 2]):
        raise to.refuse(f"mean over {dim} of {to.describe(x)}; allowed are both dimensions of the map")
    places = channels_last((x.shape[0], 1, 1)) if keepdim and x.last else None
    return to.emit("adaptive_avg_pool", (x,), partial(torch.mean, dim=dim, keepdim=keepdim), size=(1, 1),
                   places=places)  # fmt: skip


@lowers(F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout, F.feature_alpha_dropout)
def dropout(to: Lowering, x: Wire, p: float = 0.5, training: bool = True, inplace: bool = False) -> Wire:
    if training:
        raise to.refuse("dropout is active in evaluation mode; pass training=self.training")
    return x
