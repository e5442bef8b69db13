"""Passes on bits: packed outputs, pools of bits, integer thresholds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from bbg.conversion.passes.epilogue import (
    NEUTRAL,
    OPEN,
    fuse,
    is_rounding,
    is_sign,
    parameters_of,
    readers,
    with_parameters,
)
from bbg.graph import Graph, Op, pack_bits, unpack_bits


def fuse_signs(graph: Graph) -> Graph:
    """A sign, or a rounding to bytes, becomes an output of the op it reads; equal ones of one value become one."""
    ops: dict[str, Op] = {}
    same: dict[str, str] = {}  # bits and bytes that are equal to others
    for op in graph.ops:
        op = replace(op, inputs=tuple(same.get(name, name) for name in op.inputs))
        first = ops.get(op.inputs[0])
        if first is not None and first.real is not None and (is_sign(op) or is_rounding(op)):
            names = ("bit_threshold",) if is_sign(op) else ("byte_scale", "byte_bias")
            have, wanted = parameters_of(first), {name: parameters_of(op)[name] for name in names}
            present = first.bits if is_sign(op) else first.bytes
            if present is None:
                written = replace(first, bits=op.bits or first.bits, bytes=op.bytes or first.bytes)
                ops[op.inputs[0]] = with_parameters(written, {**have, **wanted})
                continue
            if all((have[name] == wanted[name]).all() for name in names):
                same[op.result] = present
                continue
        ops[op.result] = op
    return replace(graph, ops=tuple(ops.values()))


def pool_on_bits(graph: Graph) -> Graph:
    """A max-pool of which only bits are read, behind an op that only it reads, works on that op's bits.

    Its epilogue f is monotone in each channel:

        f rises:  f(max x) = max f(x)      bit of the maximum = OR of the bits f(x) >= bit_threshold
        f falls:  f(max x) = min f(x)      bit of the maximum = AND of these bits

    The op before the pool takes the epilogue and writes the bits; `and_mask` marks the channels in which f falls.
    """
    count, values = readers(graph), graph.values
    ops: dict[str, Op] = {}
    for op in graph.ops:
        first = ops.get(op.inputs[0])
        p = parameters_of(op)
        slopes = np.stack(np.broadcast_arrays(p["scale"] * p["above"], p["scale"] * p["below"]))
        rises, falls = (slopes >= 0).all(axis=0), (slopes <= 0).all(axis=0)
        only_bits = op.kind == "max_pool" and set(op.written.values()) == {"bits"} and op.shortcut is None
        if (
            only_bits
            and first is not None
            and count[op.inputs[0]] == 1
            and first.bits is None
            and first.bytes is None
            and (rises | falls).all()
        ):
            epilogue = replace(op, kind="pointwise", attributes={}, bits=f"{op.inputs[0]}.bits")
            fused = fuse(first, epilogue)
            if fused is not None:
                mask = pack_bits(np.broadcast_to(falls & ~rises, values[op.inputs[0]].channels), 1)[0]
                del ops[op.inputs[0]]
                ops[fused.result] = fused
                op = replace(
                    with_parameters(op, NEUTRAL),
                    kind="max_pool_bits",
                    inputs=(fused.result,),
                    tensors={"and_mask": mask},
                    clip=OPEN,
                )
        ops[op.result] = op
    return replace(graph, ops=tuple(ops.values()))


def to_integer_thresholds(graph: Graph) -> Graph:
    """A binary convolution of which only bits are read compares its sum with an integer, where that decides the same.

    The epilogue is evaluated for every sum from -K to K, K products adding up, in the arithmetic of the engine. Where
    the bit changes at most once, in every channel, a comparison `acc >= acc_threshold` is exact. With n of the 2K + 1
    sums giving bit 1:

        rising:    the n largest sums give 1                 acc_threshold = K + 1 - n
        falling:   negate the filter: acc becomes -acc       as rising
        constant:  n = 2K + 1 gives -K, which every sum reaches; n = 0 gives K + 1, which none does
    """

    def compared(op: Op) -> Op:
        plain = op.kind == "binary_conv" and set(op.written.values()) == {"bits"} and op.shortcut is None
        if not plain or "tap_bias" in op.tensors or "shift" in op.epilogue:
            return op
        fan_in = op.fan_in(graph.values[op.inputs[0]])
        sums = np.arange(-fan_in, fan_in + 1)
        decisions = [evaluate_bit(op, channel, sums) for channel in range(op.attributes["channels"])]
        if any(np.count_nonzero(bits[1:] != bits[:-1]) > 1 for bits in decisions):
            return op
        thresholds = np.array([fan_in + 1 - np.count_nonzero(bits) for bits in decisions], np.int32)
        falls = np.array([bits[0] and not bits[-1] for bits in decisions])
        signs = unpack_bits(op.tensors["weight"], fan_in) * np.where(falls, -1, 1)[:, None]
        tensors = {"weight": pack_bits(signs, len(signs)), "acc_threshold": thresholds}
        return replace(op, tensors=tensors, epilogue=(), clip=OPEN)

    return replace(graph, ops=tuple(compared(op) for op in graph.ops))


def evaluate_bit(op: Op, channel: int, sums: np.ndarray) -> np.ndarray:
    """The bit of `channel` for each of the integers `sums`: float32 with a fused multiply-add, as the engine has it."""
    scale, bias, above, below, offset, threshold = (
        np.broadcast_to(parameters_of(op)[name], op.attributes["channels"])[channel].astype(np.float64)
        for name in ("scale", "bias", "above", "below", "offset", "bit_threshold")
    )
    v = (scale * sums + bias).astype(np.float32)
    y = (v * np.where(v >= 0, above, below) + offset).astype(np.float32)
    low, high = (None if bound is None else np.float32(bound) for bound in op.clip)
    return np.asarray((y if op.clip == OPEN else np.clip(y, low, high)) >= threshold)
