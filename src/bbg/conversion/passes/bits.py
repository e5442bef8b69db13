"""Passes on bits: packed outputs, pools of bits, integer thresholds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from bbg.conversion.passes.epilogue import NEUTRAL, OPEN, _is_sign, join, readers, rows_of, with_rows
from bbg.graph import Graph, Op, pack_bits, unpack_bits


def join_signs(graph: Graph) -> Graph:
    """A sign becomes the packed output of the op it reads; equal signs of one value become one."""
    ops: dict[str, Op] = {}
    same: dict[str, str] = {}  # bits that are equal to other bits
    for op in graph.ops:
        op = replace(op, inputs=tuple(same.get(name, name) for name in op.inputs))
        first, rows = ops.get(op.inputs[0]), rows_of(op)
        if first is not None and first.real is not None and _is_sign(op):
            have = rows_of(first)
            if first.bits is None:
                ops[op.inputs[0]] = with_rows(
                    replace(first, bits=op.bits), {**have, "bit_threshold": rows["bit_threshold"]}
                )
                continue
            if (have["bit_threshold"] == rows["bit_threshold"]).all():
                same[op.bits or ""] = first.bits
                continue
        ops[op.result] = op
    return replace(graph, ops=tuple(ops.values()))


def pool_bits(graph: Graph) -> Graph:
    """A max-pool of which only bits are read, behind an op that only it reads, works on that op's bits.

    Its epilogue f is monotone in each channel, so that `f(max x) = max f(x)` where f rises and `min f(x)` where it
    falls: the pool becomes OR or AND of the bits `f(x) >= sign`, which the op before it writes.
    """
    count, values = readers(graph), graph.shapes(*graph.input_shape[1:])
    ops: dict[str, Op] = {}
    for op in graph.ops:
        first = ops.get(op.inputs[0])
        rows = rows_of(op)
        slopes = np.stack(np.broadcast_arrays(rows["scale"] * rows["above"], rows["scale"] * rows["below"]))
        rises, falls = (slopes >= 0).all(axis=0), (slopes <= 0).all(axis=0)
        alone = op.kind == "max_pool" and op.real is None and op.shortcut is None
        if alone and first is not None and count[op.inputs[0]] == 1 and first.bits is None and (rises | falls).all():
            behind = replace(op, kind="pointwise", attributes={}, bits=f"{op.inputs[0]}.bits")
            joined = join(first, behind)
            if joined is not None:
                mask = pack_bits(np.broadcast_to(falls & ~rises, values[op.inputs[0]].channels), 1)[0]
                del ops[op.inputs[0]]
                ops[joined.result] = joined
                op = replace(
                    with_rows(op, NEUTRAL),
                    kind="max_pool_bits",
                    inputs=(joined.result,),
                    tensors={"and_mask": mask},
                    clip=OPEN,
                )
        ops[op.result] = op
    return replace(graph, ops=tuple(ops.values()))


def to_thresholds(graph: Graph) -> Graph:
    """A binary convolution of which only bits are read compares its sum with an integer, where that decides the same.

    The epilogue is evaluated for every sum in [-K, K], K products adding up, in the arithmetic of the engine. Where the
    bit changes at most once, in every channel, the comparison is exact. A bit that falls with the sum is that of the
    negated filter: of `count` sums that give +1, the least of a rising channel, and the least negated one of a falling
    channel, is `K + 1 - count`; for a constant bit that is -K, which every sum reaches, or K + 1, which none does.
    """
    values = graph.shapes(*graph.input_shape[1:])

    def compared(op: Op) -> Op:
        plain = op.kind == "binary_conv" and op.real is None and op.shortcut is None
        if not plain or "tap_bias" in op.tensors or "shift" in op.epilogue:
            return op
        reach = op.fan_in(values[op.inputs[0]])
        sums = np.arange(-reach, reach + 1)
        decisions = [decide(op, channel, sums) for channel in range(op.attributes["channels"])]
        if any(np.count_nonzero(bits[1:] != bits[:-1]) > 1 for bits in decisions):
            return op
        thresholds = np.array([reach + 1 - np.count_nonzero(bits) for bits in decisions], np.int32)
        falls = np.array([bits[0] and not bits[-1] for bits in decisions])
        signs = unpack_bits(op.tensors["weight"], reach) * np.where(falls, -1, 1)[:, None]
        tensors = {"weight": pack_bits(signs, len(signs)), "acc_threshold": thresholds}
        return replace(op, tensors=tensors, epilogue=(), clip=OPEN)

    return replace(graph, ops=tuple(compared(op) for op in graph.ops))


def decide(op: Op, channel: int, sums: np.ndarray) -> np.ndarray:
    """The bit of `channel` for each of the integers `sums`: float32 with a fused multiply-add, as the engine has it."""
    scale, bias, above, below, offset, sign = (
        np.broadcast_to(rows_of(op)[name], op.attributes["channels"])[channel].astype(np.float64)
        for name in ("scale", "bias", "above", "below", "offset", "bit_threshold")
    )
    v = (scale * sums + bias).astype(np.float32)
    y = (v * np.where(v >= 0, above, below) + offset).astype(np.float32)
    low, high = (None if bound is None else np.float32(bound) for bound in op.clip)
    return np.asarray((y if op.clip == OPEN else np.clip(y, low, high)) >= sign)
