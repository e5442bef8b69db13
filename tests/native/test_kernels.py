"""Every kernel set of this machine against the oracle: integers equal, real values within 1e-5 of the op's largest."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from support.kernel_runs import SETS, THREADS, batch, check, run

from bbg.engine import Engine, kernel_sets
from bbg.errors import BbgError
from bbg.graph import Graph, Op, reference
from bbg.graph.file import PackedModel
from cases import random_graphs
from cases.convolutions import CASES, DEPTHWISE, LAYERS, STEMS, TILED, Case, Pair, conv_graph, conv_op


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
    graph = conv_graph("binary_conv", case, rng, real=None, bits="y", tensors={"acc_threshold": threshold})
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


@pytest.mark.parametrize("case", [*CASES, *STEMS, *TILED, *DEPTHWISE], ids=str)
def test_the_integers_of_a_convolution_of_bytes_are_exact(case: Case, isa: str) -> None:
    """Of the network's input, whose numbers lie side by side, and of bytes inside, each with an odd tap bias."""
    rng = np.random.default_rng(4)
    tap_bias = rng.integers(-9, 10, (case.kernel[0] * case.kernel[1], case.outputs)).astype(np.float32)
    tensors = conv_graph("byte_conv", case, rng).ops[0].tensors | {"tap_bias": tap_bias}
    direct = conv_graph("byte_conv", case, rng, tensors=tensors)
    x = rng.integers(0, 256, (2, case.inputs, *case.size)).astype(np.uint8)
    want = reference.run(direct, x)["y"]
    inside = replace(direct.ops[0], inputs=("b",))
    rounded = Op(
        "round",
        "pointwise",
        ("x",),
        bytes="b",
        epilogue=("byte_bias",),
        tensors={"epilogue": np.full((1, case.inputs), 2, np.float32)},
    )
    behind = replace(direct, ops=(rounded, inside), input_type="real")
    spread = np.where(x == 0, -7, np.where(x == 255, 300, x - 2.25)).astype(np.float32)  # clipped, and rounded
    for threads in THREADS:
        np.testing.assert_array_equal(Engine(PackedModel(direct), threads)(x.transpose(0, 2, 3, 1).copy())["y"], want)
        np.testing.assert_array_equal(run(behind, spread, threads, isa)["y"], want)


@pytest.mark.parametrize("case", [c for c in TILED if c.stride == (1, 1) and c.dilation == (1, 1)], ids=str)
@pytest.mark.parametrize("kind", ["real", "bytes"])
def test_a_convolution_of_bytes_adds_a_shortcut(case: Case, kind: str, isa: str) -> None:
    """The result may lie where a real shortcut did: every number is read before it is written, and once."""
    rng = np.random.default_rng(8)
    tensors = conv_graph("byte_conv", case, rng).ops[0].tensors
    ones = {"epilogue": np.ones((2, case.inputs), np.float32)}
    byte = Op("byte", "pointwise", ("x",), bytes="b", epilogue=("byte_scale", "byte_bias"), tensors=ones)
    rows = rng.standard_normal((2, case.outputs)).astype(np.float32) / 100
    start = conv_op(
        "byte_conv", case, rng, tensors=tensors | {"epilogue": rows}, inputs=("b",), epilogue=("scale", "bias")
    )
    start = replace(start, name="start", real="s")
    adds = conv_op(
        "byte_conv", case, rng, tensors=tensors | {"epilogue": rows}, inputs=("b",), epilogue=("scale", "gate")
    )
    adds = replace(adds, inputs=("b", "s"))
    if kind == "bytes":
        start = replace(start, real=None, bytes="s")
    graph = Graph("x", (case.inputs, *case.size), (byte, start, adds), ()).with_outputs("y")
    x = rng.uniform(0, 255, (2, case.inputs, *case.size)).astype(np.float32)
    want = reference.run(graph, x)["y"]
    for threads in THREADS:
        got = run(graph, x, threads, isa)["y"]
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * np.abs(want).max())


@pytest.mark.parametrize("case", DEPTHWISE, ids=str)
def test_depthwise_convolutions_inside(case: Case, isa: str) -> None:
    """Of a value that an op wrote, beside others that read it, with an epilogue and all three results."""
    rng = np.random.default_rng(7)
    parameters = ("scale", "bias", "below", "bit_threshold")
    epilogue = rng.standard_normal((4, case.outputs)).astype(np.float32)
    tensors = conv_graph("conv", case, rng).ops[0].tensors | {"epilogue": epilogue}
    more = {"inputs": ("z",), "bits": "b", "bytes": "u", "epilogue": parameters, "clip": (-2, 3)}
    behind = conv_op("conv", case, rng, tensors=tensors, **more)
    shift = {"epilogue": np.full((1, case.inputs), 2, np.float32)}
    before = Op("before", "pointwise", ("x",), "z", None, {}, shift, ("bias",))
    graph = Graph("x", (case.inputs, *case.size), (before, behind), ()).with_outputs([*behind.written, "z"])
    check(graph, batch(case, 3, rng), isa)


@pytest.mark.parametrize("clip", [(-2.0, 3.0), (0.0, np.inf), (-np.inf, 1.5)], ids=str)
@pytest.mark.parametrize("case", [*DEPTHWISE[::3], *CASES[::9]], ids=str)
def test_bytes_alone_are_those_beside_real_numbers(case: Case, clip: tuple[float, float], isa: str) -> None:
    """Where nothing else is written, the clip becomes a bound of the bytes, whichever way their scale turns it."""
    rng = np.random.default_rng(8)
    fan_in = case.kernel[0] * case.kernel[1] * case.inputs // case.groups
    rows = {
        "scale": rng.normal(size=case.outputs) * 4 / (128 * 128 * fan_in**0.5),
        "bias": rng.normal(size=case.outputs),
        "byte_scale": rng.choice([-40, 0, 25, 60], case.outputs),
        "byte_bias": rng.uniform(-20, 150, case.outputs),
    }
    tensors = conv_graph("byte_conv", case, rng).ops[0].tensors
    tensors |= {"epilogue": np.stack([*rows.values()]).astype(np.float32)}
    more = {"bytes": "u", "tensors": tensors, "epilogue": tuple(rows), "clip": clip}
    both, alone = conv_graph("byte_conv", case, rng, **more), conv_graph("byte_conv", case, rng, real=None, **more)
    x = rng.integers(0, 256, (3, case.inputs, *case.size)).astype(np.uint8)
    want = reference.run(both, x)
    got, beside = (Engine(PackedModel(g), 2)(x.transpose(0, 2, 3, 1).copy())["u"] for g in (alone, both))
    np.testing.assert_array_equal(got, beside)
    scale, bias = (rows[name].astype(np.float32)[:, None, None] for name in ("byte_scale", "byte_bias"))
    assert np.abs(got - np.clip(want["y"].astype(np.float64) * scale + bias, 0, 255)).max() <= 0.5 + 1e-3


POOLS = (  # kernel, stride, padding, dilation
    ((3, 3), (2, 2), (1, 1), (1, 1)),
    ((3, 3), (2, 2), (0, 0), (1, 1)),
    ((2, 2), (2, 2), (0, 0), (1, 1)),
    ((5, 2), (1, 3), (2, 0), (1, 1)),
    ((1, 1), (4, 4), (0, 0), (1, 1)),  # rows that no window has are left out
    ((3, 3), (1, 1), (0, 0), (2, 2)),
    ((2, 3), (1, 2), (0, 1), (1, 1)),
    # Dilated and padded: a later window begins above an earlier one, whose first tap lies beside the map.
    ((3, 3), (1, 1), (1, 1), (2, 2)),
    ((2, 1), (1, 1), (1, 0), (13, 1)),
    ((3, 2), (2, 2), (1, 1), (5, 3)),
    ((2, 3), (1, 1), (1, 1), (3, 2)),
)
POOLED = (  # the convolutions before them, which take the maxima of columns of the first pools
    Case(3, 40, (37, 21), kernel=(5, 5), padding=(2, 2)),
    *(Case(3, 40, (17, w), kernel=(5, 5), padding=(2, 2)) for w in (6, 8, 14, 22)),
    Case(3, 24, (30, 53), kernel=(7, 7), padding=(3, 3), stride=(2, 2)),
    Case(3, 24, (30, 56), kernel=(7, 7), padding=(3, 3), stride=(2, 2)),
    *(Case(3, 40, (29, w), kernel=(3, 3), stride=(2, 2)) for w in (29, 65, 73, 111)),
)


NARROW = [(Case(3, 8, (30, 1)), ((k, 1), (2, 1), (0, 0), (1, 1))) for k in (1, 2, 3)]  # a single column


@pytest.mark.parametrize("falls", [False, True])
@pytest.mark.parametrize(("case", "pool"), [*((c, p) for c in POOLED for p in POOLS), *NARROW], ids=str)
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
    fused = replace(whole, ops=(*whole.ops, behind)).with_outputs("ms")
    shown = fused.with_outputs("msy")
    x = rng.integers(0, 256, (3, case.inputs, *case.size)).astype(np.uint8)
    want = run(shown, x, 1, isa)
    oracle = reference.run(shown, x)
    np.testing.assert_allclose(want["m"], oracle["m"], rtol=0, atol=1e-5 * np.abs(oracle["m"]).max())
    for threads in THREADS:
        for name, value in run(fused, x, threads, isa).items():
            np.testing.assert_array_equal(value, want[name])


def largest(graph: Graph, op: Op, values: dict[str, np.ndarray]) -> float:
    """The largest number of an op before it is clipped, at least 1: rounding is that of the numbers that are summed."""
    free = replace(op, clip=(None, None))
    found = reference.real_of(free, [values[name] for name in op.inputs], graph.values[next(iter(op.written))])
    return max(1.0, float(np.abs(found).max()))


@pytest.mark.parametrize("seed", range(60))
def test_random_graphs(seed: int, isa: str) -> None:
    """All kinds, attributes and epilogues. Behind a near-tie bits may fall either way: such graphs are drawn anew."""
    for draw in range(seed * 100, seed * 100 + 100):
        graph = random_graphs.random_graph(draw, ops=8)
        x, _ = random_graphs.random_input(graph, 1 + draw % 5, np.random.default_rng(draw))
        want = reference.run(graph, x)
        if random_graphs.margin(graph, want) > 1e-5:
            break
    else:
        pytest.fail("no graph without near-ties in a hundred")
    written = [name for op in graph.ops for name in op.written]
    got = run(graph.with_outputs(written), x, 1 + seed % 3, isa)
    for op in graph.ops:
        for name, type_ in op.written.items():
            tolerance = 2e-5 * largest(graph, op, want) if type_ == "real" else 0
            np.testing.assert_allclose(got[name], want[name], rtol=0, atol=tolerance, err_msg=f"{draw} {name}")
    if len(graph.outputs) > 1:  # with fewer outputs memory is shared and ops are left out
        few = run(graph, x, 1, isa)
        for name, array in reference.outputs(graph, got).items():
            np.testing.assert_array_equal(few[name], array)


@pytest.mark.parametrize("images", [1, 2, 15, 16, 17, 40])
def test_an_image_gives_the_same_in_any_batch(images: int, isa: str) -> None:
    graph = random_graphs.random_graph(12, ops=10)
    x, _ = random_graphs.random_input(graph, images, np.random.default_rng(4))
    together = run(graph, x, 2, isa)
    for n in {0, images // 2, images - 1}:
        for name, alone in run(graph, x[n : n + 1], 1, isa).items():
            np.testing.assert_array_equal(alone[0], together[name][n])


@pytest.mark.parametrize("forced", SETS)
def test_the_forced_set_is_the_one_that_runs(forced: str) -> None:
    """In a process of its own, as a user would force it."""
    code = (
        "import numpy as np\n"
        "from cases import random_graphs\n"
        "from bbg.engine import Engine, kernel_sets\n"
        "graph = random_graphs.random_graph(1)\n"
        "engine = Engine(random_graphs.packed(graph), 1)\n"
        "times = engine.profile(random_graphs.random_input(graph, 1, np.random.default_rng(0))[1])\n"
        "print(engine.kernels, {t.kernels for t in times}, [s.name for s in kernel_sets() if s.chosen])"
    )
    path = os.pathsep.join(p for p in sys.path if p)
    done = subprocess.run(
        [sys.executable, "-c", code],
        check=False,
        env=os.environ | {"BBG_ISA": forced, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == f"{forced} {{{forced!r}}} [{forced!r}]", done.stderr


ABSENT = sorted({"amx", "avx512", "avx2", "neon"} - {*SETS})


@pytest.mark.parametrize("name", ["", "sse", "AVX2", "best", *ABSENT])
def test_a_set_that_is_not_there_is_an_error(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BBG_ISA", name)
    with pytest.raises(BbgError, match=r"this machine has .*scalar"):
        Engine(random_graphs.packed(random_graphs.random_graph(1)))
    with pytest.raises(BbgError, match=r"this machine has .*scalar"):
        kernel_sets()


def test_scalar_is_always_there_and_the_best_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BBG_ISA", raising=False)
    sets = kernel_sets()
    assert [s.name for s in sets] == ["amx", "avx512", "avx2", "neon", "scalar"]
    assert sets[-1].supported
    assert [s.name for s in sets if s.chosen] == [next(s.name for s in sets if s.supported)]
    assert Engine(random_graphs.packed(random_graphs.random_graph(1))).kernels == next(s.name for s in sets if s.chosen)
