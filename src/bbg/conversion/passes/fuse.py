"""Passes that fuse: batch norms, nonlinearities, additions and gates move into the ops before them."""

from __future__ import annotations

from dataclasses import replace

from bbg.conversion.passes.epilogue import _is_affine, join, readers, rows_of, with_rows
from bbg.graph import Graph, Op

# ---- rows ----------------------------------------------------------------------------------------------------------


# ---- an op behind an op --------------------------------------------------------------------------------------------


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
