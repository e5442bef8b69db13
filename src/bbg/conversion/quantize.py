"""Edges in 8 bits: the real-valued convolutions of a folded graph become convolutions of bytes.

A byte u of channel c stands for the number s_c u + b_c. A filter w, multiplied by the s of its inputs, is rounded to
integers q of at most 127 and a scale a: w s = a q. With the rounded weights w' = a q / s, the convolution is

    sum w' (s u + b)  =  a sum q u  +  sum over the taps inside the map of  sum_c w'_c b_c
                         scale  acc     tap_bias

and exact from there on: a padded tap adds 0, as in the float convolution. Only two things are rounded: the weights,
and the numbers that become bytes. The pixels of an image are bytes already; other inputs get their s and b per channel
from their range (ranges.py), and stay float32 where none is known. A value that only such convolutions read, as input
and as shortcut, is kept as bytes alone: gate (s u + b) = (gate s) u + gate b.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from bbg.conversion.oracle import INPUT, Lowered, QuantParams, TorchOp, run_free
from bbg.conversion.passes.cleanup import cast_to_float32, drop_unread
from bbg.conversion.passes.epilogue import is_rounding, parameters_of, with_parameters
from bbg.conversion.ranges import Ranges
from bbg.conversion.views import TracedTensor
from bbg.graph import Graph, Op
from bbg.graph.kinds import INT8
from bbg.image import Preprocess


@dataclass(frozen=True)
class Quantized:
    """The graph with bytes in place of the real numbers that convolutions read, and how torch computes it.

    `quants`: what the bytes of each value stand for, pixels left out. `convs`: the convolutions whose weights were
    rounded; `real`: those that stay in float32 because the range of what they read is not known.
    """

    lowered: Lowered
    graph: Graph
    quants: dict[str, QuantParams]
    convs: tuple[str, ...]
    real: tuple[str, ...]


def byte_sources(graph: Graph, preprocess: Preprocess | None) -> set[str]:
    """The values that would become bytes, pixels left out: those whose ranges must be known."""
    convs = _convolutions(graph, preprocess)
    return {op.inputs[0] for op in convs.values()} - {graph.input_name} | _shortcuts(graph, convs)


def quantize_edges(
    lowered: Lowered,
    graph: Graph,
    ranges: Ranges | None,
    preprocess: Preprocess | None,
    corrections: Mapping[str, np.ndarray] | None = None,
) -> Quantized:
    """The folded `graph` with edges in 8 bits, as far as their `ranges` are known.

    `preprocess`: what the pixels of an image stand for; without it a convolution of the input stays as it is.
    `corrections`: numbers to add to the outputs of a convolution, float64 `[O]`, by its name (see `corrections_on`).
    """
    pixels = graph.input_name
    corrections = {} if corrections is None else corrections
    possible = _convolutions(graph, preprocess)
    learned = _learned(lowered, graph)

    def known(name: str) -> bool:
        ranged = ranges is not None and ranges.covers(name, graph.values[name].channels)
        return name == pixels or name in learned or ranged

    convs = {name: op for name, op in possible.items() if known(op.inputs[0])}
    real = tuple(name for name in possible if name not in convs)
    if not convs:
        return Quantized(lowered, graph, {}, (), real)
    shortcuts = {
        name
        for name in _shortcuts(graph, convs)
        if name not in learned and known(name) and _is_plain(lowered.oracle, name)
    }
    sources = {op.inputs[0] for op in convs.values()} | shortcuts
    missing = sorted(sources - {pixels} - set(learned))
    ranged = {} if ranges is None else {name: ranges.quant(name) for name in missing}
    quants = {**ranged, **{name: quant for name, (_, quant) in learned.items()}}
    if pixels in sources and preprocess is not None:
        quants[pixels] = pixel_quant(preprocess)
    bytes_of = {name: _free_name(f"{name}.bytes", graph) for name in ranged}
    bytes_of |= {name: value for name, (value, _) in learned.items()}

    def rewritten(op: Op) -> Op:
        if op.name in convs:
            source = op.inputs[0]
            op = _byte_conv(op, quants[source], corrections.get(op.name))
            op = op if source == pixels else replace(op, inputs=(bytes_of[source], *op.inputs[1:]))
            op = _adds_bytes(op, bytes_of[op.shortcut], quants[op.shortcut]) if op.shortcut in shortcuts else op
        return op if op.real not in ranged else _with_bytes(op, bytes_of[op.real], quants[op.real])

    ops = tuple(rewritten(op) for op in graph.ops)
    input_type = "bytes" if pixels in sources else graph.input_type
    quantized = drop_unread(cast_to_float32(replace(graph, ops=ops, input_type=input_type)))
    oracle = _oracle(lowered, convs, shortcuts, quants, bytes_of, corrections)
    return Quantized(replace(lowered, oracle=oracle), quantized, ranged, tuple(convs), real)


def _convolutions(graph: Graph, preprocess: Preprocess | None) -> dict[str, Op]:
    """The convolutions that may read bytes, by name."""
    convs = {}
    for op in graph.ops:
        source = graph.values[op.inputs[0]]
        if op.kind == "conv" and op.fan_in(source) <= INT8.most_products:
            convs[op.name] = op
    pixels = graph.input_name
    others = [name for op in graph.ops for name in (op.inputs if op.name not in convs else op.inputs[1:])]
    if preprocess is None or pixels in others:
        convs = {name: op for name, op in convs.items() if op.inputs[0] != pixels}
    return convs


def _shortcuts(graph: Graph, convs: Mapping[str, Op]) -> set[str]:
    """The values that some of `convs` read as shortcuts, and that nothing but `convs` reads."""
    added = {op.shortcut for op in convs.values() if op.shortcut is not None} - {graph.input_name}
    others = {name for op in graph.ops if op.name not in convs for name in op.inputs}
    returned = {part.value for output in graph.outputs for part in output.parts}
    return added - others - returned


def _free_name(name: str, graph: Graph) -> str:
    """`name`, or what follows it that no value of the graph is called."""
    while name in graph.values:
        name += "_"
    return name


def _is_plain(oracle: Mapping[str, TorchOp], name: str) -> bool:
    """Whether torch reads the value as it stands, not through a view."""
    return all(x.layout is None for op in oracle.values() for x in op.inputs if x.name == name)


def _adds_bytes(op: Op, name: str, quant: QuantParams) -> Op:
    """`op` with the bytes called `name` as its shortcut: gate (s u + b) = (gate s) u + gate b."""
    parameters = parameters_of(op)
    scale, bias = quant.scale.double().numpy(), quant.bias.double().numpy()
    parameters["bias"] = parameters["bias"] + parameters["gate"] * bias
    parameters["gate"] = parameters["gate"] * scale
    return with_parameters(replace(op, inputs=(*op.operands, name)), parameters)


def pixel_quant(preprocess: Preprocess) -> QuantParams:
    """What the pixels of an image stand for, as the engine rounds to them."""
    mean, std = (torch.tensor(values, dtype=torch.float64) for values in (preprocess.mean, preprocess.std))
    return QuantParams((1 / (255 * std)).float(), (-mean / std).float())


def read_pixels(lowered: Lowered, graph: Graph, preprocess: Preprocess | None) -> tuple[Lowered, Graph]:
    """The graph that takes bytes where all that read the images round them to pixels: they are bytes already."""
    first = graph.input_name
    readers = [op for op in graph.ops if first in op.inputs]
    if preprocess is None or not readers or not all(is_rounding(op) for op in readers):
        return lowered, graph
    pixels = pixel_quant(preprocess)
    for op in readers:
        quant = lowered.oracle[op.result].quant
        if quant is None or not all(
            torch.allclose(a.float(), b, rtol=1e-5, atol=1e-6)
            for a, b in ((quant.scale, pixels.scale), (quant.bias, pixels.bias))
        ):
            return lowered, graph
    roundings = {op.result for op in readers}
    ops = tuple(
        replace(op, inputs=tuple(first if name in roundings else name for name in op.inputs))
        for op in graph.ops
        if op.result not in roundings
    )
    oracle = dict(lowered.oracle)
    for op in ops:
        torch_op = oracle.get(op.name)
        if op.kind == "byte_conv" and first in op.operands and torch_op is not None:
            oracle[op.name] = _of_pixels(torch_op, first, pixels)
    return replace(lowered, oracle=oracle), replace(graph, ops=ops, input_type="bytes")


def _of_pixels(torch_op: TorchOp, name: str, pixels: QuantParams) -> TorchOp:
    """How torch computes a convolution of bytes from the normalised images, which are rounded to pixels first."""
    (x,) = torch_op.inputs
    of_bytes = torch_op.function
    image = TracedTensor(name, pixels.dequantize(x.value).float(), x.layout)
    return replace(torch_op, function=lambda image: of_bytes(pixels.quantize(image)), inputs=(image,))


def _learned(lowered: Lowered, graph: Graph) -> dict[str, tuple[str, QuantParams]]:
    """The real values that have bytes already, those of 8-bit layers: the bytes' name, and what they stand for."""
    found = {}
    for op in graph.ops:
        torch_op = lowered.oracle.get(op.bytes or "")
        if op.real is not None and op.bytes is not None and torch_op is not None and torch_op.quant is not None:
            found[op.real] = op.bytes, torch_op.quant
    return found


def _byte_conv(op: Op, quant: QuantParams, correction: np.ndarray | None) -> Op:
    """The convolution of bytes in place of `op`, still reading what it reads; `correction` is added to its outputs."""
    integers, scale, weight = _rounded(op, quant)
    _, bias = quant.of_inputs(op.attributes["channels"], op.attributes["groups"])
    tap_bias = (weight * bias).sum(axis=3).reshape(len(weight), -1).T  # [taps, O]
    parameters = parameters_of(op)
    tensors = {**op.tensors, "weight": integers}
    tap_bias = parameters["scale"] * tap_bias
    if max(op.attributes["padding"]):
        tensors["tap_bias"] = tap_bias
    else:
        parameters["bias"] = parameters["bias"] + tap_bias.sum(axis=0)
    if correction is not None:
        parameters["bias"] = parameters["bias"] + parameters["scale"] * correction
    parameters["scale"] = parameters["scale"] * scale
    return with_parameters(replace(op, kind="byte_conv", tensors=tensors), parameters)


def _rounded(op: Op, quant: QuantParams) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """int8 weights q, their scale a `[O]`, and the float64 weights `a q / s` that they stand for."""
    s, _ = quant.of_inputs(op.attributes["channels"], op.attributes["groups"])
    scaled = op.tensors["weight"].astype(np.float64) * s
    a = np.abs(scaled).max(axis=(1, 2, 3)) / 127
    a = np.where(a > 0, a, 1.0)
    q = np.rint(scaled / a[:, None, None, None])
    return q.astype(np.int8), a, q * a[:, None, None, None] / s


def corrections_on(lowered: Lowered, quantized: Quantized, parts: Iterable[Tensor]) -> dict[str, np.ndarray]:
    """What the roundings take from each output of a convolution on average, float64 `[O]`, over the images of `parts`.

    Rounded weights and clipped inputs move the mean of an output; to add it back costs nothing (Nagel et al., arXiv
    1906.04721). Each convolution is judged on the inputs that it has in float32.
    """
    found: dict[str, np.ndarray] = {}
    images = 0
    for batch in parts:
        values = run_free(lowered.oracle, {INPUT: batch})
        images += len(batch)
        for name in quantized.convs:
            rounded = quantized.lowered.oracle[name]
            source = lowered.oracle[name].inputs[0].name
            x = values[source]
            if rounded.inputs[0].name != source:
                x = quantized.lowered.oracle[rounded.inputs[0].name](x)
            lost = (values[name] - rounded(x)).double().mean((2, 3)).sum(0).numpy()
            found[name] = found.get(name, 0.0) + lost
    return {name: total / images for name, total in found.items()}


def _with_bytes(op: Op, name: str, quant: QuantParams) -> Op:
    return with_parameters(replace(op, bytes=name), {**parameters_of(op), **quant.parameters()})


def _oracle(
    lowered: Lowered,
    convs: Mapping[str, Op],
    shortcuts: Collection[str],
    quants: Mapping[str, QuantParams],
    bytes_of: Mapping[str, str],
    corrections: Mapping[str, np.ndarray],
) -> dict[str, TorchOp]:
    """How torch computes the values of the quantized graph: what becomes bytes, and the convolutions of them."""
    unfolded = {op.name: op for op in lowered.graph.ops}
    oracle: dict[str, TorchOp] = {}
    for name, torch_op in lowered.oracle.items():
        for read in torch_op.inputs:
            if read.name in bytes_of and bytes_of[read.name] not in lowered.oracle:
                x, quant = TracedTensor(read.name, read.value), quants[read.name]
                oracle[bytes_of[read.name]] = TorchOp(quant.quantize, (x,), x.shape, quant=quant)
        if name in convs:
            source = convs[name].inputs[0]
            x = TracedTensor(source, torch_op.inputs[0].value)
            of_pixels = source not in bytes_of
            inputs = x if of_pixels else replace(x, name=bytes_of[source])
            function = _with_rounded_weights(unfolded[name], quants[source], of_pixels, corrections.get(name))
            oracle[name] = TorchOp(function, (inputs,), torch_op.shape)
        else:
            oracle[name] = _of_bytes(torch_op, {read: (bytes_of[read], quants[read]) for read in shortcuts})
    return oracle


def _of_bytes(torch_op: TorchOp, shortcuts: Mapping[str, tuple[str, QuantParams]]) -> TorchOp:
    """How torch computes a value of the bytes of its `shortcuts`, given by name with what they stand for."""
    found = [shortcuts.get(x.name) for x in torch_op.inputs]
    if not any(found):
        return torch_op

    def function(*values: Tensor) -> Tensor:
        pairs = zip(values, found, strict=True)
        return torch_op.function(*(x if of is None else of[1].dequantize(x).float() for x, of in pairs))

    inputs = tuple(x if of is None else replace(x, name=of[0]) for x, of in zip(torch_op.inputs, found, strict=True))
    return replace(torch_op, function=function, inputs=inputs)


def _with_rounded_weights(
    op: Op, quant: QuantParams, of_pixels: bool, correction: np.ndarray | None
) -> Callable[[Tensor], Tensor]:
    """The convolution with rounded weights in torch, of bytes, or of normalised images that are rounded first."""
    _, _, weight = _rounded(op, quant)
    weights = torch.from_numpy(weight).permute(0, 3, 1, 2)
    vectors = [vector for vector in (op.parameter("bias"), correction) if vector is not None]
    bias = torch.from_numpy(np.sum(vectors, axis=0, dtype=np.float64)) if vectors else None
    a = op.attributes

    def convolve(x: Tensor) -> Tensor:
        numbers = quant.dequantize(quant.quantize(x) if of_pixels else x)
        return F.conv2d(numbers, weights, bias, a["stride"], a["padding"], a["dilation"], a["groups"]).float()

    return convolve
