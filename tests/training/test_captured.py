"""Training on a GPU: the captured step is the step, and a checkpoint is the same whichever device it comes from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support.trainings import Stop, first

from bbg.data import Split, open_data
from bbg.recipe import Recipe
from bbg.training import captured, loop
from bbg.training.checkpoint import Checkpoint
from bbg.training.loop import train
from bbg.training.optimizer import make_capturable, make_optimizer, portable_state

RECIPE = Recipe(
    dataset="digits", network="resnet8", width=8, epochs=3, batch_size=64, lr=5e-3, crop_padding=1, flip=False
)
on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


@pytest.fixture(scope="module")
def digits() -> Split:
    split = open_data("digits", None)
    return split._replace(train=first(split.train, 640))


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_a_gpus_optimizer_state_is_that_of_a_cpu(optimizer: str) -> None:
    """What a checkpoint holds can be loaded on either device: no tensor for a rate, no choice of kernels."""
    recipe = RECIPE.changed({"optimizer": optimizer})
    model = torch.nn.Linear(3, 2)
    plain, prepared = make_optimizer(model, recipe), make_optimizer(model, recipe)
    model(torch.ones(1, 3)).sum().backward()
    for each in (plain, prepared):
        each.step()
    make_capturable(prepared, torch.device("cpu"))
    assert all(isinstance(group["lr"], torch.Tensor) for group in prepared.param_groups)
    for found, expected in zip(
        portable_state(prepared)["param_groups"], plain.state_dict()["param_groups"], strict=True
    ):
        assert found == {**expected, "lr": pytest.approx(recipe.lr)}
        assert type(found["lr"]) is float


@on_gpu
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("method", ["bbg", "irnet", "adabin", "float"])
def test_the_captured_step_is_the_step(
    optimizer: str, method: str, digits: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One step, from the same weights: the weights after it are equal up to the rounding of other kernels."""
    recipe = RECIPE.changed({"optimizer": optimizer, "method": method, "epochs": 1, "batch_size": 640, "lr": 1e-3})
    weights = {}
    for name in ("captured", "eager"):
        if name == "eager":
            monkeypatch.setattr(captured.CapturedStep, "_try_capture", lambda self, x, y: None)
        weights[name] = train(recipe, digits, tmp_path / name, progress=False).model
    for key, value in weights["eager"].items():
        assert torch.allclose(weights["captured"][key], value, rtol=1e-4, atol=1e-5), key


@on_gpu
def test_it_captures_once_per_stage(digits: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    captures: list[Any] = []
    capture = captured.CapturedStep._capture
    monkeypatch.setattr(captured.CapturedStep, "_capture", lambda self, x, y: (captures.append(x), capture(self, x, y)))
    train(RECIPE.changed({"activation_epochs": 1}), digits, tmp_path, progress=False)
    assert len(captures) == 2


@on_gpu
def test_a_step_that_cannot_be_captured_still_trains(
    digits: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: Any) -> None:
        raise RuntimeError("not here")

    monkeypatch.setattr(captured.CapturedStep, "_capture", refuse)
    history = train(RECIPE, digits, tmp_path, progress=False).history
    assert "not here" in caplog.text
    assert history[-1]["loss"] < history[0]["loss"]


@on_gpu
def test_a_run_of_a_gpu_is_resumed_there(digits: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped behind its first epoch and resumed, it learns what an undisturbed one does, up to the GPU's rounding."""
    undisturbed = train(RECIPE, digits, tmp_path / "undisturbed", progress=False).history
    keep = loop.keep_state

    def keep_and_stop(state: Checkpoint, *others: Any) -> None:
        keep(state, *others)
        raise Stop

    with monkeypatch.context() as patch:
        patch.setattr(loop, "keep_state", keep_and_stop)
        with pytest.raises(Stop):
            train(RECIPE, digits, tmp_path / "stopped", progress=False)
    resumed = train(RECIPE, digits, tmp_path / "stopped", resume=True, progress=False).history
    assert [row["epoch"] for row in resumed] == [1, 2, 3]
    assert [row["loss"] for row in resumed] == pytest.approx([row["loss"] for row in undisturbed], rel=0.02)
