"""Whole trainings that change on the way or learn from a teacher: they resume like any other."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from support.trainings import Stop, after, bits, stop, with_classes

from bbg.data import Split, open_data
from bbg.errors import BbgError
from bbg.recipe import Recipe
from bbg.training.check import check_recipe
from bbg.training.checkpoint import Checkpoint
from bbg.training.folder import LAST
from bbg.training.loop import train
from bbg.training.teacher import teacher_of

RECIPE = Recipe(
    dataset="digits",
    network="resnet8",
    width=4,
    epochs=4,
    batch_size=128,
    lr=5e-3,
    flip=False,
    crop_padding=1,
    checkpoint_steps=5,
)


@pytest.fixture(scope="module")
def digits() -> Split:
    return open_data("digits", None)


@pytest.fixture(scope="module")
def teacher(digits: Split, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("teacher")
    train(RECIPE.changed({"method": "float", "width": 8, "epochs": 3}), digits, out, progress=False)
    return out / LAST


@pytest.mark.parametrize(("method", "broken"), [("irnet", 8), ("adabin", 25)])
def test_a_resumed_two_step_distilled_training_ends_with_the_same_bits(
    method: str, broken: int, digits: Split, teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.set_num_threads(1)
    recipe = RECIPE.changed({"method": method, "activation_epochs": 2, "teacher": str(teacher), "distill": 0.5})
    whole = train(recipe, digits, tmp_path / "whole", progress=False)
    with monkeypatch.context() as patch:
        after(broken, stop, patch)
        with pytest.raises(Stop):
            train(recipe, digits, tmp_path / "broken", progress=False)
    state = Checkpoint.load(tmp_path / "broken" / LAST)
    assert (state.epoch, state.step) != (4, 0)
    resumed = train(recipe, digits, tmp_path / "broken", resume=True, progress=False)
    assert bits(resumed.model) == bits(whole.model)


def test_a_run_goes_on_with_its_own_teacher_alone(digits: Split, tmp_path: Path) -> None:
    recipe, out = RECIPE.changed({"epochs": 1}), tmp_path / "run"
    wise = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    train(recipe, digits, out, teacher=wise, progress=False)
    longer, other = recipe.changed({"epochs": 2}), copy.deepcopy(wise)
    other[1].bias.data += 1
    refusals = ((other, "the teacher has other weights than that of the run"), (None, "the run has a teacher, here is"))
    for teacher, words in refusals:
        with pytest.raises(BbgError, match=words):
            train(longer, digits, out, resume=True, teacher=teacher, progress=False)
    train(longer, digits, out, resume=True, teacher=wise, progress=False)
    torch.save({**torch.load(out / LAST), "version": 4, "teacher": None}, out / LAST)  # an older one cannot tell
    train(longer.changed({"epochs": 3}), digits, out, resume=True, teacher=other, progress=False)


def test_any_network_may_teach(digits: Split, tmp_path: Path) -> None:
    wise = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    before = bits(wise.state_dict())
    state = train(RECIPE.changed({"epochs": 1}), digits, tmp_path, teacher=wise, progress=False)
    assert bits(wise.state_dict()) == before
    assert not [key for key in state.model if "teacher" in key]


def test_a_teacher_of_ones_own_is_named_by_its_factory(digits: Split, tmp_path: Path) -> None:
    own = RECIPE.changed({"network": None, "factory": "support.factories:linear", "method": "float", "epochs": 1})
    taught = train(own, digits, tmp_path / "own", progress=False)
    recipe = RECIPE.changed({"epochs": 1, "teacher": str(tmp_path / "own" / LAST)})
    with pytest.raises(BbgError, match=r"is a module of one's own.* the recipe key teacher_factory = "):
        train(recipe, digits, tmp_path / "without", progress=False)
    named = recipe.changed({"teacher_factory": "support.factories:linear"})
    found = teacher_of(named, digits, torch.nn.Identity())
    assert found is not None
    assert bits(found.state_dict()) == bits(taught.model)
    assert train(named, digits, tmp_path / "with", progress=False).epoch == 1
    moved = (tmp_path / "own").rename(tmp_path / "moved") / LAST
    named = named.changed({"teacher": str(moved)})
    assert Checkpoint.load(tmp_path / "with" / LAST).recipe.teacher_factory is None, "a file names no code"
    train(named.changed({"epochs": 2}), digits, tmp_path / "with", resume=True, progress=False)
    with pytest.raises(BbgError, match="cannot import factory"):
        check_recipe(recipe.changed({"teacher_factory": "support.factories:lineal"}))


def test_a_teacher_of_other_classes_is_refused(digits: Split, teacher: Path, tmp_path: Path) -> None:
    other = with_classes(digits, [f"digit {c}" for c in digits.classes])
    with pytest.raises(BbgError, match="has other classes or inputs; give one trained on the same images"):
        train(RECIPE.changed({"teacher": str(teacher)}), other, tmp_path, progress=False)
    with pytest.raises(BbgError, match="cannot read checkpoint"):
        train(RECIPE.changed({"teacher": "nowhere.ckpt"}), digits, tmp_path, progress=False)
