"""The folding passes: from one op per layer to the few that an engine runs.

Each pass is a function from a graph to a graph that computes the same; `PASSES` is their order. They rest on the one
form of docs/format.md, in which a batch norm, a nonlinearity or an addition is a pointwise op of its own, and which a
convolution has behind its accumulator:

    v = scale acc + bias + shift S + tap_bias + gate shortcut
    y = clip(v (above if v >= 0 else below) + offset),        bit = (y >= sign)

Rows are float64 until `narrow`, so that what is folded is rounded once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from bbg.graph import Graph, Op, pack_bits, unpack_bits
from bbg.graph.kinds import KINDS, ROWS

Rows = dict[str, np.ndarray]

NEUTRAL = {name: np.array(name in ("scale", "gate", "above", "below", "byte_scale"), np.float64) for name in ROWS}
OPEN = (None, None)


def fold_graph(graph: Graph) -> Graph:
    """All passes, in order."""
    for run in PASSES:
        graph = run(graph)
    return graph


# ---- rows ----------------------------------------------------------------------------------------------------------


def rows_of(op: Op) -> Rows:
    """Every row, `[O]`, or its neutral number where the op has none. An offset without slopes is a bias."""
    rows = {**NEUTRAL, **{name: op.tensors["epilogue"][i] for i, name in enumerate(op.epilogue)}}
    if _neutral(rows, "above", "below"):
        rows["bias"], rows["offset"] = rows["bias"] + rows["offset"], NEUTRAL["offset"]
    return rows


def with_rows(op: Op, rows: Mapping[str, np.ndarray]) -> Op:
    """The op with these rows, without those that are neutral in every channel."""
    kept = {name: rows[name] for name in ROWS if not _neutral(rows, name)}
    tensors = {name: array for name, array in op.tensors.items() if name != "epilogue"}
    if kept:
        tensors["epilogue"] = np.stack(list(kept.values()))
    return replace(op, tensors=tensors, epilogue=tuple(kept))


def _neutral(rows: Mapping[str, np.ndarray], *names: str) -> bool:
    return all((rows[name] == NEUTRAL[name]).all() for name in names)


def readers(graph: Graph) -> Counter[str]:
    """How often each value is read, as an output too."""
    return Counter([name for op in graph.ops for name in op.inputs] + [output.value for output in graph.outputs])


# ---- an op behind an op --------------------------------------------------------------------------------------------


def join(first: Op, then: Op) -> Op | None:
    """One op for `first` and the pointwise `then` that reads it, or None where the form has no room for both.

    With s, t, g, x the scale, bias, gate and shortcut of `then`:
    - `first` is a sum: s (scale acc + bias + shift S + tap_bias + gate x) + t + g x. One of the two may have a
      shortcut, `then` not where the kind of `first` has none;
    - `first` bends, `then` is s y + t: the slopes and the offset take s and t;
    - `first` clips, `then` does nothing but clip: one clip does both.
    """
    a, b = rows_of(first), rows_of(then)
    s, t = b["scale"], b["bias"]
    tensors = dict(first.tensors)
    affine = then.shortcut is None and _neutral(b, "above", "below")
    clip = then.clip
    room = then.shortcut is None or (first.shortcut is None and KINDS[first.kind].operands is not None)
    if _neutral(a, "above", "below") and first.clip == OPEN and room:
        gate = s * a["gate"] if first.shortcut is not None else b["gate"]
        rows = {**b, "scale": s * a["scale"], "bias": s * a["bias"] + t, "shift": s * a["shift"], "gate": gate}
        if "tap_bias" in tensors:
            tensors["tap_bias"] = s * tensors["tap_bias"]
    elif affine and first.clip == OPEN:
        rows = {**a, "above": s * a["above"], "below": s * a["below"], "offset": s * a["offset"] + t, "sign": b["sign"]}
    elif affine and _neutral(b, "scale", "bias"):
        rows = {**a, "sign": b["sign"]}
        low, high = first.clip
        clip = (_clipped(-np.inf if low is None else low, clip), _clipped(np.inf if high is None else high, clip))
    else:
        return None
    inputs = first.inputs + then.inputs[1:]
    return with_rows(replace(first, inputs=inputs, real=then.real, bits=then.bits, tensors=tensors, clip=clip), rows)


def _clipped(bound: float, clip: tuple[float | None, float | None]) -> float | None:
    low, high = clip
    bound = min(max(bound, -np.inf if low is None else low), np.inf if high is None else high)
    return bound if np.isfinite(bound) else None


# ---- passes --------------------------------------------------------------------------------------------------------


def free_repeats(graph: Graph) -> Graph:
    """A factor on repeated channels goes to the addition behind it: without one, repeating them needs no op."""
    count = readers(graph)
    ops: dict[str, Op] = {}
    for op in graph.ops:
        orders = [op, _swapped(op)] if op.kind == "pointwise" and op.shortcut is not None else []
        for order in orders:
            gate = ops.get(order.shortcut or "")
            if gate is None or count[gate.result] > 1 or not _is_affine(gate):
                continue
            repeats = ops.get(gate.inputs[0])
            if repeats is not None and repeats.kind == "match_channels":
                del ops[gate.result]
                op = _gated(order, gate)
                break
        ops[op.result] = op
    return replace(graph, ops=tuple(ops.values()))


def join_epilogues(graph: Graph) -> Graph:
    """A pointwise op (batch norm, nonlinearity, addition, gate) joins the op whose result only it reads.

    An addition may join either of its operands; a binary convolution is preferred, then any other.
    """
    count = readers(graph)
    ops: dict[str, Op] = {}  # by the value written

    def alone(then: Op) -> bool:
        return then.inputs[0] in ops and count[then.inputs[0]] == 1

    for op in graph.ops:
        orders = [op] if op.kind == "pointwise" and op.real is not None else []
        orders += [_swapped(then) for then in orders if then.shortcut is not None]
        for then in sorted(filter(alone, orders), key=lambda then: _PREFERRED.get(ops[then.inputs[0]].kind, 2)):
            joined = join(ops[then.inputs[0]], then)
            if joined is not None:
                del ops[then.inputs[0]]
                op = joined
                break
        ops[op.result] = op
    return replace(graph, ops=tuple(ops.values()))


_PREFERRED = {"binary_conv": 0, "conv": 1}


def _swapped(op: Op) -> Op:
    """The addition with its operands exchanged: scale and gate change places."""
    rows = rows_of(op)
    rows["scale"], rows["gate"] = rows["gate"], rows["scale"]
    return with_rows(replace(op, inputs=op.inputs[::-1]), rows)


def join_gates(graph: Graph) -> Graph:
    """A factor (and bias) on a shortcut, read by nothing else, becomes the gate (and a bias) of the op it goes to."""
    count = readers(graph)
    ops: dict[str, Op] = {}
    for op in graph.ops:
        gate = ops.get(op.shortcut) if op.shortcut is not None and count[op.shortcut] == 1 else None
        if gate is not None and _is_affine(gate):
            del ops[gate.result]
            op = _gated(op, gate)
        ops[op.result] = op
    return replace(graph, ops=tuple(ops.values()))


def _gated(op: Op, gate: Op) -> Op:
    """The op with what its shortcut does, `gate`, in its own rows."""
    rows, inner = rows_of(op), rows_of(gate)
    rows["bias"] = rows["bias"] + rows["gate"] * inner["bias"]
    rows["gate"] = rows["gate"] * inner["scale"]
    return with_rows(replace(op, inputs=(*op.operands, gate.inputs[0])), rows)


def _is_affine(op: Op) -> bool:
    """Whether the op is `scale x + bias`."""
    plain = op.kind == "pointwise" and op.real is not None and op.shortcut is None and op.clip == OPEN
    return plain and _neutral(rows_of(op), "above", "below")


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
                ops[op.inputs[0]] = with_rows(replace(first, bits=op.bits), {**have, "sign": rows["sign"]})
                continue
            if (have["sign"] == rows["sign"]).all():
                same[op.bits or ""] = first.bits
                continue
        ops[op.result] = op
    return replace(graph, ops=tuple(ops.values()))


def _is_sign(op: Op) -> bool:
    """Whether the op is nothing but `x >= sign`."""
    plain = op.kind == "pointwise" and op.real is None and op.shortcut is None and op.clip == OPEN
    return plain and set(op.epilogue) <= {"sign"}


def drop_unread(graph: Graph) -> Graph:
    """Values that nothing reads are not written, and ops that write nothing are gone."""
    read = {output.value for output in graph.outputs}
    kept: list[Op] = []
    for op in reversed(graph.ops):
        real, bits, bytes_ = (name if name in read else None for name in (op.real, op.bits, op.bytes))
        if real or bits or bytes_:
            kept.append(replace(op, real=real, bits=bits, bytes=bytes_))
            read.update(op.inputs)
    return replace(graph, ops=tuple(reversed(kept)))


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


def narrow(graph: Graph) -> Graph:
    """Every row in float32."""

    def narrowed(op: Op) -> Op:
        tensors = {name: array.astype(np.float32) if array.dtype == np.float64 else array
                   for name, array in op.tensors.items()}  # fmt: skip
        return replace(op, tensors=tensors)

    return replace(graph, ops=tuple(narrowed(op) for op in graph.ops))


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
        tensors = {"weight": pack_bits(signs, len(signs)), "threshold": thresholds}
        return replace(op, tensors=tensors, epilogue=(), clip=OPEN)

    return replace(graph, ops=tuple(compared(op) for op in graph.ops))


def decide(op: Op, channel: int, sums: np.ndarray) -> np.ndarray:
    """The bit of `channel` for each of the integers `sums`: float32 with a fused multiply-add, as the engine has it."""
    scale, bias, above, below, offset, sign = (
        np.broadcast_to(rows_of(op)[name], op.attributes["channels"])[channel].astype(np.float64)
        for name in ("scale", "bias", "above", "below", "offset", "sign")
    )
    v = (scale * sums + bias).astype(np.float32)
    y = (v * np.where(v >= 0, above, below) + offset).astype(np.float32)
    low, high = (None if bound is None else np.float32(bound) for bound in op.clip)
    return np.asarray((y if op.clip == OPEN else np.clip(y, low, high)) >= sign)


PASSES = (free_repeats, join_epilogues, join_gates, join_signs, drop_unread, pool_bits, narrow, to_thresholds)
