"""Zeros around a map as padding of the convolution that reads it, and as taps of weight 0.

This is done before anything else looks at the graph: whoever gives the convolution 8 bits sees the filters that it has.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from bbg.conversion.oracle import Lowered
from bbg.conversion.passes.epilogue import OPEN, readers
from bbg.graph import Op

Pair = tuple[int, int]


def fold_padding(lowered: Lowered) -> Lowered:
    """An op that only puts zeros around a map goes into the convolution that reads it, where nothing else does."""
    count = readers(lowered.graph)
    oracle = dict(lowered.oracle)
    ops: dict[str, Op] = {}
    for op in lowered.graph.ops:
        source = ops.get(op.inputs[0])
        alone = source is not None and op.kind == "conv" and len(op.inputs) == 1 and count[op.inputs[0]] == 1
        zeros = zeros_around(source) if source is not None and alone else None
        if source is not None and zeros is not None:
            merged = _padded(op, zeros)
            if merged is not None:
                del ops[source.result]
                oracle[op.result] = oracle[op.result].behind(oracle.pop(source.result))
                ops[op.result] = replace(merged, inputs=source.inputs)
                continue
        ops[op.result] = op
    return replace(lowered, graph=replace(lowered.graph, ops=tuple(ops.values())), oracle=oracle)


def zeros_around(op: Op) -> tuple[Pair, Pair] | None:
    """How many rows of zeros an op puts above and below a map, and columns beside it; None where it does more or less.

    A depthwise convolution by a single 1, in row j of k, with p rows of padding puts `p - j` above and `p - k + 1 + j`
    below.
    """
    weight = op.tensors.get("weight")
    if op.kind != "conv" or weight is None or op.attributes.get("groups", 1) != len(weight) or weight.shape[3] != 1:
        return None
    plain = op.epilogue == () and op.clip == OPEN and len(op.inputs) == 1 and op.bits is None and op.bytes is None
    taps = np.argwhere(weight[0, :, :, 0])
    same = (weight == weight[:1]).all() and len(taps) == 1 and weight[0].max() == 1
    moved = {*op.attributes.get("stride", (1, 1)), *op.attributes.get("dilation", (1, 1))} - {1}
    if not plain or not same or moved or op.attributes["channels"] != len(weight):
        return None
    found = []
    for j, k, p in zip(taps[0].tolist(), op.attributes["kernel"], op.attributes.get("padding", (0, 0)), strict=True):
        found.append((p - j, p - k + 1 + j))
    return None if min(min(pair) for pair in found) < 0 else (found[0], found[1])


def _padded(op: Op, zeros: Iterable[Pair]) -> Op | None:
    """The convolution of a map with `zeros` around, as one of the map; None where no taps stand for the difference.

    With T zeros above and B below, its own included, it pads `max(T, B)` on either side. The surplus of one side is
    that many taps of weight 0, a dilation apart, at that end of the filters.
    """
    padding, frame = [], [(0, 0)]
    steps = zip(zeros, op.attributes.get("padding", (0, 0)), op.attributes.get("dilation", (1, 1)), strict=True)
    for (above, below), own, step in steps:
        top, bottom = above + own, below + own
        if (top - bottom) % step:
            return None
        padding.append(max(top, bottom))
        frame.append((max(0, bottom - top) // step, max(0, top - bottom) // step))
    weight = np.pad(op.tensors["weight"], (*frame, (0, 0)))
    attributes = {**op.attributes, "kernel": tuple(weight.shape[1:3]), "padding": tuple(padding)}
    return replace(op, attributes=attributes, tensors={**op.tensors, "weight": weight})
