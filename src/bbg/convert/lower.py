"""The lowering rules: one per layer, each from a layer to ops of docs/format.md.

A rule reads the layer's parameters and forms, and knows no method's name. Vectors stay in float64 until the passes of
fold.py have combined them. Every op carries the function that computes the same in torch: the layer itself.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bbg.convert.trace import Lowering, Wire, lowers, rule_of
from bbg.graph import pack_bits
from bbg.layers import BinaryConv2d, BinaryLinear, Shortcut
from bbg.methods import Form, Pointwise

# ---- convolutions and linear layers --------------------------------------------------------------------------------


@lowers(nn.Conv2d)
def conv(to: Lowering, layer: nn.Conv2d, x: Wire) -> Wire:
    weight = layer.weight.detach().permute(0, 2, 3, 1).numpy()
    return to.emit("conv", (x,), layer, tensors={"weight": weight}, rows={"bias": _double(layer.bias)},
                   **_window(to, layer))  # fmt: skip


@lowers(nn.Linear)
def linear(to: Lowering, layer: nn.Linear, x: Wire) -> Wire:
    weight = _whole_map(to, layer.weight, x).permute(0, 2, 3, 1).numpy()
    return to.emit("conv", (x,), layer, tensors={"weight": weight}, rows={"bias": _double(layer.bias)},
                   channels=layer.out_features, kernel=x.shape[1:])  # fmt: skip


@lowers(BinaryConv2d)
def binary_conv(to: Lowering, layer: BinaryConv2d, x: Wire) -> Wire:
    return _binary(to, layer, x, lambda weight: weight, **_window(to, layer))


@lowers(BinaryLinear)
def binary_linear(to: Lowering, layer: BinaryLinear, x: Wire) -> Wire:
    return _binary(to, layer, x, lambda weight: _whole_map(to, weight, x), channels=layer.out_features,
                   kernel=x.shape[1:])  # fmt: skip


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
    threshold = torch.zeros(1) if form.threshold is None else form.threshold.detach()
    signs = to.emit("pointwise", (x,), lambda v: binarizer.signs(v, form.threshold), suffix=".sign",
                    threshold=threshold, rows={"sign": to.per_channel(x, form.threshold, "its threshold")})  # fmt: skip

    def from_signs(a: Tensor) -> Tensor:
        t = binarizer.along(threshold, a)
        return layer(t + a * (1 + t.abs()))  # any number on the side of the threshold that `a` says

    weight = layer.weight.detach()
    weight_form = layer.weight_binarizer.form(weight)
    b = filters(layer.weight_binarizer.signs(weight, weight_form.threshold)).double().numpy()  # [O, I/g, kh, kw]
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
    numbers = shift.detach().double().numpy().reshape(-1)
    if x.flat and len(numbers) == x.value[0].numel():
        return numbers.reshape(1, *x.shape)
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


def _whole_map(to: Lowering, weight: Tensor, x: Wire) -> Tensor:
    """The weight `[O, C*H*W]` of a linear layer as one `[O, C, H, W]` of a convolution whose kernel is the map."""
    if not x.flat:
        raise to.refuse(f"its input is [N, {', '.join(map(str, x.shape))}]; flatten it to [N, features] first")
    return weight.detach().reshape(-1, *x.shape)


def _double(vector: Tensor | None) -> np.ndarray | None:
    return None if vector is None else vector.detach().double().numpy()


def _vector(given: Tensor | None, neutral: float, channels: int) -> np.ndarray:
    """A form's vector as float64 `[channels]`."""
    numbers = torch.full((1,), neutral) if given is None else given.detach().reshape(-1)
    return numbers.double().expand(channels).numpy()


# ---- per channel ---------------------------------------------------------------------------------------------------


@lowers(nn.BatchNorm1d, nn.BatchNorm2d)
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


@lowers(torch.clamp, "clamp")
def clamp(to: Lowering, x: Wire, min: float | None = None, max: float | None = None) -> Wire:
    return to.emit("pointwise", (x,), partial(torch.clamp, min=min, max=max), clip=(min, max))


@lowers(operator.add, operator.iadd, torch.add, "add", "add_")
def add(to: Lowering, x: Any, y: Any) -> Wire:
    """A shortcut, where both depend on the input; else a bias."""
    if isinstance(x, Wire) and isinstance(y, Wire):
        if x.tensor.shape != y.tensor.shape or x.shape != y.shape:
            raise to.refuse(f"adds maps {list(x.shape)} and {list(y.shape)}; allowed are equal shapes")
        return to.emit("pointwise", (x, y), torch.add)
    return _affine(to, x, y, torch.add, "bias")


@lowers(operator.mul, operator.imul, torch.mul, "mul", "mul_")
def mul(to: Lowering, x: Any, y: Any) -> Wire:
    """A gate."""
    if isinstance(x, Wire) and isinstance(y, Wire):
        raise to.refuse("multiplies two values that depend on the input; allowed is a factor per channel")
    return _affine(to, x, y, torch.mul, "scale")


def _affine(to: Lowering, x: Any, y: Any, function: Callable[..., Tensor], row: str) -> Wire:
    wire, constant = (x, y) if isinstance(x, Wire) else (y, x)
    vector = torch.as_tensor(constant, dtype=torch.float32)
    places = (1,) if wire.flat else (wire.shape[0], 1, 1)
    fits = vector.shape[-1:] == wire.tensor.shape[1:] if wire.flat else vector.shape[-3:] == places
    if vector.numel() != 1 and not (fits and vector.numel() == wire.tensor.shape[1]):
        came = list(vector.shape)
        raise to.refuse(f"a constant of shape {came}; allowed are one number, or one per channel, [C, 1, 1]")
    rows = {row: to.per_channel(wire, vector, "its constant")}
    return to.emit("pointwise", (wire,), lambda v: function(v, vector), rows=rows)


# ---- over space ----------------------------------------------------------------------------------------------------


@lowers(nn.MaxPool2d)
def max_pool(to: Lowering, layer: nn.MaxPool2d, x: Wire) -> Wire:
    if layer.return_indices:
        raise to.refuse("return_indices is True, allowed is False")
    return to.emit("max_pool", (x,), layer, ceil_mode=layer.ceil_mode,
                   **_pairs(layer, "kernel_size", "stride", "padding", "dilation"))  # fmt: skip


@lowers(nn.AvgPool2d)
def avg_pool(to: Lowering, layer: nn.AvgPool2d, x: Wire) -> Wire:
    if layer.divisor_override is not None:
        raise to.refuse(f"divisor_override is {layer.divisor_override}, allowed is None")
    return to.emit("avg_pool", (x,), layer, ceil_mode=layer.ceil_mode, count_include_pad=layer.count_include_pad,
                   **_pairs(layer, "kernel_size", "stride", "padding"))  # fmt: skip


@lowers(nn.AdaptiveAvgPool2d)
def adaptive_avg_pool(to: Lowering, layer: nn.AdaptiveAvgPool2d, x: Wire) -> Wire:
    height, width = _pair(layer.output_size)
    size = (x.shape[1] if height is None else height, x.shape[2] if width is None else width)
    return to.emit("adaptive_avg_pool", (x,), layer, size=size)


@lowers(Shortcut)
def shortcut(to: Lowering, layer: Shortcut, x: Wire, size: tuple[int, int]) -> Wire:
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


@lowers(nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d)
def nothing(to: Lowering, layer: nn.Module, x: Wire) -> Wire:
    return x


@lowers(nn.Flatten)
def flatten(to: Lowering, layer: nn.Flatten, x: Wire) -> Wire:
    return reshape(to, x, *layer(x.tensor).shape)


@lowers("view", "reshape", torch.reshape)
def reshape(to: Lowering, x: Wire, *size: Any) -> Wire:
    shape = x.tensor.reshape(*size).shape
    if shape == x.tensor.shape:
        return x
    if x.flat and shape == x.value.shape:
        return replace(x, flat=False)
    if shape != x.value.flatten(1).shape:
        raise to.refuse(f"reshapes {list(x.tensor.shape)} to {list(shape)}; allowed is to flatten it to [N, features]")
    return replace(x, flat=True)


@lowers("unflatten")
def unflatten(to: Lowering, x: Wire, dim: int, sizes: Any) -> Wire:
    return reshape(to, x, *x.tensor.unflatten(dim, sizes).shape)


@lowers("mean", torch.mean)
def mean(to: Lowering, x: Wire, dim: Any, keepdim: bool = False) -> Wire:
    if x.flat or sorted(d % 4 for d in _pair(dim)) != [2, 3]:
        raise to.refuse(f"mean over {dim}, allowed are both dimensions of the map, (2, 3)")
    return to.emit("adaptive_avg_pool", (x,), partial(torch.mean, dim=(2, 3), keepdim=keepdim), size=(1, 1))


@lowers(F.dropout)
def dropout(to: Lowering, x: Wire, p: float = 0.5, training: bool = True, inplace: bool = False) -> Wire:
    if training:
        raise to.refuse("dropout is active in evaluation mode; pass training=self.training")
    return x


# ---- functions that do what a layer does ---------------------------------------------------------------------------


def _as_layer(build: Callable[..., nn.Module]) -> Callable[..., Wire]:
    """The rule of a function, from the layer that does the same: `build` takes the arguments behind the input."""

    def rule(to: Lowering, input: Wire, *args: Any, **kwargs: Any) -> Wire:
        layer = build(*args, **kwargs).eval()
        lower = rule_of(layer)
        assert lower is not None
        result: Wire = lower(to, layer, input)
        return result

    return rule


_TWINS: dict[tuple[Any, ...], Callable[..., nn.Module]] = {
    (F.relu, torch.relu, "relu", "relu_"): lambda inplace=False: nn.ReLU(),
    (F.relu6,): lambda inplace=False: nn.ReLU6(),
    (F.hardtanh,): lambda min_val=-1.0, max_val=1.0, inplace=False: nn.Hardtanh(min_val, max_val),
    (F.leaky_relu,): lambda negative_slope=0.01, inplace=False: nn.LeakyReLU(negative_slope),
    (F.max_pool2d,): lambda kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, return_indices=False: (
        nn.MaxPool2d(kernel_size, stride, padding, dilation, return_indices, ceil_mode)
    ),
    (F.avg_pool2d,): nn.AvgPool2d,
    (F.adaptive_avg_pool2d,): nn.AdaptiveAvgPool2d,
    (torch.flatten, "flatten"): lambda start_dim=0, end_dim=-1: nn.Flatten(start_dim, end_dim),
}
for _targets, _build in _TWINS.items():
    lowers(*_targets)(_as_layer(_build))
