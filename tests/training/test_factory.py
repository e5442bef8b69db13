"""A float network that a recipe's factory makes is binarized, trained, evaluated and converted; its names are code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from support import factories
from support.commands import refused, run
from support.trainings import bits

import bbg
from bbg.data import Split, open_data
from bbg.image import Preprocess
from bbg.layers import BinaryConv2d
from bbg.recipe import Recipe
from bbg.training.checkpoint import Checkpoint
from bbg.training.factory import binarized, call_factory, find_factory
from bbg.training.loop import LAST, train

torch.set_num_threads(1)

SIDE = 32
RECIPE = Recipe(dataset="folders", size=SIDE, epochs=1, batch_size=8, lr=0.0)
COLOUR, GREY = Preprocess(SIDE), Preprocess(SIDE, mode="L", mean=(0.3,), std=(0.4,))


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of 8 training and 4 test images."""
    root, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for half, count in (("train", 8), ("test", 4)):
        for name, low in (("dark", 0), ("light", 120)):
            (root / half / name).mkdir(parents=True)
            for i in range(count):
                noise = rng.integers(low, low + 136, (SIDE, SIDE, 3), np.uint8)
                Image.fromarray(noise).save(root / half / name / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def split(images: Path) -> Split:
    return open_data("folders", images, SIDE)


def file_of(folder: Path, *lines: str) -> Path:
    """A recipe file as a user writes it."""
    path = folder / "recipe.toml"
    path.write_text("\n".join(['dataset = "folders"', f"size = {SIDE}", "epochs = 1", "batch_size = 8", *lines]))
    return path


def test_a_network_of_torchvision_goes_all_the_way_by_a_recipe_file(images: Path, tmp_path: Path, capsys: Any) -> None:
    """Only the recipe's file says what to do: made, binarized, trained; then scored and converted by its factory."""
    factory = "torchvision.models:mobilenet_v3_small"
    recipe = file_of(
        tmp_path, f'factory = "{factory}"', 'method = "bbg-gate"', 'keep = ["first", "last", "features.1.*"]'
    )
    assert run("train", recipe, "--data", images, "--out", tmp_path / "run") == 0
    printed = capsys.readouterr().out
    assert "features.1.block.2.0" in printed
    assert "kept by 'features.1.*'" in printed
    assert "method bbg-gate: " in printed
    last, result = tmp_path / "run" / LAST, tmp_path / "out.json"
    state = Checkpoint.load(last)
    assert (state.recipe.method, state.recipe.keep) == ("bbg-gate", ("first", "last", "features.1.*"))
    assert any(name.endswith(".gate") for name in state.model)
    common = ("--data", images, "--factory", factory, "--json", result)
    assert run("eval", last, *common) == 0
    assert json.loads(result.read_text())["accuracy"] == pytest.approx(state.history[-1]["test_accuracy"])
    assert run("convert", last, "-o", tmp_path / "net.bbg", "--edges", "fp32", *common) == 0
    assert json.loads(result.read_text())["disagreements"] <= 1
    assert bbg.load(tmp_path / "net.bbg").labels == ("dark", "light")
    refused(tmp_path, capsys, "--factory package.module:function", "eval", last, "--data", images)


def test_the_verb_says_what_the_recipe_may_say(images: Path, tmp_path: Path) -> None:
    options = ("--factory", "torchvision.models:squeezenet1_1", "--set", "method=xnor", "--set", 'keep=["first"]')
    assert run("train", file_of(tmp_path), "--data", images, "--out", tmp_path / "run", *options) == 0
    recipe = Checkpoint.load(tmp_path / "run" / LAST).recipe
    assert (recipe.method, recipe.keep, recipe.factory) == ("xnor", ("first",), None)


NETWORKS = ["resnet18", "mobilenet_v2", "shufflenet_v2_x0_5", "googlenet", "squeezenet1_1"]


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_of_torchvision_are_made_and_binarized(name: str) -> None:
    """Their functions take any keyword and hand it on to a class that knows no `in_channels`."""
    made = call_factory(find_factory(f"torchvision.models:{name}"), 7, COLOUR)
    binary = binarized(made, RECIPE, COLOUR).eval()
    assert any(isinstance(module, BinaryConv2d) for module in binary.modules())
    assert binary(torch.randn(2, 3, SIDE, SIDE)).shape == (2, 7)


def test_a_network_that_is_binary_already_or_stays_float_is_left() -> None:
    ready = factories.mobilenet(2)
    assert binarized(ready, RECIPE, COLOUR) is ready
    plain = factories.squeezenet(2)
    assert binarized(plain, RECIPE.changed({"method": "float"}), COLOUR) is plain


def test_grey_images_reach_a_factory_that_takes_any_keyword() -> None:
    made = call_factory(factories.of_any_keyword, 5, Preprocess(8, mode="L", mean=(0.3,), std=(0.4,)))
    assert made(torch.zeros(2, 1, 8, 8)).shape == (2, 5)


def test_float_weights_come_in_before_the_network_becomes_binary(split: Split, tmp_path: Path) -> None:
    """With the head of 1,000 classes, as torchvision's are published; the learning rate is 0."""
    torch.manual_seed(5)
    published = torchvision.models.squeezenet1_1().state_dict()
    torch.save(published, tmp_path / "w.pth")
    recipe = RECIPE.changed({"factory": "support.factories:squeezenet", "weights": str(tmp_path / "w.pth")})
    state = train(recipe, split, tmp_path / "run", progress=False)
    taken = [name for name in published if not name.startswith("classifier")]
    for name in taken:
        layer, _, tensor = name.rpartition(".")
        found = state.model.get(f"{layer}.conv.{tensor}", state.model.get(name))
        assert torch.equal(found, published[name]), name
    assert state.model["classifier.1.weight"].shape[0] == 2


def test_a_binary_checkpoint_is_the_start_of_another_training(split: Split, tmp_path: Path) -> None:
    """Its names are those behind `binarize`."""
    recipe = RECIPE.changed({"factory": "support.factories:squeezenet", "lr": 1e-3})
    before = train(recipe, split, tmp_path / "a", progress=False)
    after = train(recipe.changed({"lr": 0.0}), split, tmp_path / "b", init=tmp_path / "a" / LAST, progress=False)
    learned = [name for name in before.model if "running" not in name and "tracked" not in name]
    assert all(bits(before.model)[name] == bits(after.model)[name] for name in learned)
    resumed = train(recipe, split, tmp_path / "a", resume=True, progress=False)
    assert bits(resumed.model) == bits(before.model)


REFUSED = {
    "it needs more": ("support.factories:needs_more", "called with (), raised TypeError: needs_more() missing 1"),
    "nothing is left": ("support.factories:pooled", "nothing is left to binarize"),
    "a misspelt pattern": ("support.factories:squeezenet", "fits no convolution or linear layer"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_made_is_one_sentence(case: str, images: Path, tmp_path: Path, capsys: Any) -> None:
    factory, words = REFUSED[case]
    keep = ["--set", 'keep=["feature.3"]'] if case == "a misspelt pattern" else []
    recipe = file_of(tmp_path, f'factory = "{factory}"')
    refused(tmp_path, capsys, words, "train", recipe, "--data", images, "--out", tmp_path / "run", *keep)
