"""The layer law on random networks: converted, folded, run by the engine, each value against torch on the same inputs.

Seeds are fixed; the corner cases that they draw are counted.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

import reference  # noqa: E402
from random_networks import TRAITS, random_network  # noqa: E402

import bbg  # noqa: E402
from bbg import packed  # noqa: E402

SEEDS = range(220)
torch.set_num_threads(1)  # small maps


def test_enough_corner_cases() -> None:
    counts = Counter(trait for seed in SEEDS for trait in random_network(seed)[2])
    assert len(SEEDS) >= 200
    assert {trait: counts[trait] for trait in TRAITS if counts[trait] < 20} == {}


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
    if reference.margin(model.graph, oracle) > 1e-5:  # else a near-tie may fall the other way
        (output,) = model.graph.outputs
        wanted = oracle[output.value].reshape(given.shape)
        assert abs(given - wanted).max() <= 1e-5 * max(abs(wanted).max(), 1e-30)
