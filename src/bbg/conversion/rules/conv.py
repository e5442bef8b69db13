"""The lowering rules: one per layer, each from a layer to ops of docs/format.md.

A rule reads the layer's parameters and forms, and knows no method's name. Vectors stay in float64 until the passes of
fold.py have combined them. Every op carries the function that computes the same in torch: the layer itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bbg.conversion.builder import Lowering
from bbg.conversion.rules.registry import lowers
from bbg.conversion.views import Wire, channels_last, in_order
from bbg.graph import pack_bits
from bbg.layers import BinaryConv2d, BinaryLinear
from bbg.methods import BinarizerForm

# ---- convolutions and linear layers --------------------------------------------------------------------------------


@lowers(nn.Conv2d)
def conv(to: Lowering, layer: nn.Conv2d, x: Wire) -> Wire:
    x = to.map(x)
    weight = layer.weight.detach().permute(0, 2, 3, 1).numpy()
    return to.emit(
        "conv", (x,), layer, tensors={"weight": weight}, rows={"bias": _double(layer.bias)}, **_window(to, layer)
    )


@lowers(nn.Linear)
def linear(to: Lowering, layer: nn.Linear, x: Wire) -> Wire:
    """Of features, a convolution whose kernel is the map; of a map `[N, H, W, C]`, one whose kernel is 1x1."""
    x = to.ordered(x)
    weight = _filters(to, layer.weight.detach(), x).permute(0, 2, 3, 1).numpy()
    return to.emit(
        "conv", (x,), layer, tensors={"weight": weight}, rows={"bias": _double(layer.bias)}, **_linear_window(layer, x)
    )


@lowers(BinaryConv2d)
def binary_conv(to: Lowering, layer: BinaryConv2d, x: Wire) -> Wire:
    return _binary(to, layer, to.map(x), lambda weight: weight, **_window(to, layer))


@lowers(BinaryLinear)
def binary_linear(to: Lowering, layer: BinaryLinear, x: Wire) -> Wire:
    return _binary(to, layer, x, lambda weight: _filters(to, weight, x), **_linear_window(layer, x))


def _binary(
    to: Lowering, layer: BinaryConv2d | BinaryLinear, x: Wire, filters: Callable[[Tensor], Tensor], **attributes: Any
) -> Wire:
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
    signs = to.emit(
        "pointwise",
        (x,),
        lambda v: binarizer.signs(v, form),
        suffix=".sign",
        threshold=threshold,
        rows={"bit_threshold": row},
    )

    def from_signs(a: Tensor) -> Tensor:
        t = torch.zeros(()) if form.threshold is None else binarizer.broadcast(form.threshold.detach(), a)
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


def _activation_form(to: Lowering, layer: BinaryConv2d | BinaryLinear, x: Wire) -> BinarizerForm:
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
    return {
        "kernel": layer.kernel_size,
        "stride": layer.stride,
        "padding": padding,
        "dilation": layer.dilation,
        "groups": layer.groups,
        "channels": layer.out_channels,
    }


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


# ---- over space ----------------------------------------------------------------------------------------------------


# ---- nothing to compute --------------------------------------------------------------------------------------------
