"""Every kernel set of this machine against the oracle: integers equal, real values within 1e-5 of the op's largest."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import reference
from cases import CASES, CHANNELS, CONCATS, DEPTHWISE, LAYERS, MAPS, STEMS, Case, Pair, conv_graph

from bbg.engine import Engine, kernel_sets
from bbg.errors import BbgError
from bbg.graph import Graph, Op, Output
from bbg.packed import Model

SETS = [s.name for s in kernel_sets() if s.supported]
THREADS = (1, 2, 3)

CURVES = ("tanh", "sigmoid", "silu", "hardswish", "gelu")


@pytest.fixture(params=SETS)
def isa(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("BBG_ISA", request.param)
    return str(request.param)


def run(graph: Graph, x: np.ndarray, threads: int, isa: str) -> dict[str, np.ndarray]:
    engine = Engine(reference.packed(graph), threads)
    assert engine.kernels == isa
    outputs = engine(np.ascontiguousarray(x.transpose(0, 2, 3, 1)) if graph.input_type == "bytes" else x)
    assert isinstance(outputs, dict)
    return outputs


def batch(case: Case, images: int, rng: np.random.Generator) -> np.ndarray:
    return rng.standard_normal((images, case.inputs, *case.size)).astype(np.float32)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_integers_of_a_binary_convolution_are_exact(case: Case, isa: str) -> None:
    rng = np.random.default_rng(1)
    graph = conv_graph("binary_conv", case, rng)
    x = batch(case, 3, rng)
    want = reference.run(graph, x)["y"]
    for threads in THREADS:
        np.testing.assert_array_equal(run(graph, x, threads, isa)["y"], want)


@pytest.mark.parametrize("inputs", [32, 224, 256, 1312, 1344])
@pytest.mark.parametrize("kernel", [1, 3, 7])
def test_no_count_overflows(inputs: int, kernel: int, isa: str) -> None:
    """Bits that all differ, around the edges of 8 and of 16 bits."""
    case = Case(inputs, 64, (7, 8), kernel=(kernel, kernel), padding=(0, 0))
    graph = conv_graph("binary_conv", case, np.random.default_rng(5))
    graph.ops[1].tensors["weight"][:] = 0
    y = run(graph, np.ones((1, inputs, *case.size), np.float32), 1, isa)["y"]
    np.testing.assert_array_equal(y, np.full_like(y, -inputs * kernel**2))


@pytest.mark.parametrize("case", [layer.case for layer in LAYERS], ids=str)
def test_the_layers_of_the_benchmark_are_exact(case: Case, isa: str) -> None:
    rng = np.random.default_rng(5)
    graph = conv_graph("binary_conv", case, rng)
    x = batch(case, 1, rng)
    np.testing.assert_array_equal(run(graph, x, 2, isa)["y"], reference.run(graph, x)["y"])


@pytest.mark.parametrize("case", CASES, ids=str)
def test_integer_thresholds(case: Case, isa: str) -> None:
    rng = np.random.default_rng(2)
    threshold = rng.integers(-4, 5, case.outputs).astype(np.int32)
    threshold[rng.random(case.outputs) < 0.1] = np.iinfo(np.int32).max  # a constant bit
    graph = conv_graph("binary_conv", case, rng, real=None, bits="y", tensors={"threshold": threshold})
    x = batch(case, 2, rng)
    np.testing.assert_array_equal(run(graph, x, 2, isa)["y"], reference.run(graph, x)["y"])


@pytest.mark.parametrize("case", [*CASES, *DEPTHWISE], ids=str)
def test_float_convolutions(case: Case, isa: str) -> None:
    rng = np.random.default_rng(3)
    graph = conv_graph("conv", case, rng)
    x = batch(case, 2, rng)
    want = reference.run(graph, x)["y"]
    first = run(graph, x, 1, isa)["y"]
    np.testing.assert_allclose(first, want, rtol=0, atol=1e-5 * np.abs(want).max())
    for threads in THREADS[1:]:
        np.testing.assert_array_equal(run(graph, x, threads, isa)["y"], first)


@pytest.mark.parametrize("case", [*CASES, *STEMS], ids=str)
def test_the_integers_of_a_convolution_of_bytes_are_exact(case: Case, isa: str) -> None:
    """Of the network's input, whose numbers lie side by side, and of bytes inside, each with an odd tap bias."""
    rng = np.random.default_rng(4)
    tap_bias = rng.integers(-9, 10, (case.kernel[0] * case.kernel[1], case.outputs)).astype(np.float32)
    tensors = conv_graph("byte_conv", case, rng).ops[0].tensors | {"tap_bias": tap_bias}
    direct = conv_graph("byte_conv", case, rng, tensors=tensors)
    x = rng.integers(0, 256, (2, case.inputs, *case.size)).astype(np.uint8)
    want = reference.run(direct, x)["y"]
    inside = replace(direct.ops[0], inputs=("b",))
    rounded = Op("round", "pointwise", ("x",), bytes="b", epilogue=("byte_bias",),
                 tensors={"epilogue": np.full((1, case.inputs), 2, np.float32)})  # fmt: skip
    behind = replace(direct, ops=(rounded, inside), input_type="real")
    spread = np.where(x == 0, -7, np.where(x == 255, 300, x - 2.25)).astype(np.float32)  # clipped, and rounded
    for threads in THREADS:
        np.testing.assert_array_equal(Engine(Model(direct), threads)(x.transpose(0, 2, 3, 1).copy())["y"], want)
        np.testing.assert_array_equal(run(behind, spread, threads, isa)["y"], want)


@pytest.mark.parametrize("case", DEPTHWISE, ids=str)
def test_depthwise_convolutions_inside(case: Case, isa: str) -> None:
    """Of a value that an op wrote, beside others that read it, with an epilogue and all three results."""
    rng = np.random.default_rng(7)
    rows = ("scale", "bias", "below", "sign")
    epilogue = rng.standard_normal((4, case.outputs)).astype(np.float32)
    tensors = conv_graph("conv", case, rng).ops[0].tensors | {"epilogue": epilogue}
    more = {"inputs": ("z",), "bits": "b", "bytes": "u", "epilogue": rows, "clip": (-2, 3)}
    behind = conv_graph("conv", case, rng, tensors=tensors, **more)
    shift = {"epilogue": np.full((1, case.inputs), 2, np.float32)}
    before = Op("before", "pointwise", ("x",), "z", None, {}, shift, ("bias",))
    graph = replace(behind, ops=(before, *behind.ops), outputs=(*behind.outputs, Output("z", "z")))
    check(graph, batch(case, 3, rng), isa)


def check(graph: Graph, x: np.ndarray, isa: str, tolerance: float = 1e-5) -> None:
    """Each op on what the engine gave it, against the oracle, but for near-ties; and the same on any team."""
    outputs = tuple(Output(name, name) for op in graph.ops for name in op.written)
    got = run(replace(graph, outputs=outputs), x, 1, isa)
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
                sign = reference.along(op.row("sign")) if "sign" in op.epilogue else 0
                sure = np.abs(real - sign) > tolerance * np.abs(real).max()
                np.testing.assert_array_equal(got[name][sure], want[sure], err_msg=op.name)
            else:
                np.testing.assert_allclose(got[name], want, rtol=0, atol=1, err_msg=op.name)
    for threads in (1, *THREADS, 5):
        few = run(graph, x, threads, isa)
        for output in graph.outputs:
            np.testing.assert_array_equal(few[output.name], got[output.value])


def between(kind: str, sources: list[int], size: Pair, rng: np.random.Generator, **more: object) -> Graph:
    """The op "y" of that kind on 1x1 convolutions of the input, with a full epilogue, a shortcut and all results."""
    ops = [
        Op(f"v{i}", "conv", ("x",), f"v{i}", None, {"kernel": (1, 1), "channels": channels},
           {"weight": rng.standard_normal((channels, 1, 1, 2)).astype(np.float32)})
        for i, channels in enumerate(sources)
    ]  # fmt: skip
    op = Op("y", kind, tuple(op.name for op in ops), "y", "b", bytes="u", **more)
    channels = Graph("x", (2, *size), (*ops, op), ()).shapes(*size)["y"].channels
    rows = ("scale", "bias", "above", "below", "offset", "sign", "byte_scale", "byte_bias")
    if kind != "concat":
        weight = rng.standard_normal((channels, 1, 1, 2)).astype(np.float32)
        ops.append(Op("s", "conv", ("x",), "s", None, {"kernel": (1, 1), "channels": channels}, {"weight": weight}))
        rows += ("gate",)
    epilogue = rng.standard_normal((len(rows), channels)).astype(np.float32)
    epilogue[rows.index("byte_bias")] += 100
    tensors = {**op.tensors, "epilogue": epilogue}
    inputs = op.inputs if kind == "concat" else (*op.inputs, "s")
    op = replace(op, inputs=inputs, tensors=tensors, epilogue=rows, clip=(-3.0, 4.0))
    return Graph("x", (2, *size), (*ops, op), tuple(Output(name, name) for name in op.written))


def images_of(size: Pair, rng: np.random.Generator) -> np.ndarray:
    return rng.standard_normal((3, 2, *size)).astype(np.float32)


@pytest.mark.parametrize("size", MAPS, ids=str)
@pytest.mark.parametrize("parts", CONCATS, ids=str)
def test_concat(parts: tuple[int, ...], size: Pair, isa: str) -> None:
    rng = np.random.default_rng(8)
    check(between("concat", list(parts), size, rng), images_of(size, rng), isa)
    plain = replace(between("concat", list(parts), size, rng).ops[-1], epilogue=(), clip=(None, None), tensors={})
    graph = between("concat", list(parts), size, rng)
    exact = replace(graph, ops=(*graph.ops[:-1], plain), outputs=tuple(Output(v, v) for v in ("y", "b", *plain.inputs)))
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
@pytest.mark.parametrize("kind", [*CURVES, "layer_norm", "multiply", "multiply by one number per channel"])
def test_values(kind: str, channels: int, size: Pair, isa: str) -> None:
    rng = np.random.default_rng(10)
    graph = between(kind.split()[0], [channels] * (2 if "multiply" in kind else 1), size, rng)
    if "one number" in kind:
        mean = Op("mean", "adaptive_avg_pool", ("v1",), "m", None, {"size": (1, 1)})
        last = graph.ops[-1]
        last = replace(last, inputs=(last.inputs[0], "m", *last.inputs[2:]))
        graph = replace(graph, ops=(*graph.ops[:-1], mean, last))
    check(graph, images_of(size, rng), isa)


@pytest.mark.parametrize("kind", CURVES)
def test_curves_everywhere(kind: str, isa: str) -> None:
    """For numbers of any size within 5e-7, of their size where that is beyond 1; tanh is odd to the bit."""
    x = np.concatenate([np.linspace(0, 12, 60_000), 10.0 ** np.linspace(-44, 37, 4_000)]).astype(np.float32)
    x = np.concatenate([x, -x]).reshape(1, 1, 256, -1)
    graph = Graph("x", x.shape[1:], (Op("y", kind, ("x",), "y"),), (Output("y", "y"),))
    got = run(graph, x, 1, isa)["y"]
    error = np.abs(got.astype(np.float64) - reference.run(graph, x)["y"])
    assert (error <= 5e-7 * (1 if kind in ("tanh", "sigmoid") else np.maximum(1, np.abs(x)))).all()
    if kind == "tanh":
        assert np.abs(got).max() == 1
        half = got.size // 2
        np.testing.assert_array_equal(got.ravel()[:half], -got.ravel()[half:])


def test_layer_norm_of_equal_numbers_and_far_from_zero(isa: str) -> None:
    """Equal numbers give 0, whatever rounding makes of their mean; a large mean takes nothing from the variance."""
    rng = np.random.default_rng(11)
    x = np.full((1, 33, 3, 3), 1.1, np.float32)
    x[:, :, 1] = 1000 + rng.standard_normal((1, 33, 3)).astype(np.float32)
    x[:, :, 2] = -7.3e8
    for eps in (1e-5, 1e-12):
        graph = Graph("x", x.shape[1:], (Op("y", "layer_norm", ("x",), "y", None, {"eps": eps}),), (Output("y", "y"),))
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
        Op("self", "tanh", ("f", "f"), "g"),
        Op("end", "concat", ("d", "g", "r"), "h"),
    ]
    graph = Graph("x", (16, 5, 6), tuple(ops), (Output("h", "h"),))
    check(graph, rng.standard_normal((18, 16, 5, 6)).astype(np.float32), isa)


def test_repeated_channels_become_bytes(isa: str) -> None:
    """An op that repeats channels runs where more than its real value is written, or something else."""
    rng = np.random.default_rng(13)
    ops = (
        Op("v", "pointwise", ("x",), "v"),
        Op("bytes", "match_channels", ("v",), None, None, {"channels": 32}, bytes="u"),
        Op("both", "match_channels", ("v",), "r", None, {"channels": 32}, bytes="w"),
        Op("sum", "pointwise", ("r", "r"), "s"),
    )
    graph = Graph("x", (16, 3, 3), ops, tuple(Output(v, v) for v in ("u", "w", "s")))
    check(graph, 9 * rng.standard_normal((2, 16, 3, 3)).astype(np.float32), isa)


POOLS = (  # kernel, stride, padding, dilation
    ((3, 3), (2, 2), (1, 1), (1, 1)),
    ((2, 2), (2, 2), (0, 0), (1, 1)),
    ((5, 2), (1, 3), (2, 0), (1, 1)),
    ((1, 1), (4, 4), (0, 0), (1, 1)),  # rows that no window has are left out
    ((3, 3), (1, 1), (0, 0), (2, 2)),
    ((2, 3), (1, 2), (0, 1), (1, 1)),
)
POOLED = (  # the convolutions before them; of an even number of columns, they take the first pool's maxima of columns
    Case(3, 40, (37, 21), kernel=(5, 5), padding=(2, 2)),
    *(Case(3, 40, (17, w), kernel=(5, 5), padding=(2, 2)) for w in (6, 8, 14, 22)),
    Case(3, 24, (30, 53), kernel=(7, 7), padding=(3, 3), stride=(2, 2)),
    Case(3, 24, (30, 56), kernel=(7, 7), padding=(3, 3), stride=(2, 2)),
)


@pytest.mark.parametrize("falls", [False, True])
@pytest.mark.parametrize("pool", POOLS, ids=str)
@pytest.mark.parametrize("case", POOLED, ids=str)
def test_a_pool_behind_a_convolution_of_bytes(case: Case, pool: tuple[Pair, ...], falls: bool, isa: str) -> None:
    """The same to the bit whether the rows are kept or not, with a hinge that rises or one that does not."""
    rng = np.random.default_rng(5)
    rows = {name: rng.normal(size=case.outputs) for name in ("scale", "bias", "below")}
    if not falls:
        rows["below"] = np.abs(rows["below"])
    epilogue = np.stack([*rows.values()]).astype(np.float32) * np.float32([[1e-3], [1], [1]])
    tap_bias = rng.normal(size=(case.kernel[0] * case.kernel[1], case.outputs)).astype(np.float32)
    tensors = conv_graph("byte_conv", case, rng).ops[0].tensors | {"epilogue": epilogue, "tap_bias": tap_bias}
    whole = conv_graph("byte_conv", case, rng, tensors=tensors, epilogue=tuple(rows), clip=(-1.0, 3.0))
    attributes = dict(zip(("kernel", "stride", "padding", "dilation"), pool, strict=True))
    behind = Op("pool", "max_pool", ("y",), "m", "s", attributes)
    fused = replace(whole, ops=(*whole.ops, behind), outputs=(Output("m", "m"), Output("s", "s")))
    shown = replace(fused, outputs=(*fused.outputs, Output("y", "y")))
    x = rng.integers(0, 256, (3, case.inputs, *case.size)).astype(np.uint8)
    want = run(shown, x, 1, isa)
    oracle = reference.run(shown, x)
    np.testing.assert_allclose(want["m"], oracle["m"], rtol=0, atol=1e-5 * np.abs(oracle["m"]).max())
    for threads in (*THREADS, 5):
        for name, value in run(fused, x, threads, isa).items():
            np.testing.assert_array_equal(value, want[name])


@pytest.mark.parametrize("seed", range(60))
def test_random_graphs(seed: int, isa: str) -> None:
    """All kinds, attributes and epilogues. Behind a near-tie bits may fall either way: such graphs are drawn anew."""
    for draw in range(seed * 100, seed * 100 + 100):
        graph = reference.random_graph(draw, ops=8)
        x, _ = reference.random_input(graph, 1 + draw % 5, np.random.default_rng(draw))
        want = reference.run(graph, x)
        if reference.margin(graph, want) > 1e-5:
            break
    else:
        pytest.fail("no graph without near-ties in a hundred")
    written = [name for op in graph.ops for name in op.written]
    got = run(replace(graph, outputs=tuple(Output(n, n) for n in written)), x, 1 + seed % 3, isa)
    for op in graph.ops:
        for name, type_ in op.written.items():
            tolerance = 2e-5 * max(1.0, float(np.abs(want[name]).max())) if type_ == "real" else 0
            np.testing.assert_allclose(got[name], want[name], rtol=0, atol=tolerance, err_msg=f"{draw} {name}")
    if len(graph.outputs) > 1:  # with fewer outputs memory is shared and ops are left out
        few = run(graph, x, 1, isa)
        for output in graph.outputs:
            np.testing.assert_array_equal(few[output.name].ravel(), got[output.value].ravel())


@pytest.mark.parametrize("images", [1, 2, 15, 16, 17, 40])
def test_an_image_gives_the_same_in_any_batch(images: int, isa: str) -> None:
    graph = reference.random_graph(12, ops=10)
    x, _ = reference.random_input(graph, images, np.random.default_rng(4))
    together = run(graph, x, 2, isa)
    for n in {0, images // 2, images - 1}:
        for name, alone in run(graph, x[n : n + 1], 1, isa).items():
            np.testing.assert_array_equal(alone[0], together[name][n])


@pytest.mark.parametrize("forced", SETS)
def test_the_forced_set_is_the_one_that_runs(forced: str) -> None:
    """In a process of its own, as a user would force it."""
    code = (
        "import numpy as np, reference\n"
        "from bbg.engine import Engine, kernel_sets\n"
        "graph = reference.random_graph(1)\n"
        "engine = Engine(reference.packed(graph), 1)\n"
        "times = engine.profile(reference.random_input(graph, 1, np.random.default_rng(0))[1])\n"
        "print(engine.kernels, {t.kernels for t in times}, [s.name for s in kernel_sets() if s.chosen])"
    )
    path = os.pathsep.join(p for p in sys.path if p)
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"BBG_ISA": forced, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == f"{forced} {{{forced!r}}} [{forced!r}]", done.stderr


@pytest.mark.parametrize("name", ["", "sse", "AVX2", "best", *({"avx512", "avx2", "neon"} - set(SETS))])
def test_a_set_that_is_not_there_is_an_error(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BBG_ISA", name)
    with pytest.raises(BbgError, match=r"this machine has .*scalar"):
        Engine(reference.packed(reference.random_graph(1)))
    with pytest.raises(BbgError, match=r"this machine has .*scalar"):
        kernel_sets()


def test_scalar_is_always_there_and_the_best_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BBG_ISA", raising=False)
    sets = kernel_sets()
    assert [s.name for s in sets] == ["avx512", "avx2", "neon", "scalar"]
    assert sets[-1].supported
    assert [s.name for s in sets if s.chosen] == [next(s.name for s in sets if s.supported)]
    assert Engine(reference.packed(reference.random_graph(1))).kernels == next(s.name for s in sets if s.chosen)
