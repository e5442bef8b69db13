"""What a training on ImageNet takes, on paper."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")

from support.paths import ROOT

from bbg.recipe import Recipe
from bench.imagenet import DEVICES, IMAGES, TESTS, cost, disk, loading_speed


def test_a_cost_is_the_sum_over_the_epochs() -> None:
    one = cost(1000, epochs=256, batch=512)
    assert (one.steps_per_epoch, one.steps) == (2502, 640_512)
    assert one.device_hours == one.hours == pytest.approx(256 * (2502 * 512 + TESTS / 3) / 1000 / 3600)
    many = cost(1000, 256, 512, devices=8, efficiency=0.9)
    assert many.hours == pytest.approx(one.hours / 8 / 0.9)
    assert many.device_hours == pytest.approx(one.hours / 0.9)
    assert many.loaded_per_s == 7200


def test_the_table_of_the_guide_is_that_of_the_sum() -> None:
    """The guide states the sum for 1,000 images per second, which every other speed divides."""
    text = (ROOT / "docs" / "guides" / "imagenet.md").read_text(encoding="utf-8")
    for name in ("imagenet_resnet18", "imagenet_resnet18_two_step"):
        recipe = Recipe.find(name)
        found = [cost(1000, recipe.epochs, recipe.batch_size, count) for count in DEVICES]
        hours = " | ".join(f"{one.hours:,.1f}" for one in found)
        assert f"| `{name}` | {recipe.epochs} | {found[0].steps:,} | {found[0].device_hours:,.1f} | {hours} |" in text
    size = disk()
    assert f"{size['folders_gb']:.0f} GB in folders, {size['shards_gb']:.0f} GB in {size['shards']:,.0f} shards" in text
    assert f"{IMAGES:,}" in text


def test_loading_is_measured_over_files() -> None:
    assert loading_speed(Recipe.find("imagenet_resnet18").changed({"size": 32}), batch=4, count=4) > 0
