"""Passes that tidy: values that nothing reads, parameters in float32."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from bbg.graph import Graph, Op


def drop_unread(graph: Graph) -> Graph:
    """Values that nothing reads are not written, and ops that write nothing are dropped."""
    read = {name for output in graph.outputs for name in output.values}
    kept: list[Op] = []
    for op in reversed(graph.ops):
        real, bits, bytes_ = (name if name in read else None for name in (op.real, op.bits, op.bytes))
        if real or bits or bytes_:
            kept.append(replace(op, real=real, bits=bits, bytes=bytes_))
            read.update(op.inputs)
    return replace(graph, ops=tuple(reversed(kept)))


def cast_to_float32(graph: Graph) -> Graph:
    """Every float64 tensor becomes float32."""

    def cast(op: Op) -> Op:
        tensors = {
            name: array.astype(np.float32) if array.dtype == np.float64 else array for name, array in op.tensors.items()
        }
        return replace(op, tensors=tensors)

    return replace(graph, ops=tuple(cast(op) for op in graph.ops))
