"""Layers of 1, 8 and 32 bits in one training, with an optimizer for each kind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support.kill_train import RECIPE
from support.trainings import Stop, after, bits, first, stop
from torch import nn

import bbg
from bbg.data import Split, open_data
from bbg.layers import BinaryConv2d, Unit
from bbg.training.loop import train
from bbg.training.optimizer import Joined, make_optimizer

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def few() -> Split:
    digits = open_data("digits", None)
    return digits._replace(train=first(digits.train, 160), test=first(digits.test, 60))


def test_layers_of_all_widths_with_two_optimizers_train_and_resume(
    few: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed while ranges are recorded, and again while they are learned."""
    recipe = RECIPE.changed(
        {
            "bits": {"first": 8, "units.0": 8, "units.1": 32, "last": 8},
            "real_optimizer": "sgd",
            "real_lr": 0.05,
            "real_weight_decay": 5e-4,
            "epochs": 2,
            "checkpoint_steps": 1,
            "bn_batches": 0,
        }
    )
    whole = train(recipe, few, tmp_path / "a", progress=False)
    layer = whole.network().get_submodule("units.0.conv")
    assert layer.stretch.any()
    assert layer.batches
    first_steps = -(-len(few.train) // recipe.batch_size)
    for i, steps in enumerate((2, first_steps)):
        with monkeypatch.context() as patch:
            after(steps, stop, patch)
            with pytest.raises(Stop):
                train(recipe, few, tmp_path / "b", resume=i > 0, progress=False)
    again = train(recipe, few, tmp_path / "b", resume=True, progress=False)
    assert bits(again.model) == bits(whole.model)
    assert again.history[-1]["test_accuracy"] == whole.history[-1]["test_accuracy"]


CHANGES: dict[str, Any] = {
    "lr": 0.004,
    "weight_decay": 0.0,
    "real_optimizer": "sgd",
    "real_lr": 0.1,
    "real_weight_decay": 5e-4,
}


def test_each_kind_of_layer_has_its_optimizer() -> None:
    model = bbg.create("resnet8", num_classes=10, width=4, bits={"units.[01]": 8, "last": 8})
    optimizer = make_optimizer(model, RECIPE.changed(CHANGES))
    assert isinstance(optimizer, Joined)
    adam, sgd = optimizer.parts
    assert (type(adam), type(sgd)) == (torch.optim.AdamW, torch.optim.SGD)
    binary = [m for m in model.modules() if isinstance(m, Unit) and isinstance(m.conv, BinaryConv2d)]
    wanted = {id(p) for unit in binary for p in unit.parameters()}
    of_adam, of_sgd = ({id(p) for g in part.param_groups for p in g["params"]} for part in (adam, sgd))
    assert of_adam == wanted
    assert of_sgd == {id(p) for p in model.parameters()} - wanted
    assert [(g["peak"], g["weight_decay"]) for g in optimizer.param_groups] == [
        (0.004, 0.0),
        (0.004, 0.0),
        (0.1, 5e-4),
        (0.1, 0.0),
    ]


@pytest.mark.parametrize(("method", "kind"), [("float", torch.optim.SGD), ("bbg", Joined)])
def test_a_network_of_one_kind_has_one_optimizer(method: str, kind: type) -> None:
    model = bbg.create("resnet8", method, num_classes=10, width=4)
    assert type(make_optimizer(model, RECIPE.changed(CHANGES))) is kind


def test_the_joined_optimizer_steps_as_its_parts_do() -> None:
    """And its state, given to another one, goes on to the same bits."""
    torch.manual_seed(0)
    models = [nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)) for _ in range(3)]
    for model in models[1:]:
        model.load_state_dict(models[0].state_dict())
    x = torch.randn(8, 3)

    def parts(model: nn.Sequential) -> list[torch.optim.Optimizer]:
        return [torch.optim.AdamW(model[0].parameters(), 0.01), torch.optim.SGD(model[1].parameters(), 0.1, 0.9)]

    def step(model: nn.Module, optimizers: list[Any]) -> None:
        for optimizer in optimizers:
            optimizer.zero_grad()
        model(x).square().sum().backward()
        for optimizer in optimizers:
            optimizer.step()

    apart, joined, resumed = parts(models[0]), Joined(*parts(models[1])), Joined(*parts(models[2]))
    for _ in range(3):
        step(models[0], apart)
        step(models[1], [joined])
    models[2].load_state_dict(models[1].state_dict())
    resumed.load_state_dict(joined.state_dict())
    for _ in range(3):
        step(models[0], apart)
        step(models[2], [resumed])
    assert bits(models[0].state_dict()) == bits(models[2].state_dict())
