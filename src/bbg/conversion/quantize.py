"""Edges in 8 bits: the real-valued convolutions of a folded graph become convolutions of bytes.

A byte u of channel c stands for the number s_c u + b_c. A filter w, multiplied by the s of its inputs, is rounded to
integers q of at most 127 and a scale a: w s = a q. With the rounded weights w' = a q / s, the convolution is

    sum w' (s u + b)  =  a sum q u  +  sum over the taps inside the map of  sum_c w'_c b_c
                         scale  acc     tap_bias

and exact from there on: a padded tap adds 0, as in the float convolution. Only two things are rounded: the weights,
and the numbers that become bytes. The pixels of an image are bytes already; other inputs get their s and b per channel
from the range of their values on the example, which is widened by `MARGIN` at both ends. Depthwise convolutions stay
real: a byte of each channel leaves no sums to share, so that the kernel of float32 is the faster one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from bbg.conversion.builder import Lowered
from bbg.conversion.oracle import Levels, Step
from bbg.conversion.passes.cleanup import drop_unread, narrow
from bbg.conversion.passes.epilogue import rows_of, with_rows
from bbg.conversion.views import Wire
from bbg.graph import Graph, Op
from bbg.graph.file import PackedModel
from bbg.graph.kinds import INT8
from bbg.image import Preprocess

MARGIN = 1 / 8  # of the range
BATCH = 16


def quantize(lowered: Lowered, graph: Graph, images: Tensor, preprocess: Preprocess | None) -> tuple[Lowered, Graph]:
    """The folded `graph` with bytes in place of the real numbers that convolutions read, and how torch computes it.

    `images`, the example, float32 `[N, C, H, W]`, tells the ranges; `preprocess` what the pixels of an image stand for:
    without it a convolution of the input stays as it is.
    """
    shapes = graph.shapes(*graph.input_shape[1:])
    convs = {op.name: op for op in graph.ops if op.kind == "conv" and not op.is_depthwise(shapes[op.inputs[0]])}
    convs = {name: op for name, op in convs.items() if op.fan_in(shapes[op.inputs[0]]) <= INT8.most_products}
    pixels = graph.input_name
    others = [name for op in graph.ops for name in (op.inputs if op.name not in convs else op.inputs[1:])]
    if preprocess is None or pixels in others:
        convs = {name: op for name, op in convs.items() if op.inputs[0] != pixels}
    sources = {op.inputs[0] for op in convs.values()}
    levels = _ranges(graph, sources - {pixels}, images)
    if pixels in sources and preprocess is not None:
        mean, std = (torch.tensor(values, dtype=torch.float64) for values in (preprocess.mean, preprocess.std))
        levels[pixels] = Levels((1 / (255 * std)).float(), (-mean / std).float())  # as the engine rounds to pixels

    def rewritten(op: Op) -> Op:
        if op.name in convs:
            op = _byte_conv(op, levels[op.inputs[0]])
            op = op if op.inputs[0] == pixels else replace(op, inputs=(_bytes_of(op.inputs[0]), *op.inputs[1:]))
        return op if op.real not in sources else _with_bytes(op, levels[op.real])

    ops = tuple(rewritten(op) for op in graph.ops)
    input_type = "bytes" if pixels in sources else graph.input_type
    quantized = drop_unread(narrow(replace(graph, ops=ops, input_type=input_type)))
    return replace(lowered, steps=_steps(lowered, convs, levels, pixels)), quantized


def _bytes_of(value: str) -> str:
    return f"{value}.bytes"


def _ranges(graph: Graph, sources: set[str], images: Tensor) -> dict[str, Levels]:
    """Levels that cover the values of `sources` on the images, with a margin."""
    from bbg.conversion.verify import show
    from bbg.engine import Engine

    if not sources:
        return {}
    engine = Engine(PackedModel(show(graph, sorted(sources))))
    low: dict[str, np.ndarray] = {}
    high: dict[str, np.ndarray] = {}
    for start in range(0, len(images), BATCH):
        values = engine(images[start : start + BATCH].numpy())
        assert isinstance(values, dict)
        for name, value in values.items():
            least, most = value.min(axis=(0, 2, 3)).astype(np.float64), value.max(axis=(0, 2, 3)).astype(np.float64)
            low[name] = np.minimum(low.get(name, least), least)
            high[name] = np.maximum(high.get(name, most), most)
    levels = {}
    for name in sources:
        margin = MARGIN * (high[name] - low[name])
        least = np.where(low[name] >= 0, np.maximum(low[name] - margin, 0), low[name] - margin)
        most = np.where(high[name] <= 0, np.minimum(high[name] + margin, 0), high[name] + margin)
        scale = np.where(most > least, most - least, 255.0) / 255
        levels[name] = Levels(torch.from_numpy(scale), torch.from_numpy(least))
    return levels


def _byte_conv(op: Op, levels: Levels) -> Op:
    """The convolution of bytes in place of `op`, still reading what it reads."""
    integers, scale, weight = _rounded(op, levels)
    _, bias = _of_inputs(op, levels)
    tap_bias = (weight * bias).sum(axis=3).reshape(len(weight), -1).T  # [taps, O]
    rows = rows_of(op)
    tensors = {**op.tensors, "weight": integers}
    tap_bias = rows["scale"] * tap_bias
    if max(op.attributes["padding"]):
        tensors["tap_bias"] = tap_bias
    else:
        rows["bias"] = rows["bias"] + tap_bias.sum(axis=0)
    rows["scale"] = rows["scale"] * scale
    return with_rows(replace(op, kind="byte_conv", tensors=tensors), rows)


def _rounded(op: Op, levels: Levels) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """int8 weights q, their scale a `[O]`, and the float64 weights `a q / s` that they stand for."""
    s, _ = _of_inputs(op, levels)
    scaled = op.tensors["weight"].astype(np.float64) * s
    a = np.abs(scaled).max(axis=(1, 2, 3)) / 127
    a = np.where(a > 0, a, 1.0)
    q = np.rint(scaled / a[:, None, None, None])
    return q.astype(np.int8), a, q * a[:, None, None, None] / s


def _of_inputs(op: Op, levels: Levels) -> tuple[np.ndarray, np.ndarray]:
    """Scale and bias of the inputs as each filter meets them, `[O, 1, 1, I/g]`."""
    groups, outputs = op.attributes["groups"], op.attributes["channels"]

    def spread(vector: Tensor) -> np.ndarray:
        return vector.double().numpy().reshape(groups, 1, 1, -1).repeat(outputs // groups, axis=0)

    return spread(levels.scale), spread(levels.bias)


def _with_bytes(op: Op, levels: Levels) -> Op:
    rows = rows_of(op)
    scale, bias = levels.scale.numpy(), levels.bias.numpy()
    assert op.real is not None
    op = replace(op, bytes=_bytes_of(op.real))
    return with_rows(op, {**rows, "byte_scale": 1 / scale, "byte_bias": -bias / scale})


def _steps(lowered: Lowered, convs: Mapping[str, Op], levels: Mapping[str, Levels], pixels: str) -> dict[str, Step]:
    """How torch computes the values of the quantized graph: what becomes bytes, and the convolutions of them."""
    unfolded = {op.name: op for op in lowered.graph.ops}
    steps: dict[str, Step] = {}
    for name, step in lowered.steps.items():
        if name in convs:
            source = convs[name].inputs[0]
            wire = Wire(source, step.inputs[0].value)
            if source != pixels and _bytes_of(source) not in steps:
                steps[_bytes_of(source)] = Step(levels[source].bytes, (wire,), wire.shape, levels=levels[source])
            inputs = wire if source == pixels else replace(wire, name=_bytes_of(source))
            step = Step(_twin(unfolded[name], levels[source], source == pixels), (inputs,), step.shape)
        steps[name] = step
    return steps


def _twin(op: Op, levels: Levels, of_pixels: bool) -> Callable[[Tensor], Tensor]:
    """The convolution with rounded weights in torch, of bytes, or of normalised images that are rounded first."""
    _, _, weight = _rounded(op, levels)
    weights = torch.from_numpy(weight).permute(0, 3, 1, 2)
    row = op.parameter("bias")
    bias = None if row is None else torch.from_numpy(row.astype(np.float64))
    a = op.attributes

    def convolve(x: Tensor) -> Tensor:
        numbers = levels.numbers(levels.bytes(x) if of_pixels else x)
        return F.conv2d(numbers, weights, bias, a["stride"], a["padding"], a["dilation"], a["groups"]).float()

    return convolve
