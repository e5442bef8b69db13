"""The passes, in order: from one op per layer to the few that an engine runs.

Each pass is a function from a graph to a graph that computes the same. They rest on the one form of docs/format.md, in
which a batch norm, a nonlinearity or an addition is a pointwise op of its own, and which a convolution has behind its
accumulator:

    v = scale acc + bias + shift S + tap_bias + gate shortcut
    y = clip(v (above if v >= 0 else below) + offset),        bit = (y >= bit_threshold)

Parameters are float64 until `cast_to_float32`, so that what is folded is rounded once.
"""

from __future__ import annotations

from bbg.conversion.passes.bits import fuse_signs, pool_on_bits, to_integer_thresholds
from bbg.conversion.passes.cleanup import cast_to_float32, drop_unread
from bbg.conversion.passes.fuse import fuse_epilogues, fuse_gate_into_add, fuse_gates
from bbg.graph import Graph

PASSES = (
    drop_unread,  # the steps of a choice that became a hinge
    fuse_gate_into_add,
    fuse_epilogues,
    fuse_gates,
    fuse_signs,
    drop_unread,
    pool_on_bits,
    cast_to_float32,
    to_integer_thresholds,
)


def fold_graph(graph: Graph) -> Graph:
    """All passes, in order."""
    for run in PASSES:
        graph = run(graph)
    return graph
