"""Public networks go the whole way: a dozen of the sample in the default run, all of it behind the mark `sample`."""

from __future__ import annotations

import pytest

from bench.generality import cause_of, row_of
from cases.public_networks import has_attention, names

SOME = (
    "timm/regnety_002",
    "timm/starnet_s150",
    "timm/fasternet_t1",
    "timm/efficientnet_blur_b0",
    "timm/lcnetv2_base",
    "torchvision/squeezenet1_1",
    "torchvision/deeplabv3_mobilenet_v3_large",
    "timm/tinynet_b",
    "pytorchcv/diapreresnet20_cifar100",
    "pytorchcv/shufflenet_g3_w1",
    "smp/FPN",
    "smp/PSPNet",
)


def test_the_sample_is_drawn_by_rule_and_large_enough() -> None:
    sample = names()
    assert len([name for name in sample if not has_attention(name)]) >= 200
    assert set(SOME) <= set(sample)
    assert len(sample) == len(set(sample))


@pytest.mark.parametrize("name", SOME)
def test_some_go_the_whole_way(name: str) -> None:
    row = row_of(name)
    assert (row["outcome"], row.get("cause")) == ("ok", None)
    assert row["one_sign"] <= 0.2 * row["binary_layers"]  # a few see maps of some pixels of a single image


@pytest.mark.sample
@pytest.mark.parametrize("name", names())
def test_the_sample(name: str) -> None:
    row = row_of(name)
    assert row["outcome"] in ("ok", "refused", "unusable"), row.get("cause")


def test_a_cause_is_told_without_names() -> None:
    row = {"cause": "a.b.3 (Conv2d) at net.py:12: pools [3, 4] to 2; do this"}
    assert cause_of(row) == "pools [N, N] to N"
