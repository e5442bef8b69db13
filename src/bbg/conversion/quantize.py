"""Edges in 8 bits: the real-valued convolutions of a folded graph become convolutions of bytes.

A byte u of channel c stands for the number s_c u + b_c. A filter w, multiplied by the s of its inputs, is rounded to
integers q of at most 127 and a scale a: w s = a q. With the rounded weights w' = a q / s, the convolution is

    sum w' (s u + b)  =  a sum q u  +  sum over the taps inside the map of  sum_c w'_c b_c
                         scale  acc     tap_bias

and exact from there on: a padded tap adds 0, as in the float convolution. Only two things are rounded: the weights,
and the numbers that become bytes. The pixels of an image are bytes already; other inputs get their s and b per channel
from their range (ranges.py), and stay float32 where none is known. Depthwise convolutions stay real: a byte of each
channel leaves no sums to share, so that the kernel of float32 is the faster one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from bbg.conversion.builder import Lowered
from bbg.conversion.oracle import QuantParams, TorchOp
from bbg.conversion.passes.cleanup import cast_to_float32, drop_unread
from bbg.conversion.passes.epilogue import parameters_of, with_parameters
from bbg.conversion.ranges import Ranges
from bbg.conversion.views import TracedTensor
from bbg.graph import Graph, Op
from bbg.graph.kinds import INT8
from bbg.image import Preprocess


@dataclass(frozen=True)
class Quantized:
    """The graph with bytes in place of the real numbers that convolutions read, and how torch computes it.

    `quants`: what the bytes of each value stand for, pixels left out. `real`: the convolutions that stay in float32
    because the range of what they read is not known.
    """

    lowered: Lowered
    graph: Graph
    quants: dict[str, QuantParams]
    real: tuple[str, ...]


def byte_sources(graph: Graph, preprocess: Preprocess | None) -> set[str]:
    """The values that would become bytes, pixels left out: those whose ranges must be known."""
    return {op.inputs[0] for op in _convolutions(graph, preprocess).values()} - {graph.input_name}


def quantize_edges(lowered: Lowered, graph: Graph, ranges: Ranges | None, preprocess: Preprocess | None) -> Quantized:
    """The folded `graph` with edges in 8 bits, as far as their `ranges` are known.

    `preprocess`: what the pixels of an image stand for; without it a convolution of the input stays as it is.
    """
    pixels = graph.input_name
    possible = _convolutions(graph, preprocess)

    def known(name: str) -> bool:
        return name == pixels or (ranges is not None and ranges.covers(name, graph.values[name].channels))

    convs = {name: op for name, op in possible.items() if known(op.inputs[0])}
    sources = {op.inputs[0] for op in convs.values()}
    ranged = {} if ranges is None else {name: ranges.quant(name) for name in sorted(sources - {pixels})}
    quants = dict(ranged)
    if pixels in sources and preprocess is not None:
        mean, std = (torch.tensor(values, dtype=torch.float64) for values in (preprocess.mean, preprocess.std))
        quants[pixels] = QuantParams((1 / (255 * std)).float(), (-mean / std).float())  # as the engine rounds to pixels

    def rewritten(op: Op) -> Op:
        if op.name in convs:
            op = _byte_conv(op, quants[op.inputs[0]])
            op = op if op.inputs[0] == pixels else replace(op, inputs=(_bytes_of(op.inputs[0]), *op.inputs[1:]))
        return op if op.real not in sources else _with_bytes(op, quants[op.real])

    ops = tuple(rewritten(op) for op in graph.ops)
    input_type = "bytes" if pixels in sources else graph.input_type
    quantized = drop_unread(cast_to_float32(replace(graph, ops=ops, input_type=input_type)))
    oracle = _oracle(lowered, convs, quants, pixels)
    real = tuple(name for name in possible if name not in convs)
    return Quantized(replace(lowered, oracle=oracle), quantized, ranged, real)


def _convolutions(graph: Graph, preprocess: Preprocess | None) -> dict[str, Op]:
    """The convolutions that may read bytes, by name."""
    convs = {}
    for op in graph.ops:
        source = graph.values[op.inputs[0]]
        if op.kind == "conv" and not op.is_depthwise(source) and op.fan_in(source) <= INT8.most_products:
            convs[op.name] = op
    pixels = graph.input_name
    others = [name for op in graph.ops for name in (op.inputs if op.name not in convs else op.inputs[1:])]
    if preprocess is None or pixels in others:
        convs = {name: op for name, op in convs.items() if op.inputs[0] != pixels}
    return convs


def _bytes_of(value: str) -> str:
    return f"{value}.bytes"


def _byte_conv(op: Op, quant: QuantParams) -> Op:
    """The convolution of bytes in place of `op`, still reading what it reads."""
    integers, scale, weight = _rounded(op, quant)
    _, bias = _of_inputs(op, quant)
    tap_bias = (weight * bias).sum(axis=3).reshape(len(weight), -1).T  # [taps, O]
    parameters = parameters_of(op)
    tensors = {**op.tensors, "weight": integers}
    tap_bias = parameters["scale"] * tap_bias
    if max(op.attributes["padding"]):
        tensors["tap_bias"] = tap_bias
    else:
        parameters["bias"] = parameters["bias"] + tap_bias.sum(axis=0)
    parameters["scale"] = parameters["scale"] * scale
    return with_parameters(replace(op, kind="byte_conv", tensors=tensors), parameters)


def _rounded(op: Op, quant: QuantParams) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """int8 weights q, their scale a `[O]`, and the float64 weights `a q / s` that they stand for."""
    s, _ = _of_inputs(op, quant)
    scaled = op.tensors["weight"].astype(np.float64) * s
    a = np.abs(scaled).max(axis=(1, 2, 3)) / 127
    a = np.where(a > 0, a, 1.0)
    q = np.rint(scaled / a[:, None, None, None])
    return q.astype(np.int8), a, q * a[:, None, None, None] / s


def _of_inputs(op: Op, quant: QuantParams) -> tuple[np.ndarray, np.ndarray]:
    """Scale and bias of the inputs as each filter meets them, `[O, 1, 1, I/g]`."""
    groups, outputs = op.attributes["groups"], op.attributes["channels"]

    def spread(vector: Tensor) -> np.ndarray:
        return vector.double().numpy().reshape(groups, 1, 1, -1).repeat(outputs // groups, axis=0)

    return spread(quant.scale), spread(quant.bias)


def _with_bytes(op: Op, quant: QuantParams) -> Op:
    parameters = parameters_of(op)
    scale, bias = quant.scale.numpy(), quant.bias.numpy()
    assert op.real is not None
    op = replace(op, bytes=_bytes_of(op.real))
    return with_parameters(op, {**parameters, "byte_scale": 1 / scale, "byte_bias": -bias / scale})


def _oracle(
    lowered: Lowered, convs: Mapping[str, Op], quants: Mapping[str, QuantParams], pixels: str
) -> dict[str, TorchOp]:
    """How torch computes the values of the quantized graph: what becomes bytes, and the convolutions of them."""
    unfolded = {op.name: op for op in lowered.graph.ops}
    oracle: dict[str, TorchOp] = {}
    for name, torch_op in lowered.oracle.items():
        if name in convs:
            source = convs[name].inputs[0]
            x = TracedTensor(source, torch_op.inputs[0].value)
            if source != pixels and _bytes_of(source) not in oracle:
                quant = quants[source]
                oracle[_bytes_of(source)] = TorchOp(quant.quantize, (x,), x.shape, quant=quant)
            inputs = x if source == pixels else replace(x, name=_bytes_of(source))
            function = _with_rounded_weights(unfolded[name], quants[source], source == pixels)
            oracle[name] = TorchOp(function, (inputs,), torch_op.shape)
        else:
            oracle[name] = torch_op
    return oracle


def _with_rounded_weights(op: Op, quant: QuantParams, of_pixels: bool) -> Callable[[Tensor], Tensor]:
    """The convolution with rounded weights in torch, of bytes, or of normalised images that are rounded first."""
    _, _, weight = _rounded(op, quant)
    weights = torch.from_numpy(weight).permute(0, 3, 1, 2)
    vector = op.parameter("bias")
    bias = None if vector is None else torch.from_numpy(vector.astype(np.float64))
    a = op.attributes

    def convolve(x: Tensor) -> Tensor:
        numbers = quant.dequantize(quant.quantize(x) if of_pixels else x)
        return F.conv2d(numbers, weights, bias, a["stride"], a["padding"], a["dilation"], a["groups"]).float()

    return convolve
