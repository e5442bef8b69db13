"""The folding passes that leave bits and integers: pools of bits, float32 parameters, thresholds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.folding import RNG, binary, conv, listed, same, unfolded
from torch import nn

from bbg.conversion import passes
from bbg.conversion.passes import PASSES, fold_graph
from bbg.engine import Engine
from bbg.graph import (
    Graph,
    Op,
    Output,
    pack_bits,
    reference,
    unpack_bits,
)
from bbg.graph.file import PackedModel
from bbg.layers import Unit
from cases.random_networks import PLAIN, SHIFTED

torch.set_num_threads(1)  # small maps


def pooled(act: nn.Module) -> Graph:
    """Convolution, max-pool, batch norm with scales of both signs, nonlinearity, sign."""
    graph = unfolded(nn.Sequential(conv(), nn.MaxPool2d(2, 1, 1), nn.BatchNorm2d(4), act, binary()))
    for run in PASSES[: PASSES.index(passes.pool_on_bits)]:
        graph = run(graph)
    return graph


def test_pool_on_bits() -> None:
    """Behind a falling epilogue the pool is AND: channels 0 and 2, whose scales are negative."""
    before = pooled(nn.Hardtanh())
    after = passes.pool_on_bits(before)
    same(before, after)
    assert listed(before)[:2] == ["conv -> real", "max_pool scale bias clip -> bits"]
    assert listed(after)[:2] == ["conv scale bias clip -> bits", "max_pool_bits -> bits"]
    assert unpack_bits(after.ops[1].tensors["and_mask"][None], 4).tolist() == [[1, -1, 1, -1]]


def test_pool_on_bits_needs_a_monotone_epilogue() -> None:
    slopes = nn.PReLU(4)
    nn.init.constant_(slopes.weight, -0.5)
    before = pooled(slopes)
    assert listed(passes.pool_on_bits(before)) == listed(before)


def test_cast_to_float32() -> None:
    before = unfolded(nn.Sequential(binary(method=SHIFTED), nn.BatchNorm2d(4)))
    after = passes.cast_to_float32(before)
    same(before, after)
    assert any(array.dtype == np.float64 for op in before.ops for array in op.tensors.values())
    after.check()


def comparison(inputs: int, rows: dict[str, np.ndarray], clip: tuple[float | None, float | None]) -> Graph:
    """A sum of `inputs` signs with this epilogue, of which only bits are read."""
    outputs = len(next(iter(rows.values())))
    ops = (
        Op("sign", "pointwise", ("x",), None, "a"),
        Op(
            "sum",
            "binary_conv",
            ("a",),
            None,
            "b",
            {"kernel": (1, 1), "channels": outputs},
            {
                "weight": pack_bits(RNG.random((outputs, inputs)) < 0.5, outputs),
                "epilogue": np.stack(list(rows.values())).astype(np.float32),
            },
            tuple(rows),
            clip,
        ),
    )
    return Graph("x", (inputs, 1, 1), ops, (Output.of_flat("", "b", outputs),))


def every_sum(graph: Graph) -> np.ndarray:
    """For every filter, inputs that lead to every sum it can have: `[filters * (K + 1), K, 1, 1]`."""
    filters = unpack_bits(graph.ops[1].tensors["weight"], graph.input_shape[0]).astype(np.float32)
    count = filters.shape[1]
    agreeing = np.where(np.arange(count) < np.arange(count + 1)[:, None], 1, -1)  # [K + 1, K]
    return (filters[:, None] * agreeing).reshape(-1, count, 1, 1).astype(np.float32)


def parameters_of_all_kinds(count: int) -> dict[str, np.ndarray]:
    """Scales of both signs and 0; biases and signs that some sums meet exactly or miss by the last digit."""
    scale = RNG.choice([-1, 0, 1], count) * RNG.uniform(0.01, 2, count).astype(np.float32)
    met = RNG.integers(-9, 10, count).astype(np.float32)
    bias = (-scale * met).astype(np.float32)
    bias = np.where(RNG.random(count) < 0.5, bias, np.nextafter(bias, RNG.choice([-9, 9], count).astype(np.float32)))
    sign = RNG.choice([0.0, 0.5, -0.25], count).astype(np.float32)
    return {"scale": scale, "bias": bias.astype(np.float32), "bit_threshold": sign}


@pytest.mark.parametrize("slopes", ["none", "rising", "falling"])
@pytest.mark.parametrize("clip", [(None, None), (-1.0, 1.0), (0.0, None)])
@pytest.mark.parametrize("inputs", [7, 64, 65])
def test_thresholds_decide_as_the_epilogue_for_every_sum(
    inputs: int, clip: tuple[float | None, float | None], slopes: str
) -> None:
    rows = parameters_of_all_kinds(33)
    if slopes != "none":
        rows["below"] = np.full(33, 0.25 if slopes == "rising" else 0.0)
        rows["above"] = np.full(33, 0.3 if slopes == "rising" else -0.3)
        rows["offset"] = RNG.choice([0.0, 0.1], 33)
    before = comparison(inputs, rows, clip)
    after = passes.to_integer_thresholds(before)
    assert listed(after)[1] == "binary_conv -> bits"
    assert after.ops[1].tensors["acc_threshold"].dtype == np.int32
    after.check()
    x = every_sum(before)
    engine = Engine(PackedModel(after))
    assert np.array_equal(reference.run(before, x)["b"].ravel(), engine(x).ravel())
    if engine.kernels != "scalar":  # without a fused multiply-add a tie to the last digit may fall the other way
        assert np.array_equal(Engine(PackedModel(before))(x), engine(x))


def test_a_bit_that_changes_twice_has_no_threshold() -> None:
    """`|x| >= 2.5` is no step."""
    rows = {"scale": np.ones(2), "below": -np.ones(2), "bit_threshold": np.full(2, 2.5)}
    before = comparison(8, rows, (None, None))
    assert listed(passes.to_integer_thresholds(before)) == listed(before)


def test_a_convolution_with_a_shortcut_has_no_threshold() -> None:
    network = nn.Sequential(conv(), Unit.build(4, 4, 3, padding=1), binary())
    graph = fold_graph(unfolded(network))
    assert not any("acc_threshold" in op.tensors for op in graph.ops)


def test_only_bits_travel_without_shortcuts() -> None:
    """A plain binary network: every inner convolution ends in an integer comparison, every pool works on bits."""
    units = [
        Unit.build(4, 8, 3, padding=1, method=PLAIN, pool=nn.MaxPool2d(2)),
        Unit.build(8, 8, 3, padding=1, method=PLAIN),
    ]
    network = nn.Sequential(conv(), nn.BatchNorm2d(4), nn.Hardtanh(), *units, nn.Flatten(), nn.Linear(32, 3))
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
