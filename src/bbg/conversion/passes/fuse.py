"""Passes that fuse: batch norms, nonlinearities, additions and gates move into the ops before them."""

from __future__ import annotations

from dataclasses import replace

from bbg.conversion.passes.epilogue import fuse, is_affine, parameters_of, readers, with_parameters
from bbg.graph import Graph, Op


def fuse_gate_into_add(graph: Graph) -> Graph:
    """A factor on repeated channels goes to the addition that reads it: only repeating them needs no op at run time."""
    count = readers(graph)
    ops: dict[str, Op] = {}
    for op in graph.ops:
        orders = [op, _swapped(op)] if op.kind == "pointwise" and op.shortcut is not None else []
        for order in orders:
            gate = ops.get(order.shortcut or "")
            if gate is None or count[gate.result] > 1 or not is_affine(gate):
                continue
            repeats = ops.get(gate.inputs[0])
            if repeats is not None and repeats.kind == "match_channels":
                del ops[gate.result]
                op = _gated(order, gate)
                break
        ops[op.result] = op
    return replace(graph, ops=tuple(ops.values()))


def fuse_epilogues(graph: Graph) -> Graph:
    """A pointwise op (batch norm, nonlinearity, addition, gate) joins the op whose result only it reads.

    An addition may join either of its operands; a binary convolution is preferred, then any other.
    """
    count = readers(graph)
    ops: dict[str, Op] = {}  # by the value written

    def is_only_reader(then: Op) -> bool:
        return then.inputs[0] in ops and count[then.inputs[0]] == 1

    for op in graph.ops:
        orders = [op] if op.kind == "pointwise" and op.real is not None else []
        orders += [_swapped(then) for then in orders if then.shortcut is not None]
        candidates = filter(is_only_reader, orders)
        for then in sorted(candidates, key=lambda then: _PREFERRED.get(ops[then.inputs[0]].kind, 2)):
            fused = fuse(ops[then.inputs[0]], then)
            if fused is not None:
                del ops[then.inputs[0]]
                op = fused
                break
        ops[op.result] = op
    return replace(graph, ops=tuple(ops.values()))


_PREFERRED = {"binary_conv": 0, "conv": 1}


def fuse_gates(graph: Graph) -> Graph:
    """A factor (and bias) on a shortcut, read by nothing else, becomes the gate (and a bias) of the op it goes to."""
    count = readers(graph)
    ops: dict[str, Op] = {}
    for op in graph.ops:
        gate = ops.get(op.shortcut) if op.shortcut is not None and count[op.shortcut] == 1 else None
        if gate is not None and is_affine(gate):
            del ops[gate.result]
            op = _gated(op, gate)
        ops[op.result] = op
    return replace(graph, ops=tuple(ops.values()))


def _swapped(op: Op) -> Op:
    """The addition with its operands exchanged: scale and gate change places."""
    parameters = parameters_of(op)
    parameters["scale"], parameters["gate"] = parameters["gate"], parameters["scale"]
    return with_parameters(replace(op, inputs=op.inputs[::-1]), parameters)


def _gated(op: Op, gate: Op) -> Op:
    """The op with what its shortcut does, `s x + t`, in its own parameters: `gate (s x + t) = (gate s) x + gate t`."""
    parameters, inner = parameters_of(op), parameters_of(gate)
    parameters["bias"] = parameters["bias"] + parameters["gate"] * inner["bias"]
    parameters["gate"] = parameters["gate"] * inner["scale"]
    return with_parameters(replace(op, inputs=(*op.operands, gate.inputs[0])), parameters)
