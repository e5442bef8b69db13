"""Every folding pass by itself: what it makes of a small network, and that the oracle computes the same with it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import reference  # noqa: E402
from random_networks import PLAIN, SHIFTED, random_network  # noqa: E402
from torch import nn  # noqa: E402

import bbg.convert  # noqa: E402, F401  (registers the rules)
from bbg.convert import fold as passes  # noqa: E402
from bbg.convert.fold import PASSES, fold_graph  # noqa: E402
from bbg.convert.trace import lower_network  # noqa: E402
from bbg.engine import Engine  # noqa: E402
from bbg.graph import Graph, Op, Output, pack_bits, unpack_bits  # noqa: E402
from bbg.layers import BinaryConv2d, Unit  # noqa: E402
from bbg.packed import Model  # noqa: E402

torch.set_num_threads(1)  # small maps
RNG = np.random.default_rng(0)
Network = Callable[[torch.Tensor], torch.Tensor]


class Function(nn.Module):
    """A network whose forward is a function of its layers and the input."""

    def __init__(self, forward: Callable[..., torch.Tensor], **layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleDict(layers)
        self.function = forward

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x, **self.layers)


def settled(network: nn.Module) -> nn.Module:
    """Statistics and parameters as after a training; the scales of batch norms alternate in sign."""
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            nn.init.normal_(module.bias)
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2)
            with torch.no_grad():
                module.weight.uniform_(0.5, 2)[::2].neg_()
    return network.eval().requires_grad_(False)


def unfolded(network: nn.Module, channels: int = 4, size: int = 5) -> Graph:
    return lower_network(settled(network), torch.randn(1, channels, size, size)).graph


def listed(graph: Graph) -> list[str]:
    """One line per op: its kind, whether it has a shortcut, its rows, whether it clips, and what it writes."""
    return [
        " ".join([op.kind, *["+"] * (op.shortcut is not None), *op.epilogue, *["clip"] * (op.clip != (None, None)),
                  "->", *["real"] * (op.real is not None), *["bits"] * (op.bits is not None)])
        for op in graph.ops
    ]  # fmt: skip


def same(before: Graph, after: Graph) -> None:
    """The oracle computes the same values under the same names: bits equal, real values up to rounding."""
    x = RNG.normal(size=(3, *before.input_shape)).astype(np.float32)
    a, b = reference.run(before, x), reference.run(after, x)
    assert [output.value in b for output in after.outputs] == [True] * len(after.outputs)
    for name in set(a) & set(b):
        if a[name].dtype == np.int8:
            assert np.array_equal(a[name], b[name])
        else:
            assert np.abs(a[name] - b[name]).max() <= 1e-6 * np.abs(a[name]).max()


def conv(out: int = 4, channels: int = 4) -> nn.Module:
    return nn.Conv2d(channels, out, 3, padding=1, bias=False)


def binary(out: int = 4, channels: int = 4, method: object = "bbg") -> nn.Module:
    return BinaryConv2d(channels, out, 3, padding=1, bias=False, method=method)


norm = nn.BatchNorm2d

JOINED: dict[str, tuple[nn.Module, list[str]]] = {
    "batch norm behind a convolution": (nn.Sequential(conv(), norm(4)), ["conv scale bias -> real"]),
    "nonlinearity behind a batch norm": (
        nn.Sequential(conv(), norm(4), nn.PReLU(4), nn.Hardtanh()),
        ["conv scale bias below clip -> real"],
    ),
    "batch norm behind slopes": (nn.Sequential(conv(), nn.PReLU(4), norm(4)), ["conv above below offset -> real"]),
    "slopes behind slopes have no room": (
        nn.Sequential(conv(), nn.PReLU(4), nn.PReLU(4)),
        ["conv below -> real", "pointwise below -> real"],
    ),
    "batch norm behind a clip has no room": (
        nn.Sequential(conv(), nn.ReLU(), norm(4)),
        ["conv clip -> real", "pointwise scale bias -> real"],
    ),
    "two clips are one": (nn.Sequential(conv(), nn.ReLU6(), nn.Hardtanh()), ["conv clip -> real"]),
    "a value with two readers is kept": (
        Function(lambda x, a, b: (lambda y: y + b(y))(a(x)), a=conv(), b=nn.PReLU(4)),
        ["conv -> real", "pointwise below -> real", "pointwise + -> real"],
    ),
    "an addition joins the binary convolution": (
        Function(lambda x, a, b: a(x) + b(x), a=conv(), b=nn.Sequential(binary(), norm(4))),
        ["conv -> real", "pointwise -> bits", "binary_conv + scale bias -> real"],
    ),
    "a shortcut inside slopes": (
        Function(lambda x, a, b: b(x + a(x) * 0.5), a=nn.Sequential(conv(), norm(4)), b=nn.PReLU(4)),
        ["conv + scale bias below -> real"],
    ),
    "two shortcuts have no room": (
        Function(lambda x, a: a(x) + x + x, a=conv()),
        ["conv + -> real", "pointwise + -> real"],
    ),
    "shifts and tap biases take the factor": (
        nn.Sequential(binary(method=SHIFTED), norm(4)),
        ["pointwise sign -> bits", "binary_conv scale bias shift -> real"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", JOINED)
def test_join_epilogues(case: str) -> None:
    network, expected = JOINED[case]
    before = unfolded(network)
    after = passes.join_epilogues(before)
    same(before, after)
    assert listed(after) == expected


def fused(*ops: Op) -> Graph:
    """The ops on an input of 4 channels, through all passes; it returns what the last one writes."""
    before = Graph("x", (4, 3, 3), ops, (Output("", ops[-1].result),))
    after = fold_graph(before)
    same(before, after)
    return after


def affine(name: str, source: str, channels: int, **more: object) -> Op:
    """A batch norm."""
    tensors = {"epilogue": RNG.normal(size=(2, channels))}
    return Op(name, "pointwise", (source,), name, None, {}, tensors, ("scale", "bias"), **more)


OF_SEVERAL = {
    "concat": Op("first", "concat", ("x", "x", "x"), "first"),
    "select": Op("first", "select", ("x",), "first", None, {"channels": 6}, {"index": np.int32([3, 3, 0, 1, 2, 0])}),
    "multiply": Op("first", "multiply", ("x", "x"), "first"),
    "tanh": Op("first", "tanh", ("x",), "first"),
    "gelu": Op("first", "gelu", ("x",), "first"),
    "layer_norm": Op("first", "layer_norm", ("x",), "first"),
}


@pytest.mark.parametrize("kind", OF_SEVERAL)
def test_batch_norm_and_sign_join_every_kind(kind: str) -> None:
    """As behind the concatenations of a DenseNet."""
    first = OF_SEVERAL[kind]
    channels = {"concat": 12, "select": 6}.get(kind, 4)
    sign = Op("sign", "pointwise", ("norm",), None, "sign")
    after = fused(first, affine("norm", "first", channels), sign)
    assert listed(after) == [f"{kind} scale bias -> bits"]
    assert after.ops[0].inputs == first.inputs


@pytest.mark.parametrize("kind", OF_SEVERAL)
@pytest.mark.parametrize("swapped", [False, True])
def test_an_addition_joins_every_kind_but_a_concatenation(kind: str, swapped: bool) -> None:
    """Its other operand becomes the shortcut, behind all operands."""
    first = OF_SEVERAL[kind]
    other = affine("other", "x", 4)
    if kind == "concat":
        other = Op("other", "concat", ("x", "x", "x"), "other")
    elif kind == "select":
        other = Op("other", "match_channels", ("x",), "other", None, {"channels": 6})
    both = ("other", "first") if swapped else ("first", "other")
    kept = Op("kept", "concat", ("sum", "other"), "kept")  # reads the other operand too
    after = fused(first, other, Op("sum", "pointwise", both, "sum"), kept)
    kinds = [op.kind for op in after.ops]
    if kind == "concat":
        assert kinds == ["concat", "concat", "pointwise", "concat"]
    else:
        assert "pointwise" not in kinds[1:]
        (joined,) = (op for op in after.ops if op.kind == kind)
        assert joined.inputs == (*first.inputs, "other")


def test_only_pointwise_ops_join() -> None:
    weight = RNG.normal(size=(4, 1, 1, 4)).astype(np.float32)
    conv1 = Op("conv", "conv", ("x",), "conv", None, {"kernel": (1, 1), "channels": 4}, {"weight": weight})
    after = fused(conv1, Op("product", "multiply", ("conv", "x"), "product"), Op("tanh", "tanh", ("product",), "y"))
    assert listed(after) == ["conv -> real", "multiply -> real", "tanh -> real"]


def test_a_gate_joins_behind_two_operands() -> None:
    """`tanh(x) * x + (2 x + 1)`: factor and bias become the gate and a bias, all operands stay."""
    half = Op("half", "pointwise", ("x",), "half", None, {}, {"epilogue": RNG.normal(size=(2, 4))}, ("scale", "bias"))
    ops = (half, Op("t", "tanh", ("x",), "t"), Op("m", "multiply", ("t", "x", "half"), "m"))
    after = fused(*ops)
    assert listed(after) == ["tanh -> real", "multiply + bias gate -> real"]
    assert after.ops[1].inputs == ("t", "x", "x")


def test_a_gate_that_is_an_operand_too_is_kept() -> None:
    after = fused(affine("a", "x", 4), Op("m", "multiply", ("x", "a", "a"), "m"))
    assert listed(after) == ["pointwise scale bias -> real", "multiply + -> real"]


def test_a_pool_behind_a_concatenation_works_on_its_bits() -> None:
    pool = Op("pool", "max_pool", ("first",), "pool", None, {"kernel": (2, 2)})
    sign = Op("sign", "pointwise", ("norm",), None, "sign")
    after = fused(OF_SEVERAL["concat"], pool, affine("norm", "pool", 12), sign)
    assert listed(after) == ["concat scale bias -> bits", "max_pool_bits -> bits"]
    assert after.ops[0].inputs == ("x", "x", "x")


def test_operands_change_places_with_their_rows() -> None:
    """`2 x + 3 conv(x)` joins the convolution, which is the second operand: 3 becomes its scale, 2 its gate."""
    weight = RNG.normal(size=(4, 1, 1, 4)).astype(np.float32)
    rows = np.array([[2.0] * 4, [3.0] * 4])
    ops = (
        Op("conv", "conv", ("x",), "a", None, {"kernel": (1, 1), "channels": 4}, {"weight": weight}),
        Op("add", "pointwise", ("x", "a"), "y", None, {}, {"epilogue": rows}, ("scale", "gate")),
    )
    before = Graph("x", (4, 2, 2), ops, (Output("", "y"),))
    after = passes.join_epilogues(before)
    same(before, after)
    assert listed(after) == ["conv + scale gate -> real"]


def test_join_gates() -> None:
    """`act(BN(conv x) + gate x)`, x read by both: the gate cannot join the op that writes x."""
    unit = Unit(4, 4, 3, padding=1, act="prelu")
    nn.init.normal_(unit.gate)
    before = passes.join_epilogues(unfolded(unit))
    after = passes.join_gates(before)
    same(before, after)
    assert listed(before)[1:] == ["pointwise scale -> real", "binary_conv + scale bias below -> real"]
    assert listed(after)[1:] == ["binary_conv + scale bias gate below -> real"]


def test_join_gates_with_a_bias() -> None:
    gate = torch.tensor([[[2.0]], [[3.0]]])
    network = Function(lambda x, a: a(x) + (x * gate + 1.0), a=conv(2, 2))
    before = passes.join_epilogues(unfolded(network, channels=2))
    after = passes.join_gates(before)
    same(before, after)
    assert listed(after) == ["conv + bias gate -> real"]


def test_join_signs() -> None:
    """Two equal signs of a value become one packed output; a third with other thresholds stays an op."""
    network = Function(lambda x, stem, a, b, c: (lambda y: a(y) + b(y) + c(y))(stem(x)),
                       stem=conv(), a=binary(), b=binary(), c=binary(method=SHIFTED))  # fmt: skip
    before = passes.join_epilogues(unfolded(network))
    after = passes.join_signs(before)
    same(before, after)
    assert sum("-> bits" in line for line in listed(before)) == 3
    assert listed(after)[0] == "conv -> real bits"
    assert [line for line in listed(after) if line.startswith("pointwise")] == ["pointwise sign -> bits"]


def test_drop_unread() -> None:
    """A stem of which only the bits are read stores no real value; a branch without an end is gone."""
    network = Function(lambda x, a, b, c: (b(a(x)), c(a(x)))[0], a=conv(), b=binary(), c=conv())
    before = passes.join_signs(passes.join_epilogues(unfolded(network)))
    after = passes.drop_unread(before)
    same(before, after)
    assert listed(after) == ["conv -> bits", "binary_conv scale -> real"]


def pooled(act: nn.Module) -> Graph:
    """Convolution, max-pool, batch norm with scales of both signs, nonlinearity, sign."""
    graph = unfolded(nn.Sequential(conv(), nn.MaxPool2d(2, 1, 1), norm(4), act, binary()))
    for run in PASSES[: PASSES.index(passes.pool_bits)]:
        graph = run(graph)
    return graph


def test_pool_bits() -> None:
    """Behind a falling epilogue the pool is AND: channels 0 and 2, whose scales are negative."""
    before = pooled(nn.Hardtanh())
    after = passes.pool_bits(before)
    same(before, after)
    assert listed(before)[:2] == ["conv -> real", "max_pool scale bias clip -> bits"]
    assert listed(after)[:2] == ["conv scale bias clip -> bits", "max_pool_bits -> bits"]
    assert unpack_bits(after.ops[1].tensors["and_mask"][None], 4).tolist() == [[1, -1, 1, -1]]


def test_pool_bits_needs_a_monotone_epilogue() -> None:
    slopes = nn.PReLU(4)
    nn.init.constant_(slopes.weight, -0.5)
    before = pooled(slopes)
    assert listed(passes.pool_bits(before)) == listed(before)


def test_narrow() -> None:
    before = unfolded(nn.Sequential(binary(method=SHIFTED), norm(4)))
    after = passes.narrow(before)
    same(before, after)
    assert any(array.dtype == np.float64 for op in before.ops for array in op.tensors.values())
    after.check()


def comparison(inputs: int, rows: dict[str, np.ndarray], clip: tuple[float | None, float | None]) -> Graph:
    """A sum of `inputs` signs with this epilogue, of which only bits are read."""
    outputs = len(next(iter(rows.values())))
    ops = (
        Op("sign", "pointwise", ("x",), None, "a"),
        Op("sum", "binary_conv", ("a",), None, "b", {"kernel": (1, 1), "channels": outputs},
           {"weight": pack_bits(RNG.random((outputs, inputs)) < 0.5, outputs),
            "epilogue": np.stack(list(rows.values())).astype(np.float32)}, tuple(rows), clip),
    )  # fmt: skip
    return Graph("x", (inputs, 1, 1), ops, (Output("", "b", True),))


def every_sum(graph: Graph) -> np.ndarray:
    """For every filter, inputs that lead to every sum it can have: `[filters * (K + 1), K, 1, 1]`."""
    filters = unpack_bits(graph.ops[1].tensors["weight"], graph.input_shape[0]).astype(np.float32)
    count = filters.shape[1]
    agreeing = np.where(np.arange(count) < np.arange(count + 1)[:, None], 1, -1)  # [K + 1, K]
    return (filters[:, None] * agreeing).reshape(-1, count, 1, 1).astype(np.float32)


def rows_of_all_kinds(count: int) -> dict[str, np.ndarray]:
    """Scales of both signs and 0; biases and signs that some sums meet exactly or miss by the last digit."""
    scale = RNG.choice([-1, 0, 1], count) * RNG.uniform(0.01, 2, count).astype(np.float32)
    met = RNG.integers(-9, 10, count).astype(np.float32)
    bias = (-scale * met).astype(np.float32)
    bias = np.where(RNG.random(count) < 0.5, bias, np.nextafter(bias, RNG.choice([-9, 9], count).astype(np.float32)))
    sign = RNG.choice([0.0, 0.5, -0.25], count).astype(np.float32)
    return {"scale": scale, "bias": bias.astype(np.float32), "sign": sign}


@pytest.mark.parametrize("slopes", ["none", "rising", "falling"])
@pytest.mark.parametrize("clip", [(None, None), (-1.0, 1.0), (0.0, None)])
@pytest.mark.parametrize("inputs", [7, 64, 65])
def test_thresholds_decide_as_the_epilogue_for_every_sum(inputs: int, clip: tuple[float | None, float | None],
                                                         slopes: str) -> None:  # fmt: skip
    rows = rows_of_all_kinds(33)
    if slopes != "none":
        rows["below"] = np.full(33, 0.25 if slopes == "rising" else 0.0)
        rows["above"] = np.full(33, 0.3 if slopes == "rising" else -0.3)
        rows["offset"] = RNG.choice([0.0, 0.1], 33)
    before = comparison(inputs, rows, clip)
    after = passes.to_thresholds(before)
    assert listed(after)[1] == "binary_conv -> bits"
    assert after.ops[1].tensors["threshold"].dtype == np.int32
    after.check()
    x = every_sum(before)
    engine = Engine(Model(after))
    assert np.array_equal(reference.run(before, x)["b"].ravel(), engine(x).ravel())
    if engine.kernels != "scalar":  # without a fused multiply-add a tie to the last digit may fall the other way
        assert np.array_equal(Engine(Model(before))(x), engine(x))


def test_a_bit_that_changes_twice_has_no_threshold() -> None:
    """`|x| >= 2.5` is no step."""
    rows = {"scale": np.ones(2), "below": -np.ones(2), "sign": np.full(2, 2.5)}
    before = comparison(8, rows, (None, None))
    assert listed(passes.to_thresholds(before)) == listed(before)


def test_a_convolution_with_a_shortcut_has_no_threshold() -> None:
    network = nn.Sequential(conv(), Unit(4, 4, 3, padding=1), binary())
    graph = fold_graph(unfolded(network))
    assert not any("threshold" in op.tensors for op in graph.ops)


def test_only_bits_travel_without_shortcuts() -> None:
    """A plain binary network: every inner convolution ends in an integer comparison, every pool works on bits."""
    units = [Unit(4, 8, 3, padding=1, method=PLAIN, pool=nn.MaxPool2d(2)), Unit(8, 8, 3, padding=1, method=PLAIN)]
    network = nn.Sequential(conv(), norm(4), nn.Hardtanh(), *units, nn.Flatten(), nn.Linear(32, 3))
    before = unfolded(network, size=4)
    after = fold_graph(before)
    same(before, after)
    assert listed(after) == [
        "conv scale bias clip -> bits",
        "binary_conv -> bits",
        "max_pool_bits -> bits",
        "binary_conv scale bias clip -> real",
        "conv bias -> real",
    ]


@pytest.mark.parametrize("seed", range(40))
def test_every_pass_keeps_what_a_random_network_computes(seed: int) -> None:
    network, example, _ = random_network(seed)
    before = lower_network(network.requires_grad_(False), example[:1]).graph
    x = example.numpy()
    values = reference.run(before, x)
    if reference.margin(before, values) < 1e-5:
        pytest.skip("a near-tie may fall the other way")
    graph = before
    for run in PASSES:
        graph = run(graph)
        for name, value in reference.run(graph, x).items():
            if name in values:
                difference = np.abs(value.astype(np.float64) - values[name])
                assert difference.max() <= 1e-5 * np.abs(values[name]).max(), (run.__name__, name)
    graph.check()
