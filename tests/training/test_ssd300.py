"""The recipes of SSD300: ten steps with a loss that falls, the same bits when resumed, the same boxes when packed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.commands import run
from support.detectors_packed import packed_agrees
from support.trainings import Stop, after, bits, stop
from support.voc import write_voc

from bbg.data import open_recipe
from bbg.recipe import Recipe
from bbg.training.check import check_recipe
from bbg.training.loop import LAST, train

torch.set_num_threads(1)

NAMES = ("voc_ssd300_vgg16", "voc_ssd300_resnet18")
# Ten steps over the same few pictures.
SHORT = {"epochs": 5, "schedule": "constant", "crop": "none", "expand": 1, "flip": False, "colour": 0, "bn_batches": 1}


def goes_the_whole_way(recipe: Recipe, images: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Training, training broken off and resumed, `bbg eval`, and the packed file beside torch."""
    data = write_voc(tmp_path / "data", images, 2)
    split = open_recipe(recipe, data)
    state = train(recipe, split, tmp_path / "whole", progress=False)
    losses = [row["loss"] for row in state.history]
    assert losses[-1] < 0.9 * losses[0], losses
    assert "test_map" in state.history[-1]
    with monkeypatch.context() as broken:
        after(2 * recipe.epochs - 3, stop, broken)
        with pytest.raises(Stop):
            train(recipe, split, tmp_path / "broken", progress=False)
    resumed = train(recipe, split, tmp_path / "broken", resume=True, progress=False)
    assert bits(resumed.model) == bits(state.model)
    assert run("eval", tmp_path / "broken" / LAST, "--data", data) == 0
    packed_agrees(state.network(None), split.preprocess.size, tmp_path / "n.bbg")


@pytest.mark.parametrize("name", NAMES)
def test_the_recipes_are_those_of_the_published_network(name: str) -> None:
    recipe = Recipe.find(name)
    assert (recipe.optimizer, recipe.lr, recipe.batch_size, recipe.sides()) == ("adam", 1e-3, 32, (300, 300))
    assert recipe.epochs * -(-16551 // 32) == pytest.approx(300_000, rel=0.01)
    check_recipe(recipe)


@pytest.mark.parametrize("name", NAMES)
def test_a_narrow_one_goes_the_whole_way(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = Recipe.find(name).changed({**SHORT, "width": 2, "batch_size": 2, "checkpoint_steps": 1, "lr": 5e-3})
    if name == "voc_ssd300_resnet18":
        recipe = recipe.changed({"size": 96})
    else:
        recipe = recipe.changed({"size": 257, "epochs": 3})  # no smaller one has six maps
    goes_the_whole_way(recipe, 4, tmp_path, monkeypatch)


@pytest.mark.slow
def test_the_full_ssd300_of_vgg16_goes_the_whole_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = Recipe.find("voc_ssd300_vgg16").changed({**SHORT, "batch_size": 2, "checkpoint_steps": 5})
    goes_the_whole_way(recipe, 4, tmp_path, monkeypatch)
