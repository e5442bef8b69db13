"""The recipes for ImageNet on small sets in its layout: each of them trains, and what it trains goes the whole way."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from support.commands import run
from support.imagenet import write_imagenet
from support.trainings import bits

from bbg.data import open_data, open_recipe
from bbg.data.shard_writer import write_shards
from bbg.recipe import Recipe, recipe_names
from bbg.training.checkpoint import Checkpoint
from bbg.training.loop import train

torch.set_num_threads(1)

NAMES = [name for name in recipe_names() if name.startswith("imagenet_")]
SMALL = {"batch_size": 8, "epochs": 2, "size": 32, "width": 2, "bn_batches": 0, "precision": "fp32"}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_imagenet(tmp_path_factory.mktemp("imagenet") / "set", train=4, val=1)


def small(name: str) -> Recipe:
    recipe = Recipe.find(name)
    return recipe.changed({**SMALL, "activation_epochs": min(recipe.activation_epochs, 1)})


def test_there_are_recipes_for_imagenet() -> None:
    assert {"imagenet_resnet18", "imagenet_resnet34", "imagenet_resnet18_two_step"} <= set(NAMES)


def test_folders_and_shards_train_the_same_network(root: Path, tmp_path: Path) -> None:
    write_shards(open_data("imagenet", root), tmp_path / "shards", 16 * 1024)
    recipe = small("imagenet_resnet18_two_step")
    first, second = (
        train(recipe, open_recipe(recipe, data), tmp_path / data.name, device="cpu", progress=False)
        for data in (root, tmp_path / "shards")
    )
    assert bits(first.model) == bits(second.model)
    assert first.data == second.data


def test_a_training_begun_on_folders_goes_on_with_shards(root: Path, tmp_path: Path) -> None:
    write_shards(open_data("imagenet", root), tmp_path / "shards", 16 * 1024)
    recipe = small("imagenet_resnet18").changed({"epochs": 1})
    out = tmp_path / "run"
    train(recipe, open_recipe(recipe, root), out, device="cpu", progress=False)
    more = recipe.changed({"epochs": 2})
    done = train(more, open_recipe(more, tmp_path / "shards"), out, resume=True, device="cpu", progress=False)
    assert done.epoch == 2


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_goes_the_whole_way_on_200_images(name: str, tmp_path: Path) -> None:
    root = write_imagenet(tmp_path / "set", train=50, val=10)
    options = ["--set", "batch_size=8", "--set", "epochs=2", "--set", "size=64", "--set", "bn_batches=2"]
    if name.endswith("two_step"):
        taught = tmp_path / "teacher"
        assert run(
            "train", "imagenet_resnet34", *options, "--set", "method=float", "--data", root, "--out", taught, "-q"
        ) == 0  # fmt: skip
        options += ["--set", "activation_epochs=1", "--set", f"teacher={taught / 'last.ckpt'}"]
    out, packed, scores = tmp_path / "run", tmp_path / "net.bbg", tmp_path / "scores.json"
    assert run("shard", root, "--out", tmp_path / "shards") == 0
    assert run("train", name, *options, "--data", tmp_path / "shards", "--out", out, "--device", "cpu") == 0
    assert Checkpoint.load(out / "last.ckpt").epoch == 2
    assert run("convert", out / "last.ckpt", "--data", root, "-o", packed) == 0
    for data in (root, tmp_path / "shards"):
        assert run("eval", packed, "--data", data, "--json", scores) == 0
        assert json.loads(scores.read_text())["test_images"] == 40
