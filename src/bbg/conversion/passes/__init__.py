"""The passes, in order: from one op per layer to the few that an engine runs.

Each pass is a function from a graph to a graph that computes the same. They rest on the one form of docs/format.md, in
which a batch norm, a nonlinearity or an addition is a pointwise op of its own, and which a convolution has behind its
accumulator:

    v = scale acc + bias + shift S + tap_bias + gate shortcut
    y = clip(v (above if v >= 0 else below) + offset),        bit = (y >= sign)

Vectors are float64 until `narrow`, so that what is folded is rounded once.
"""

from __future__ import annotations

from bbg.conversion.passes.bits import join_signs, pool_bits, to_thresholds
from bbg.conversion.passes.cleanup import drop_unread, narrow
from bbg.conversion.passes.fuse import free_repeats, join_epilogues, join_gates
from bbg.graph import Graph


def fold_graph(graph: Graph) -> Graph:
    """All passes, in order."""
    for run in PASSES:
        graph = run(graph)
    return graph


PASSES = (free_repeats, join_epilogues, join_gates, join_signs, drop_unread, pool_bits, narrow, to_thresholds)
