"""A function behind a convolution is computed by the convolution: to the bit what the two ops compute one by one."""

from __future__ import annotations

import numpy as np
import pytest
from support.kernel_runs import THREADS, check, run

from bbg import _native
from bbg.graph import Graph, Op
from bbg.graph.kinds import FUNCTIONS as RULES
from cases.convolutions import Case, conv_op

FUNCTIONS = _native.functions()
CONVOLUTIONS = {  # kind of the convolution, and what it computes
    "of bytes": ("byte_conv", Case(20, 40, (7, 18))),
    "of bytes, strided": ("byte_conv", Case(3, 33, (9, 31), kernel=(5, 5), padding=(2, 2), stride=(2, 2))),
    "depthwise, of bytes": ("byte_conv", Case(40, 40, (6, 9), groups=40)),
    "of numbers": ("conv", Case(16, 33, (5, 9))),
    "depthwise": ("conv", Case(24, 24, (6, 9), groups=24)),
    "of one pixel": ("conv", Case(24, 40, (1, 1), kernel=(1, 1), padding=(0, 0))),
}


def graph_of(name: str, function: str, results: dict[str, str], rng: np.random.Generator) -> Graph:
    """Bytes of the input, the convolution, and the function, which writes the `results`."""
    kind, case = CONVOLUTIONS[name]
    rows = rng.standard_normal((3, case.outputs)).astype(np.float32) * np.float32([[0.01], [1], [0.5]])
    rounding = {"epilogue": np.stack([np.full(case.inputs, 40), np.full(case.inputs, 99)]).astype(np.float32)}
    first = Op("round", "pointwise", ("x",), bytes="u", epilogue=("byte_scale", "byte_bias"), tensors=rounding)
    conv = conv_op(
        kind,
        case,
        rng,
        inputs=("u" if kind == "byte_conv" else "x",),
        epilogue=("scale", "bias", "below"),
        tensors={"epilogue": rows},
        clip=(max(-3.0, RULES[function].least + 0.01), 3.0),
    )
    ends = np.stack([np.full(case.outputs, 30), np.linspace(0, 120, case.outputs)]).astype(np.float32)
    then = Op(
        "then",
        "unary",
        ("y",),
        attributes={"function": function},
        epilogue=("byte_scale", "byte_bias"),
        tensors={"epilogue": ends},
        **results,
    )
    ops = (first, conv, then) if kind == "byte_conv" else (conv, then)
    return Graph("x", (case.inputs, *case.size), ops, ())


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_it_is_the_same_to_the_bit(name: str, function: str, isa: str) -> None:
    rng = np.random.default_rng(0)
    graph = graph_of(name, function, {"real": "z", "bits": "b", "bytes": "v"}, rng)
    x = rng.standard_normal((2, *graph.input_shape)).astype(np.float32)
    check(graph.with_outputs("z"), x, isa)  # each op on its own: every value is returned
    apart = run(graph.with_outputs("yzbv"), x, 1, isa)
    for threads in THREADS:
        for results in ("zbv", "zv", "b", "v"):
            fused = run(graph.with_outputs(results), x, threads, isa)
            for value in results:
                np.testing.assert_array_equal(fused[value], apart[value])


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_bytes_alone_are_the_same(name: str, isa: str) -> None:
    """Where nothing but bytes is written, a clip becomes their bounds, but not one that stands before a function."""
    rng = np.random.default_rng(1)
    graph = graph_of(name, "silu", {"bytes": "v"}, rng)
    x = rng.standard_normal((2, *graph.input_shape)).astype(np.float32)
    np.testing.assert_array_equal(
        run(graph.with_outputs("v"), x, 1, isa)["v"], run(graph.with_outputs("yv"), x, 1, isa)["v"]
    )


def test_the_convolution_takes_the_time_of_both() -> None:
    """So the function runs no pass of its own."""
    from bbg.engine import Engine
    from cases.random_graphs import packed

    rng = np.random.default_rng(2)
    graph = graph_of("of bytes", "silu", {"real": "z"}, rng)
    x = rng.standard_normal((1, *graph.input_shape)).astype(np.float32)
    times = {t.name: t.seconds for t in Engine(packed(graph.with_outputs("z")), 1).profile(x)}
    assert times["conv"] > 0
    assert times["then"] == 0
    apart = {t.name: t.seconds for t in Engine(packed(graph.with_outputs("yz")), 1).profile(x)}
    assert apart["then"] > 0
