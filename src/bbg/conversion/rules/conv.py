"""Lowering rules of convolutions and linear layers, real-valued and binary."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bbg.conversion.builder import Builder
from bbg.conversion.lines import Lines, lines_of
from bbg.conversion.oracle import QuantParams
from bbg.conversion.rules.registry import lowers
from bbg.conversion.views import TracedTensor, channels_last, to_value
from bbg.graph import pack_bits
from bbg.layers import BinaryConv2d, BinaryLinear, ByteConv2d, ByteLinear
from bbg.methods import BinarizerForm


@lowers(nn.Conv2d)
def conv(builder: Builder, layer: nn.Conv2d, x: TracedTensor) -> TracedTensor:
    """Convolution -> conv."""
    x = builder.as_nchw(x)
    weight = layer.weight.detach().permute(0, 2, 3, 1).numpy()
    parameters = {"bias": _double(layer.bias)}
    window = window_of(builder, layer)
    return builder.add("conv", (x,), layer, tensors={"weight": weight}, parameters=parameters, **window)


@lowers(nn.Linear)
def linear(builder: Builder, layer: nn.Linear, x: TracedTensor) -> TracedTensor:
    """Linear layer -> conv: of features, with the map as kernel; of a map `[N, H, W, C]`, with a kernel of 1x1.

    Of a sequence `[N, L, C]` the kernel has all lines of a channel.
    """
    if x.indices.ndim == 2:
        return _linear_of_sequence(builder, layer, lines_of(builder, x.with_layout(x.indices.T)))
    x = builder.in_channel_order(x)
    weight = _filters(builder, layer.weight.detach(), x).permute(0, 2, 3, 1).numpy()
    parameters = {"bias": _double(layer.bias)}
    window = _linear_window(layer, x)
    return builder.add("conv", (x,), layer, tensors={"weight": weight}, parameters=parameters, **window)


def _linear_of_sequence(builder: Builder, layer: nn.Linear, lines: Lines) -> TracedTensor:
    weight = torch.empty_like(layer.weight)
    weight[:, lines.order] = layer.weight.detach()
    kernel = lines.pair(1, lines.across)
    x, outputs = lines.x, layer.out_features
    filters = weight.reshape(outputs, x.shape[0], *kernel).permute(0, 2, 3, 1).numpy()
    length = x.indices.shape[1]
    return builder.add(
        "conv",
        (x.with_layout(x.indices.T),),
        layer,
        tensors={"weight": np.ascontiguousarray(filters)},
        parameters={"bias": _double(layer.bias)},
        layout=torch.arange(outputs * length).reshape(outputs, length).T,
        kernel=kernel,
        channels=outputs,
    )


@lowers(BinaryConv2d)
def binary_conv(builder: Builder, layer: BinaryConv2d, x: TracedTensor) -> TracedTensor:
    """Binary convolution -> pointwise that writes bits, binary_conv."""
    return _binary(builder, layer, builder.as_nchw(x), lambda weight: weight, **window_of(builder, layer))


@lowers(BinaryLinear)
def binary_linear(builder: Builder, layer: BinaryLinear, x: TracedTensor) -> TracedTensor:
    """Binary linear layer -> pointwise that writes bits, binary_conv with the map as kernel."""
    return _binary(builder, layer, x, lambda weight: _filters(builder, weight, x), **_linear_window(layer, x))


def _binary(
    builder: Builder,
    layer: BinaryConv2d | BinaryLinear,
    x: TracedTensor,
    filters: Callable[[Tensor], Tensor],
    **attributes: Any,
) -> TracedTensor:
    """A sign, and a convolution of bits.

    With `q(x) = m_i + r a` (channel i, a the sign) and `q(w) = n_o + s_o b` (filter o, b the sign), the sum over taps
    t inside the map and channels i is

        sum q(x) q(w)  =  r s_o sum(a b)  +  r n_o sum(a)  +  sum_t sum_i m_i (n_o + s_o b_oti)
                          scale   acc        shift    S             tap_bias[t, o]

    Where there is no padding, every tap is inside: the tap biases add up to one bias.
    """
    binarizer = layer.activation_binarizer
    form = _activation_form(builder, layer, x)
    threshold = builder.per_channel(x, form.threshold, "its threshold")
    signs = builder.add_sign(x, lambda v: binarizer.signs(v, form), threshold)

    def from_signs(a: Tensor) -> Tensor:
        if form.threshold is not None:
            t = binarizer.broadcast(form.threshold.detach(), a)
            a = t + a * (1 + t.abs())  # any number on the side of the threshold that `a` says
        result: Tensor = layer(a)
        return result

    weight = layer.weight.detach()
    weight_form = layer.weight_binarizer.form(weight)
    b = filters(layer.weight_binarizer.signs(weight, weight_form)).double().numpy()  # [O, I/g, kh, kw]
    r = 1.0 if form.scale is None else float(form.scale)
    s, n = (_vector(v, neutral, len(b)) for v, neutral in ((weight_form.scale, 1.0), (weight_form.shift, 0.0)))
    parameters = {"scale": r * s, "bias": _double(layer.bias)}
    tensors = {"weight": pack_bits(b.transpose(0, 2, 3, 1), len(b))}
    if weight_form.shift is not None:
        parameters["shift"] = r * n
    if form.shift is not None:
        q = n[:, None, None, None] + s[:, None, None, None] * b
        m = _shift_of_taps(form.shift, x, len(b), attributes.get("groups", 1))
        tap_bias = (m * q).sum(axis=1).reshape(len(b), -1).T
        if max(attributes.get("padding", (0, 0))):
            tensors["tap_bias"] = tap_bias
        else:
            bias = parameters["bias"]
            parameters["bias"] = tap_bias.sum(axis=0) + (0.0 if bias is None else bias)
    return builder.add("binary_conv", (signs,), from_signs, parameters=parameters, tensors=tensors, **attributes)


@lowers(ByteConv2d)
def byte_conv(builder: Builder, layer: ByteConv2d, x: TracedTensor) -> TracedTensor:
    """8-bit convolution -> pointwise that writes bytes, byte_conv."""
    x = builder.as_nchw(x)
    return _byte(builder, layer, x, lambda weight: weight, **window_of(builder, layer))


@lowers(ByteLinear)
def byte_linear(builder: Builder, layer: ByteLinear, x: TracedTensor) -> TracedTensor:
    """8-bit linear layer -> pointwise that writes bytes, byte_conv with the map as kernel, or of a map with 1x1."""
    x = builder.in_channel_order(x)
    return _byte(builder, layer, x, lambda weight: _filters(builder, weight, x), **_linear_window(layer, x))


def _byte(
    builder: Builder,
    layer: ByteConv2d | ByteLinear,
    x: TracedTensor,
    filters: Callable[[Tensor], Tensor],
    **attributes: Any,
) -> TracedTensor:
    """Bytes, and a convolution of them, as the layer trained it (layers/byte.py):

        a_o conv(u, q)  +  sum over the taps t inside the map of  sum_c w'_otc b_c  +  bias
        scale   acc        tap_bias[t, o]

    Where there is no padding, every tap is inside: the tap biases add up to one bias.
    """
    if not layer.batches:
        raise builder.error("no range of its input is known; train the network, or run it in training mode on images")
    scale, offset = layer.quantization()
    quant = QuantParams(*(_of_value(builder, layer, x, v.detach()) for v in (scale, offset)))
    u = builder.add_bytes(x, quant)
    integers, scales = (v.detach() for v in layer.integers(scale))
    a = scales.double().numpy()
    weight = filters(integers).permute(0, 2, 3, 1).numpy()  # [O, kh, kw, I/g]
    s, b = quant.of_inputs(len(weight), attributes.get("groups", 1))
    tap_bias = (weight * a[:, None, None, None] / s * b).sum(axis=3).reshape(len(weight), -1).T  # [taps, O]
    tensors = {"weight": weight.astype(np.int8)}
    bias = _double(layer.bias)
    if max(attributes.get("padding", (0, 0))):
        tensors["tap_bias"] = tap_bias
    else:
        bias = tap_bias.sum(axis=0) + (0.0 if bias is None else bias)
    parameters = {"scale": a, "bias": bias}

    def from_bytes(u: Tensor) -> Tensor:
        return layer.of_integers(*(v.detach().double() for v in (u, integers, scales, scale, offset))).float()

    return builder.add("byte_conv", (u,), from_bytes, parameters=parameters, tensors=tensors, **attributes)


def _of_value(builder: Builder, layer: ByteConv2d | ByteLinear, x: TracedTensor, vector: Tensor) -> Tensor:
    """A vector of the layer's channels as one of the value's, float32."""
    if isinstance(layer, ByteLinear) and x.is_flat:
        vector = vector.repeat_interleave(layer.in_features // layer.channels)
    axis = 3 if x.is_channels_last and not x.is_flat else 1
    found = builder.per_channel(x, vector, "the range of its input", axis)
    assert found is not None
    return torch.from_numpy(found).float()


def _activation_form(builder: Builder, layer: BinaryConv2d | BinaryLinear, x: TracedTensor) -> BinarizerForm:
    """The vectors of the activation's form, which must be parameters: the same for every input."""
    form, other = (layer.activation_binarizer.form(v) for v in (x.tensor, -1 - x.tensor))
    for name in ("threshold", "scale", "shift"):
        a, b = getattr(form, name), getattr(other, name)
        if a is not None and not torch.equal(a, b):
            raise builder.error(f"the {name} of its activation depends on the input; make it a parameter")
    if form.scale is not None and (form.scale.numel() != 1 or not form.scale):
        raise builder.error("the scale of its activation must be one number that is not 0: others cannot leave the sum")
    return form


def _shift_of_taps(shift: Tensor, x: TracedTensor, filters: int, groups: int) -> np.ndarray:
    """The activation's shift as each filter meets it: `[O, I/g, 1, 1]`, or `[1, C, H, W]` for a whole map flattened."""
    numbers = shift.detach().double().reshape(1, -1)
    if x.is_flat and numbers.numel() == x.numbers:
        return to_value(numbers, x.layout, x.shape).numpy()
    return _vector(shift, 0.0, x.shape[0]).reshape(groups, -1).repeat(filters // groups, axis=0)[:, :, None, None]


def window_of(builder: Builder, layer: nn.Conv1d | nn.Conv2d) -> dict[str, Any]:
    """The attributes of a convolution."""
    if layer.padding_mode != "zeros":
        raise builder.error(f"padding_mode is {layer.padding_mode!r}; use 'zeros'")
    padding: Any = layer.padding
    if padding == "valid":
        padding = (0, 0)
    elif padding == "same":
        total = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
        if any(t % 2 for t in total):
            raise builder.error("padding 'same' is not symmetric for this kernel; use an odd kernel")
        padding = tuple(t // 2 for t in total)
    return {
        "kernel": layer.kernel_size,
        "stride": layer.stride,
        "padding": padding,
        "dilation": layer.dilation,
        "groups": layer.groups,
        "channels": layer.out_channels,
    }


def _filters(builder: Builder, weight: Tensor, x: TracedTensor) -> Tensor:
    """The weight `[O, features]` of a linear layer as that of a convolution, `[O, C, H, W]` or `[O, C, 1, 1]`."""
    if x.is_flat:
        return to_value(weight, x.layout, x.shape)
    if x.is_channels_last:
        return weight[:, :, None, None]
    raise builder.error(f"its input is {x.describe()}; flatten it to [N, features]", of_input=True)


def _linear_window(layer: nn.Linear, x: TracedTensor) -> dict[str, Any]:
    """The attributes of that convolution, and the layout of its result."""
    outputs = layer.out_features
    if x.is_flat:
        return {"channels": outputs, "kernel": x.shape[1:], "layout": torch.arange(outputs)}
    return {"channels": outputs, "kernel": (1, 1), "layout": channels_last((outputs, *x.shape[1:]))}


def _double(vector: Tensor | None) -> np.ndarray | None:
    return None if vector is None else vector.detach().double().numpy()


def _vector(given: Tensor | None, neutral: float, channels: int) -> np.ndarray:
    """A form's vector as float64 `[channels]`."""
    numbers = torch.full((1,), neutral) if given is None else given.detach().reshape(-1)
    return numbers.double().expand(channels).numpy()
