"""How the tests of kernels run a graph, and the law that holds for every op of it."""

from __future__ import annotations

import numpy as np

from bbg.engine import Engine, kernel_sets
from bbg.graph import Graph, reference
from bbg.graph.formulas import per_channel
from cases import random_graphs
from cases.convolutions import Case

SETS = [s.name for s in kernel_sets() if s.supported]
THREADS = (1, 2, 3, 5)


def run(graph: Graph, x: np.ndarray, threads: int, isa: str) -> dict[str, np.ndarray]:
    engine = Engine(random_graphs.packed(graph), threads)
    assert engine.kernels == isa
    return engine.run(np.ascontiguousarray(x.transpose(0, 2, 3, 1)) if graph.input_type == "bytes" else x)


def batch(case: Case, images: int, rng: np.random.Generator) -> np.ndarray:
    return rng.standard_normal((images, case.inputs, *case.size)).astype(np.float32)


def check(graph: Graph, x: np.ndarray, isa: str, tolerance: float = 1e-5) -> None:
    """Each op on what the engine gave it, against the oracle, but for near-ties; and the same on any team."""
    got = run(graph.with_outputs(name for op in graph.ops for name in op.written), x, 1, isa)
    shapes = graph.shapes(*x.shape[2:])
    values = {graph.input_name: x} | got
    for op in graph.ops:
        inputs, result = [values[name] for name in op.inputs], shapes[op.result]
        real = reference.real_of(op, inputs, result)
        for name, want in reference.run_op(op, inputs, result).items():
            if name == op.real:
                largest = max(1.0, float(np.abs(want).max()))
                np.testing.assert_allclose(got[name], want, rtol=0, atol=tolerance * largest, err_msg=op.name)
            elif name == op.bits:
                threshold = per_channel(reference.parameter(op, "bit_threshold"))
                sure = np.abs(real - threshold) > tolerance * np.abs(real).max()
                np.testing.assert_array_equal(got[name][sure], want[sure], err_msg=op.name)
            else:
                np.testing.assert_allclose(got[name], want, rtol=0, atol=1, err_msg=op.name)
    for threads in THREADS:
        few = run(graph, x, threads, isa)
        for name, array in reference.outputs(graph, got).items():
            np.testing.assert_array_equal(few[name], array)
