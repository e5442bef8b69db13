"""Ops on real values on every kernel set: concatenations, selections, curves, layer norms, repeated channels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from support.kernel_runs import check, run

from bbg.graph import Graph, Op, reference
from bbg.graph.kinds import ATTRIBUTES, FUNCTIONS, KINDS, REQUIRED
from cases.convolutions import CHANNELS, CONCATS, MAPS, Case, Pair, conv_graph
from cases.random_graphs import random_joins, random_moves

REPEATS = [(i, o) for i in (1, 3, 8, 16, 24, 40, 48) for o in (16, 48, 49, 96, 144) if i <= o]
MEANS = [(i, o) for i in (16, 24, 49, 64, 70) for o in (1, 3, 8, 16, 23, 40, 48) if i > o]

# The kinds of one real operand that need neither tensors nor attributes.
ALONE = [
    name
    for name, kind in KINDS.items()
    if (kind.main, kind.operands, kind.required) == ("real", 1, ())
    and all(ATTRIBUTES[attribute].default is not REQUIRED for attribute in kind.attributes)
]


def between(kind: str, sources: list[int], size: Pair, rng: np.random.Generator, **more: object) -> Graph:
    """The op "y" of that kind on 1x1 convolutions of the input, with a full epilogue, a shortcut and all results."""
    ops = [
        Op(
            f"v{i}",
            "conv",
            ("x",),
            f"v{i}",
            None,
            {"kernel": (1, 1), "channels": channels},
            {"weight": rng.standard_normal((channels, 1, 1, 2)).astype(np.float32)},
        )
        for i, channels in enumerate(sources)
    ]
    op = Op("y", kind, tuple(op.name for op in ops), "y", "b", bytes="u", **more)
    channels = Graph("x", (2, *size), (*ops, op), ()).shapes(*size)["y"].channels
    parameters = ("scale", "bias", "above", "below", "offset", "bit_threshold", "byte_scale", "byte_bias")
    if kind != "concat":
        weight = rng.standard_normal((channels, 1, 1, 2)).astype(np.float32)
        ops.append(Op("s", "conv", ("x",), "s", None, {"kernel": (1, 1), "channels": channels}, {"weight": weight}))
        parameters += ("gate",)
    epilogue = rng.standard_normal((len(parameters), channels)).astype(np.float32)
    epilogue[parameters.index("byte_bias")] += 100
    tensors = {**op.tensors, "epilogue": epilogue}
    inputs = op.inputs if kind == "concat" else (*op.inputs, "s")
    op = replace(op, inputs=inputs, tensors=tensors, epilogue=parameters, clip=(-3.0, 4.0))
    return Graph("x", (2, *size), (*ops, op), ()).with_outputs(op.written)


def images_of(size: Pair, rng: np.random.Generator) -> np.ndarray:
    return rng.standard_normal((3, 2, *size)).astype(np.float32)


@pytest.mark.parametrize("size", MAPS, ids=str)
@pytest.mark.parametrize("parts", CONCATS, ids=str)
def test_concat(parts: tuple[int, ...], size: Pair, isa: str) -> None:
    rng = np.random.default_rng(8)
    check(between("concat", list(parts), size, rng), images_of(size, rng), isa)
    plain = replace(between("concat", list(parts), size, rng).ops[-1], epilogue=(), clip=(None, None), tensors={})
    graph = between("concat", list(parts), size, rng)
    exact = replace(graph, ops=(*graph.ops[:-1], plain)).with_outputs(["y", "b", *dict.fromkeys(plain.inputs)])
    got = run(exact, images_of(size, rng), 2, isa)
    joined = np.concatenate([got[name] for name in plain.inputs], axis=1)
    np.testing.assert_array_equal(got["y"], joined)
    np.testing.assert_array_equal(got["b"], np.where(joined >= 0, 1, -1))


@pytest.mark.parametrize("size", MAPS, ids=str)
@pytest.mark.parametrize("outputs", CHANNELS)
@pytest.mark.parametrize("inputs", CHANNELS)
def test_select(inputs: int, outputs: int, size: Pair, isa: str) -> None:
    rng = np.random.default_rng(9)
    shuffled = rng.integers(0, inputs, outputs)
    split = (inputs // 2 + np.arange(outputs)) % inputs  # the last channels, side by side, then the first
    for index in (shuffled, split):
        more = {"attributes": {"channels": outputs}, "tensors": {"index": index.astype(np.int32)}}
        check(between("select", [inputs], size, rng, **more), images_of(size, rng), isa)


@pytest.mark.parametrize("size", MAPS, ids=str)
@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("kind", [*FUNCTIONS, *ALONE, "multiply", "multiply by one number per channel"])
def test_values(kind: str, channels: int, size: Pair, isa: str) -> None:
    rng = np.random.default_rng(10)
    more: dict[str, object] = {"attributes": {"function": kind}} if kind in FUNCTIONS else {}
    kind_name = "unary" if kind in FUNCTIONS else kind.split(maxsplit=1)[0]
    graph = between(kind_name, [channels] * (2 if "multiply" in kind else 1), size, rng, **more)
    if kind in FUNCTIONS and np.isfinite(FUNCTIONS[kind].least):
        first = replace(graph.ops[0], clip=(FUNCTIONS[kind].least + 0.01, None))
        graph = replace(graph, ops=(first, *graph.ops[1:]))
    if "one number" in kind:
        mean = Op("mean", "adaptive_avg_pool", ("v1",), "m", None, {"size": (1, 1)})
        last = graph.ops[-1]
        last = replace(last, inputs=(last.inputs[0], "m", *last.inputs[2:]))
        graph = replace(graph, ops=(*graph.ops[:-1], mean, last))
    check(graph, images_of(size, rng), isa)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_functions_everywhere(function: str, isa: str) -> None:
    """For numbers of any size within 5e-7, of their size where that is beyond 1; tanh is odd to the bit."""
    x = np.concatenate([np.linspace(0, 12, 60_000), 10.0 ** np.linspace(-44, 37, 4_000)]).astype(np.float32)
    x = np.concatenate([x, -x]).reshape(1, 1, 256, -1)
    op = Op("y", "unary", ("x",), "y", None, {"function": function})
    graph = Graph("x", x.shape[1:], (op,), ()).with_outputs("y")
    got = run(graph, x, 1, isa)["y"]
    wanted = reference.run(graph, x)["y"]
    finite = np.isfinite(wanted)
    np.testing.assert_array_equal(got[~finite], wanted[~finite])
    error = np.abs(np.where(finite, got, 0).astype(np.float64) - np.where(finite, wanted, 0))
    assert (error <= 5e-7 * np.maximum(1, FUNCTIONS[function].bound(x)))[finite].all()
    if function in ("log", "log1p"):  # relative to themselves, also near 1 and below the normal numbers
        assert (error[finite] <= 2e-7 * np.abs(wanted[finite])).all()
        assert finite.sum() == ((x > 0) if function == "log" else (x > -1)).sum()
    if function in ("sigmoid", "silu", "softplus"):  # relative to themselves, down to the smallest normal numbers
        wanted = np.abs(reference.run(graph, x)["y"])
        normal = (np.abs(x) < 80) & (wanted > 1e-37)
        assert (error[normal] <= 5e-7 * wanted[normal]).all()
    if function in ("silu", "gelu"):
        assert np.abs(got[x < -100]).max() < 1e-30
    if function == "tanh":
        assert np.abs(got).max() == 1
        half = got.size // 2
        np.testing.assert_array_equal(got.ravel()[:half], -got.ravel()[half:])


@pytest.mark.parametrize("function", ["log", "log1p"])
def test_logarithms_at_their_ends(function: str, isa: str) -> None:
    """-inf at the least number, NaN below, inf of what has overflowed; a clip passes what is no number."""
    least = np.float32(FUNCTIONS[function].least)
    below = np.nextafter(least, np.float32(-2))
    x = np.float32([least, -0.0 + least, below, -3e38, 3e38, 1 + least]).reshape(1, 6, 1, 1)
    scale = {"epilogue": np.full((1, 6), 2, np.float32)}
    ops = (
        Op("twice", "pointwise", ("x",), "t", None, {}, scale, ("scale",), (2 * float(below), None)),
        Op("half", "unary", ("x",), "y", None, {"function": function}),
        Op("over", "unary", ("t",), "z", None, {"function": "log"}),
        Op("clipped", "pointwise", ("y",), "c", clip=(-5.0, 5.0)),
    )
    got = run(Graph("x", (6, 1, 1), ops, ()).with_outputs("yzc"), x, 1, isa)
    y = got["y"].ravel()
    np.testing.assert_array_equal(y[[0, 2, 3, 5]], [-np.inf, np.nan, np.nan, 0])
    assert y[4] == pytest.approx(np.log(3e38), rel=3e-7)
    assert got["z"].ravel()[4] == np.inf
    np.testing.assert_array_equal(got["c"].ravel()[[0, 2, 3, 4, 5]], [-5, np.nan, np.nan, 5, 0])


def test_layer_norm_of_equal_numbers_and_far_from_zero(isa: str) -> None:
    """Equal numbers give 0, whatever rounding makes of their mean; a large mean takes nothing from the variance."""
    rng = np.random.default_rng(11)
    x = np.full((1, 33, 3, 3), 1.1, np.float32)
    x[:, :, 1] = 1000 + rng.standard_normal((1, 33, 3)).astype(np.float32)
    x[:, :, 2] = -7.3e8
    for eps in (1e-5, 1e-12):
        graph = Graph("x", x.shape[1:], (Op("y", "layer_norm", ("x",), "y", None, {"eps": eps}),), ()).with_outputs("y")
        check(graph, x, isa)
        assert np.abs(run(graph, x, 1, isa)["y"][:, :, ::2]).max() == 0


def test_every_operand_keeps_its_memory_until_it_is_read(isa: str) -> None:
    """Values that wait for a late op while others come and go; some are operand and shortcut of one op."""
    rng = np.random.default_rng(12)
    wide = {"weight": rng.standard_normal((16, 3, 3, 16)).astype(np.float32) / 10}
    same = {"kernel": (3, 3), "padding": (1, 1), "channels": 16}
    ops = [Op("v0", "pointwise", ("x",), "v0")]
    for i in range(1, 7):
        ops.append(Op(f"v{i}", "conv", (f"v{i - 1}",), f"v{i}", None, same, wide))
    ops += [
        Op("repeat", "match_channels", ("v3",), "r", None, {"channels": 80}),
        Op("lent", "match_channels", ("v3",), "l", None, {"channels": 80}),  # lives in v3's memory
        Op("all", "concat", ("v6", "v0", "v2", "v6", "v5"), "c"),
        Op("sum", "pointwise", ("c", "l"), "d"),
        Op("square", "multiply", ("v4", "v4", "v4"), "e"),
        Op("both", "multiply", ("e", "v1", "v1"), "f"),
        Op("self", "unary", ("f", "f"), "g", None, {"function": "tanh"}),
        Op("end", "concat", ("d", "g", "r"), "h"),
    ]
    graph = Graph("x", (16, 5, 6), tuple(ops), ()).with_outputs("h")
    check(graph, rng.standard_normal((18, 16, 5, 6)).astype(np.float32), isa)


@pytest.mark.parametrize(("inputs", "outputs"), [*REPEATS, *MEANS])
def test_shortcuts_of_other_channels(inputs: int, outputs: int, isa: str) -> None:
    """Read by a convolution as well, so that there are margins; with a gate and without; more than once."""
    rng = np.random.default_rng(inputs * outputs)
    gate = {"epilogue": rng.standard_normal((1, outputs)).astype(np.float32)}
    wide = {"weight": rng.standard_normal((inputs, 3, 3, inputs)).astype(np.float32) / 10}
    ops = (
        Op("v", "pointwise", ("x",), "v"),
        Op("margins", "conv", ("v",), "m", None, {"kernel": (3, 3), "padding": (1, 1), "channels": inputs}, wide),
        Op("first", "match_channels", ("v",), "s", None, {"channels": outputs}),
        Op("second", "match_channels", ("m",), "p", None, {"channels": outputs}),
        Op("one", "pointwise", ("y", "s"), "a", None, {}, gate, ("gate",)),
        Op("two", "pointwise", ("a", "p"), "b", "t"),
        Op("three", "pointwise", ("b", "s"), "c"),
    )
    conv = conv_graph("conv", Case(inputs, outputs, (5, 6)), rng).ops[0]
    graph = Graph("x", (inputs, 5, 6), (conv, *ops), ()).with_outputs("ct")
    check(graph, rng.standard_normal((3, inputs, 5, 6)).astype(np.float32), isa)


def test_repeated_channels_become_bytes(isa: str) -> None:
    """An op that repeats channels runs where more than its real value is written, or something else."""
    rng = np.random.default_rng(13)
    ops = (
        Op("v", "pointwise", ("x",), "v"),
        Op("bytes", "match_channels", ("v",), None, None, {"channels": 32}, bytes="u"),
        Op("both", "match_channels", ("v",), "r", None, {"channels": 32}, bytes="w"),
        Op("sum", "pointwise", ("r", "r"), "s"),
    )
    graph = Graph("x", (16, 3, 3), ops, ()).with_outputs("uws")
    check(graph, 9 * rng.standard_normal((2, 16, 3, 3)).astype(np.float32), isa)


@pytest.mark.parametrize("seed", range(60))
def test_joins(seed: int, isa: str) -> None:
    """Concatenations, many of them places in memory: nested, with shared operands, read and added by other ops."""
    graph = random_joins(seed)
    x = np.random.default_rng(seed).standard_normal((1 + seed % 3, *graph.input_shape)).astype(np.float32)
    check(graph, x, isa)


@pytest.mark.parametrize("seed", range(90))
def test_moves(seed: int, isa: str) -> None:
    """Shuffled, split and joined channels: what moves them goes into its readers, and moves bytes where it may."""
    graph = random_moves(seed)
    x = np.random.default_rng(seed).standard_normal((1 + seed % 3, *graph.input_shape)).astype(np.float32)
    check(graph, x, isa)


@pytest.mark.parametrize(
    "taken", [((0, 1), (2, 3)), ((0, 1, 2, 3), (0, 1)), ((0,), (1, 2, 3)), ((3,), (0, 1, 2, 3))], ids=str
)
def test_joined_parts_are_not_whole(taken: tuple[tuple[int, ...], tuple[int, ...]], isa: str) -> None:
    """A concatenation of selections is one of whole values only if each begins and ends with its value."""
    rng = np.random.default_rng(14)
    convs = between("concat", [4, 4], (3, 5), rng).ops[:2]
    parts = [
        Op(f"p{i}", "select", (f"v{i}",), f"p{i}", None, {"channels": len(t)}, {"index": np.array(t, np.int32)})
        for i, t in enumerate(taken)
    ]
    join = Op("join", "concat", ("p0", "p1"), None, None, bytes="u")
    graph = Graph("x", (2, 3, 5), (*convs, *parts, join), ()).with_outputs("u")
    check(graph, 50 * images_of((3, 5), rng), isa)
