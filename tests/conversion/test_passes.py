"""Every folding pass by itself: what it makes of a small network, and that the oracle computes the same with it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from support.folding import RNG, binary, conv, listed, same, unfolded
from support.lowering import Functional
from torch import nn

from bbg.conversion import passes
from bbg.conversion.lowering import lower_network
from bbg.conversion.passes import PASSES, fold_graph
from bbg.graph import (
    Graph,
    Op,
    reference,
)
from bbg.layers import BinaryConv2d, Shortcut, Unit
from cases import random_graphs
from cases.random_networks import SHIFTED, random_network

torch.set_num_threads(1)  # small maps
Network = Callable[[torch.Tensor], torch.Tensor]
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
        Functional(lambda x, a, b: (lambda y: y + b(y))(a(x)), a=conv(), b=nn.PReLU(4)),
        ["conv -> real", "pointwise below -> real", "pointwise + -> real"],
    ),
    "an addition joins the binary convolution": (
        Functional(lambda x, a, b: a(x) + b(x), a=conv(), b=nn.Sequential(binary(), norm(4))),
        ["conv -> real", "pointwise -> bits", "binary_conv + scale bias -> real"],
    ),
    "a shortcut inside slopes": (
        Functional(lambda x, a, b: b(x + a(x) * 0.5), a=nn.Sequential(conv(), norm(4)), b=nn.PReLU(4)),
        ["conv + scale bias below -> real"],
    ),
    "two shortcuts have no room": (
        Functional(lambda x, a: a(x) + x + x, a=conv()),
        ["conv + -> real", "pointwise + -> real"],
    ),
    "shifts and tap biases take the factor": (
        nn.Sequential(binary(method=SHIFTED), norm(4)),
        ["pointwise bit_threshold -> bits", "binary_conv scale bias shift -> real"],
    ),
}


@pytest.mark.parametrize("case", JOINED)
def test_fuse_epilogues(case: str) -> None:
    network, expected = JOINED[case]
    before = unfolded(network)
    after = passes.fuse_epilogues(before)
    same(before, after)
    assert listed(after) == expected


zeros = torch.nn.functional.pad


def narrow(**options: object) -> nn.Module:
    return nn.Conv2d(4, 4, 3, **options)


def padded(pad: tuple[int, ...], **options: object) -> nn.Module:
    """A convolution of a map with zeros around, or with fewer rows."""
    return Functional(lambda x, a: a(zeros(x, pad)), a=narrow(**options))


PADDED: dict[str, tuple[nn.Module, tuple[tuple[int, int], tuple[int, int]] | None]] = {  # kernel and padding then
    "on all sides": (padded((1, 1, 2, 2)), ((3, 3), (2, 1))),
    "on two sides, with a stride": (padded((0, 1, 0, 1), stride=2), ((4, 4), (1, 1))),
    "on the others": (padded((2, 0, 1, 0), stride=(1, 2)), ((4, 5), (1, 2))),
    "with padding of its own": (padded((0, 1, 3, 1), padding=1), ((5, 4), (4, 2))),
    "depthwise": (padded((0, 1, 0, 1), groups=4, stride=2), ((4, 4), (1, 1))),
    "a dilation apart": (padded((0, 2, 2, 0), dilation=2), ((4, 4), (2, 2))),
    "not a dilation apart": (padded((0, 1, 0, 0), dilation=2), None),
    "fewer rows": (padded((0, 0, -1, 0)), None),
    "read twice": (
        Functional(lambda x, a: (lambda y: a(y) + y[:, :, 2:, 2:])(zeros(x, (1, 1, 1, 1))), a=narrow()),
        None,
    ),
    "before a binary one": (
        Functional(lambda x, a: a(zeros(x, (0, 1, 0, 1))), a=BinaryConv2d(4, 4, 3, bias=False)),
        None,
    ),
}


@pytest.mark.parametrize("case", PADDED)
def test_fold_padding(case: str) -> None:
    network, expected = PADDED[case]
    lowered = lower_network(network.eval().requires_grad_(False), torch.randn(1, 4, 7, 6))
    images = torch.randn(2, 4, 7, 6)
    given = reference.outputs(lowered.graph, reference.run(lowered.graph, images.numpy()))[""]
    wanted = network(images).numpy()
    assert np.abs(given - wanted).max() <= 1e-5 * np.abs(wanted).max()
    first = lowered.graph.ops[0]
    window = (first.attributes["kernel"], first.attributes["padding"])
    assert (window if len(lowered.graph.ops) == 1 else None) == expected


def fused(*ops: Op) -> Graph:
    """The ops on an input of 4 channels, through all passes; it returns what the last one writes."""
    before = Graph("x", (4, 3, 3), ops, ()).with_outputs([ops[-1].result])
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
    "tanh": Op("first", "unary", ("x",), "first", None, {"function": "tanh"}),
    "gelu": Op("first", "unary", ("x",), "first", None, {"function": "gelu"}),
    "layer_norm": Op("first", "layer_norm", ("x",), "first"),
}


@pytest.mark.parametrize("kind", OF_SEVERAL)
def test_batch_norm_and_sign_join_every_kind(kind: str) -> None:
    """As behind the concatenations of a DenseNet."""
    first = OF_SEVERAL[kind]
    channels = {"concat": 12, "select": 6}.get(kind, 4)
    sign = Op("sign", "pointwise", ("norm",), None, "sign")
    after = fused(first, affine("norm", "first", channels), sign)
    assert listed(after) == [f"{first.kind} scale bias -> bits"]
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
        (joined,) = (op for op in after.ops if op.kind == first.kind)
        assert joined.inputs == (*first.inputs, "other")


def test_only_pointwise_ops_join() -> None:
    weight = RNG.normal(size=(4, 1, 1, 4)).astype(np.float32)
    conv1 = Op("conv", "conv", ("x",), "conv", None, {"kernel": (1, 1), "channels": 4}, {"weight": weight})
    after = fused(
        conv1,
        Op("product", "multiply", ("conv", "x"), "product"),
        Op("tanh", "unary", ("product",), "y", None, {"function": "tanh"}),
    )
    assert listed(after) == ["conv -> real", "multiply -> real", "unary -> real"]


def test_a_gate_joins_behind_two_operands() -> None:
    """`tanh(x) * x + (2 x + 1)`: factor and bias become the gate and a bias, all operands stay."""
    half = Op("half", "pointwise", ("x",), "half", None, {}, {"epilogue": RNG.normal(size=(2, 4))}, ("scale", "bias"))
    ops = (
        half,
        Op("t", "unary", ("x",), "t", None, {"function": "tanh"}),
        Op("m", "multiply", ("t", "x", "half"), "m"),
    )
    after = fused(*ops)
    assert listed(after) == ["unary -> real", "multiply + bias gate -> real"]
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
    before = Graph("x", (4, 2, 2), ops, ()).with_outputs(["y"])
    after = passes.fuse_epilogues(before)
    same(before, after)
    assert listed(after) == ["conv + scale gate -> real"]


@pytest.mark.parametrize("swapped", [False, True])
def test_fuse_gate_into_add(swapped: bool) -> None:
    gate = torch.tensor([[[2.0]], [[3.0]], [[-1.0]], [[0.5]]])
    repeated = Functional(lambda x, shortcut: shortcut(x, (5, 5)) * gate, shortcut=Shortcut(4))
    network = Functional(lambda x, a, r: r(x) + a(x) if swapped else a(x) + r(x), a=conv(4, 2), r=repeated)
    before = unfolded(network, channels=2)
    after = passes.fuse_gate_into_add(before)
    same(before, after)
    assert listed(after)[-1] == "pointwise + gate -> real"
    joined = passes.fuse_epilogues(after)
    same(before, joined)
    assert sorted(listed(joined)) == ["conv + gate -> real", "match_channels -> real"]


def test_fuse_gates() -> None:
    """`act(BN(conv x) + gate x)`, x read by both: the gate cannot join the op that writes x."""
    unit = Unit.build(4, 4, 3, padding=1, act="prelu")
    nn.init.normal_(unit.gate)
    before = passes.fuse_epilogues(unfolded(unit))
    after = passes.fuse_gates(before)
    same(before, after)
    assert listed(before)[1:] == ["pointwise scale -> real", "binary_conv + scale bias below -> real"]
    assert listed(after)[1:] == ["binary_conv + scale bias gate below -> real"]


def test_fuse_gates_with_a_bias() -> None:
    gate = torch.tensor([[[2.0]], [[3.0]]])
    network = Functional(lambda x, a: a(x) + (x * gate + 1.0), a=conv(2, 2))
    before = passes.fuse_epilogues(unfolded(network, channels=2))
    after = passes.fuse_gates(before)
    same(before, after)
    assert listed(after) == ["conv + bias gate -> real"]


def test_fuse_signs() -> None:
    """Two equal signs of a value become one packed output; a third with other thresholds stays an op."""
    network = Functional(
        lambda x, stem, a, b, c: (lambda y: a(y) + b(y) + c(y))(stem(x)),
        stem=conv(),
        a=binary(),
        b=binary(),
        c=binary(method=SHIFTED),
    )
    before = passes.fuse_epilogues(unfolded(network))
    after = passes.fuse_signs(before)
    same(before, after)
    assert sum("-> bits" in line for line in listed(before)) == 3
    assert listed(after)[0] == "conv -> real bits"
    assert [line for line in listed(after) if line.startswith("pointwise")] == ["pointwise bit_threshold -> bits"]


def test_drop_unread() -> None:
    """A stem of which only the bits are read stores no real value; a branch without an end is gone."""
    network = Functional(lambda x, a, b, c: (b(a(x)), c(a(x)))[0], a=conv(), b=binary(), c=conv())
    before = passes.fuse_signs(passes.fuse_epilogues(unfolded(network)))
    after = passes.drop_unread(before)
    same(before, after)
    assert listed(after) == ["conv -> bits", "binary_conv scale -> real"]


@pytest.mark.parametrize("seed", range(40))
def test_every_pass_keeps_what_a_random_network_computes(seed: int) -> None:
    network, example, _ = random_network(seed)
    before = lower_network(network.requires_grad_(False), example[:1]).graph
    x = example.numpy()
    values = reference.run(before, x)
    if random_graphs.margin(before, values) < 1e-5:
        pytest.skip("a near-tie may fall the other way")
    graph = before
    for run in PASSES:
        graph = run(graph)
        for name, value in reference.run(graph, x).items():
            if name in values:
                difference = np.abs(value.astype(np.float64) - values[name])
                assert difference.max() <= 1e-5 * np.abs(values[name]).max(), (run.__name__, name)
    graph.check()
