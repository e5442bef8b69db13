"""`bbg.fit` trains any module; `--factory` names it again for resume, eval and convert, and no checkpoint can."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from support import factories
from support.commands import refused, run
from support.trainings import Stop, after, bits, first, stop
from torch import nn

import bbg
from bbg.data import Split, open_data
from bbg.errors import BbgError
from bbg.recipe import Recipe
from bbg.training.checkpoint import Checkpoint
from bbg.training.factory import call_factory, find_factory
from bbg.training.folder import LAST
from bbg.training.loop import train

torch.set_num_threads(1)

MOBILENET = "support.factories:mobilenet"
RECIPE = Recipe(
    dataset="folders", size=factories.SIDE, epochs=2, batch_size=8, lr=2e-3, checkpoint_steps=2, bn_batches=2
)
DIGITS = Recipe(dataset="digits", epochs=1, batch_size=32, flip=False, crop_padding=0)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two classes, dark and light noise: 40 training and 12 test images."""
    root, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for half, count in (("train", 20), ("test", 6)):
        for name, low in (("dark", 0), ("light", 120)):
            (root / half / name).mkdir(parents=True)
            for i in range(count):
                noise = rng.integers(low, low + 136, (factories.SIDE, factories.SIDE, 3), np.uint8)
                Image.fromarray(noise).save(root / half / name / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def split(images: Path) -> Split:
    return open_data("folders", images, factories.SIDE)


@pytest.fixture(scope="module")
def fitted(split: Split, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a binarized torchvision network, trained."""
    out = tmp_path_factory.mktemp("fitted")
    module = factories.mobilenet(2)
    state = bbg.fit(module, RECIPE, split, out=out, progress=False)
    assert bits(state.model) == bits(module.state_dict()), "it is changed in place"
    return out


@pytest.fixture(scope="module")
def digits() -> Split:
    whole = open_data("digits", None)
    return whole._replace(train=first(whole.train, 160))


def file_of(recipe: Recipe, folder: Path) -> Path:
    """The recipe as a file."""
    path = folder / "recipe.toml"
    stated = {k: v for k, v in recipe.to_dict().items() if v is not None}
    path.write_text("\n".join(f"{key} = {json.dumps(value)}" for key, value in stated.items()))
    return path


def test_a_binarized_network_is_resumed_by_its_factory_with_the_same_bits(
    fitted: Path, images: Path, split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has dropout, whose draws are those of the step too. It is broken off in the library, resumed by the verb."""
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        after(8, stop, patch)
        with pytest.raises(Stop):
            bbg.fit(factories.mobilenet(2), RECIPE, split, out=out, progress=False)
    broken = Checkpoint.load(out / LAST)
    assert (broken.epoch, broken.step) == (1, 2)
    arguments = ("train", file_of(RECIPE, tmp_path), "--data", images, "--factory", MOBILENET, "--out", out, "--resume")
    assert run(*arguments) == 0
    resumed, expected = (Checkpoint.load(folder / LAST) for folder in (out, fitted))
    assert bits(resumed.model) == bits(expected.model)
    assert resumed.history[-1]["test_loss"] == expected.history[-1]["test_loss"]


def test_a_binarized_network_is_evaluated_and_converted_from_its_checkpoint(
    fitted: Path, images: Path, tmp_path: Path
) -> None:
    result = tmp_path / "out.json"
    assert run("eval", fitted / LAST, "--data", images, "--factory", MOBILENET, "--json", result) == 0
    scored = json.loads(result.read_text())
    assert scored["accuracy"] == pytest.approx(Checkpoint.load(fitted / LAST).history[-1]["test_accuracy"])
    packed = tmp_path / "network.bbg"
    options = ("--data", images, "--factory", MOBILENET, "--edges", "fp32", "--json", result)
    assert run("convert", fitted / LAST, "-o", packed, *options) == 0
    assert json.loads(result.read_text())["disagreements"] <= 1
    assert bbg.load(str(packed)).labels == ("dark", "light")


def test_without_its_factory_a_module_of_ones_own_is_refused(
    fitted: Path, images: Path, tmp_path: Path, capsys: Any
) -> None:
    words = "of a module of one's own, whose code it does not hold; say what makes the module with --factory"
    refused(tmp_path, capsys, words, "eval", fitted / LAST, "--data", images)
    refused(tmp_path, capsys, words, "convert", fitted / LAST, "-o", tmp_path / "new.bbg")
    with pytest.raises(BbgError, match="do not fit this network"):
        Checkpoint.load(fitted / LAST).network(lambda: nn.Linear(3, 2))


def test_a_name_in_a_checkpoint_is_never_imported(
    digits: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "witness.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    named = DIGITS.changed({"factory": "support.factories:linear", "method": "float"})
    train(named, digits, tmp_path / "run", progress=False)
    state = torch.load(tmp_path / "run" / LAST, weights_only=True)
    assert state["recipe"]["factory"] is None
    assert state["custom"] is True
    for recipe in ({"factory": "witness:make"}, {"factory": "witness:make", "network": "resnet8"}):
        torch.save({**state, "recipe": {**state["recipe"], **recipe}}, tmp_path / "crafted.ckpt")
        loaded = Checkpoint.load(tmp_path / "crafted.ckpt")
        assert loaded.recipe.factory is None
        with pytest.raises(BbgError, match=r"--factory package\.module:function"):
            loaded.network()


def test_a_recipe_file_may_name_the_factory(digits: Split, tmp_path: Path) -> None:
    recipe = Recipe.load(file_of(DIGITS.changed({"factory": "support.factories:linear", "method": "float"}), tmp_path))
    state = train(recipe, digits, tmp_path / "run", progress=False)
    assert set(state.model) == {"1.weight", "1.bias"}
    assert run("eval", tmp_path / "run" / LAST, "--factory", "support.factories:linear") == 0
    again = train(recipe, digits, tmp_path / "run", resume=True, progress=False)
    assert bits(again.model) == bits(state.model)


def test_without_a_folder_nothing_is_written(digits: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    state = bbg.fit(factories.linear(10, 1), DIGITS, digits, progress=False)
    assert len(state.history) == 1
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(BbgError, match="nothing to resume: the run has no folder"):
        bbg.fit(factories.linear(10, 1), DIGITS, digits, resume=True, progress=False)


def test_fit_starts_from_the_weights_that_the_module_holds(digits: Split) -> None:
    frozen = DIGITS.changed({"lr": 0.0})
    module = factories.linear(10, 1)
    before = bits(module.state_dict())
    assert bits(bbg.fit(module, frozen, digits, progress=False).model) == before


def test_the_network_of_a_recipe_trains_the_same_by_either_call(digits: Split, tmp_path: Path) -> None:
    recipe = DIGITS.changed({"network": "resnet8", "width": 4})
    torch.manual_seed(recipe.seed)
    fitted = bbg.fit(bbg.create("resnet8", num_classes=10, in_channels=1, width=4), recipe, digits, progress=False)
    trained = train(recipe, digits, tmp_path / "run", progress=False)
    assert bits(fitted.model) == bits(trained.model)
    assert (fitted.custom, trained.custom) == (True, False)


@pytest.mark.parametrize("name", ["linear", "of_any_keyword", "without_arguments"])
def test_a_factory_gets_the_keywords_that_it_takes(name: str, digits: Split) -> None:
    made = call_factory(find_factory(f"support.factories:{name}"), 10, digits.preprocess)
    assert made(torch.zeros(2, 1, 8, 8)).shape == (2, 10)


def test_a_factory_in_the_current_folder_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_own_network.py").write_text("def make():\n    return 'made'\n")
    monkeypatch.setattr("sys.path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    assert find_factory("my_own_network:make")() == "made"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("linear", "the factory is 'linear', it must be package.module:function"),
        ("support.factories:", "it must be package.module:function"),
        ("..:linear", "it must be package.module:function"),
        (".factories:linear", "it must be package.module:function"),
        ("no_such_package:make", "cannot import factory 'no_such_package:make': No module named"),
        ("support.factories:absent", "cannot import factory .*absent.*; give package.module:function"),
        ("support.factories:NOT_A_FUNCTION", "is a int; give the name of a function"),
        ("support.factories:no_module", "the factory made a str; it must return a torch.nn.Module"),
    ],
)
def test_bad_factories_are_refused(name: str, words: str, digits: Split, tmp_path: Path) -> None:
    with pytest.raises(BbgError, match=words):
        train(DIGITS.changed({"factory": name}), digits, tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()
