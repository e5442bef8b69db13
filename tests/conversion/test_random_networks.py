"""The layer law on random networks: converted, folded, run by the engine, each value against torch on the same inputs.

Seeds are fixed; the corner cases that they draw are counted.
"""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

import bbg
from bbg.conversion.lowering import lower_network
from bbg.conversion.passes import fold_graph
from bbg.graph import file as packed
from bbg.graph import reference
from bbg.graph.kinds import KINDS
from cases import random_graphs
from cases.functional import Functional
from cases.random_networks import TRAITS, random_network

SEEDS = range(260)
torch.set_num_threads(1)  # small maps


def test_enough_corner_cases() -> None:
    counts = Counter(trait for seed in SEEDS for trait in random_network(seed)[2])
    assert len(SEEDS) >= 200
    assert {trait: counts[trait] for trait in TRAITS if counts[trait] < 20} == {}


def test_enough_ops_of_every_kind() -> None:
    """In graphs as they are written, where some of what was drawn has become a part of another op."""
    counts: Counter[str] = Counter()
    for seed in SEEDS:
        network, example, _ = random_network(seed)
        with torch.no_grad():
            counts.update({op.kind for op in fold_graph(lower_network(network, example[:1]).graph).ops})
    few = {kind: counts[kind] for kind in KINDS if counts[kind] < (8 if kind == "max_pool_bits" else 15)}
    assert few == {"byte_conv": 0}  # those are the edges in 8 bits


@pytest.mark.parametrize("seed", SEEDS[::3])
def test_edges_in_8_bits_match_torch_with_the_same_edges(seed: int, tmp_path: Path) -> None:
    """The same law; and on pixels the oracle, which knows no torch, says the same as the engine."""
    network, example, _ = random_network(seed)
    channels, *size = example.shape[1:]
    mode = {1: "L", 3: "RGB"}.get(channels)
    preprocess = mode and bbg.Preprocess(tuple(size), mode=mode, mean=(0.4,) * channels, std=(0.3,) * channels)
    report = bbg.convert(network, tmp_path / "net.bbg", example, edges="int8", preprocess=preprocess)
    assert report.difference <= 1e-5
    assert report.agreement.divergence <= 1e-5
    model = packed.read(tmp_path / "net.bbg")
    still_real = [op for op in model.graph.ops if op.kind == "conv"]
    assert all(op.inputs[0] == model.graph.input_name and mode is None for op in still_real)
    x, images = random_graphs.random_input(model.graph, 3, np.random.default_rng(seed))
    oracle = reference.run(model.graph, x)
    if random_graphs.margin(model.graph, oracle) > 1e-5:
        given = bbg.load(tmp_path / "net.bbg")(images)
        wanted = reference.outputs(model.graph, oracle)[""]
        assert given.shape == wanted.shape
        assert abs(given - wanted).max() <= 1e-5 * max(abs(wanted).max(), 1e-30)


def test_depthwise_convolutions_become_bytes(tmp_path: Path) -> None:
    """A block of MobileNetV2, of pixels too: no real number stands between its layers, and torch says the same."""
    conv = torch.nn.Conv2d
    deep = conv(3, 3, 3, padding=1, groups=3)
    block = [conv(3, 40, 1), torch.nn.ReLU6(), conv(40, 40, 5, 2, 2, groups=40), torch.nn.ReLU6(), conv(40, 8, 1)]
    wide = [conv(8, 16, 3, padding=(2, 3), dilation=(2, 3), groups=8), conv(16, 5, 1, groups=1)]  # two filters each
    model = torch.nn.Sequential(deep, *block, *wide)
    preprocess = bbg.Preprocess(16)
    report = bbg.convert(model, tmp_path / "net.bbg", torch.randn(3, 3, 16, 16), edges="int8", preprocess=preprocess)
    ops = packed.read(tmp_path / "net.bbg").graph.ops
    assert [op.kind for op in ops] == ["byte_conv"] * 6
    assert [tuple(op.written.values()) for op in ops] == [("bytes",)] * 5 + [("real",)]
    assert report.difference <= 1e-5


def test_bytes_come_from_what_joins_and_picks(tmp_path: Path) -> None:
    """A 1x1 convolution behind a concatenation or a selection reads the bytes that it writes, and nothing else."""
    conv = torch.nn.Conv2d
    branches = Functional(lambda x, a, b: torch.cat([a(x), b(x)], 1), conv(3, 8, 3, padding=1), conv(3, 9, 1))
    parts = Functional(lambda x: x[:, 1:8:2])
    shuffle = torch.nn.ChannelShuffle(2)
    model = torch.nn.Sequential(branches, conv(17, 8, 1), parts, conv(4, 6, 1), shuffle, conv(6, 5, 1))
    preprocess = bbg.Preprocess(16)
    report = bbg.convert(model, tmp_path / "net.bbg", torch.randn(3, 3, 16, 16), edges="int8", preprocess=preprocess)
    assert report.difference <= 1e-5
    ops = packed.read(tmp_path / "net.bbg").graph.ops
    convs = ["byte_conv", "byte_conv", "concat", "byte_conv", "select", "byte_conv", "select", "byte_conv"]
    assert [op.kind for op in ops] == convs
    for op, then in pairwise(ops):
        if op.kind in ("concat", "select"):
            assert tuple(op.written) == (op.bytes,) == then.inputs


@pytest.mark.parametrize("seed", SEEDS)
def test_converts_and_matches_torch(seed: int, tmp_path: Path) -> None:
    """`convert` enforces the law; here the file it wrote is run again, by the oracle too."""
    network, example, _ = random_network(seed)
    report = bbg.convert(network, tmp_path / "net.bbg", example)
    assert report.difference <= 1e-5
    assert report.findings
    assert report.after == (tmp_path / "net.bbg").stat().st_size
    model = packed.read(tmp_path / "net.bbg")
    given = bbg.load(tmp_path / "net.bbg")(example.numpy())
    oracle = reference.run(model.graph, example.numpy())
    if random_graphs.margin(model.graph, oracle) > 1e-5:  # else a near-tie may fall the other way
        wanted = reference.outputs(model.graph, oracle)[""]
        assert given.shape == wanted.shape
        assert abs(given - wanted).max() <= 1e-5 * max(abs(wanted).max(), 1e-30)
