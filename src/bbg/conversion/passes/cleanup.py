"""Passes that tidy: values that nothing reads, vectors in float32."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from bbg.graph import Graph, Op


def drop_unread(graph: Graph) -> Graph:
    """Values that nothing reads are not written, and ops that write nothing are gone."""
    read = {name for output in graph.outputs for name in output.values}
    kept: list[Op] = []
    for op in reversed(graph.ops):
        real, bits, bytes_ = (name if name in read else None for name in (op.real, op.bits, op.bytes))
        if real or bits or bytes_:
            kept.append(replace(op, real=real, bits=bits, bytes=bytes_))
            read.update(op.inputs)
    return replace(graph, ops=tuple(reversed(kept)))


def narrow(graph: Graph) -> Graph:
    """Every row in float32."""

    def narrowed(op: Op) -> Op:
        tensors = {
            name: array.astype(np.float32) if array.dtype == np.float64 else array for name, array in op.tensors.items()
        }
        return replace(op, tensors=tensors)

    return replace(graph, ops=tuple(narrowed(op) for op in graph.ops))
