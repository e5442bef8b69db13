"""Learning rates are functions of the step alone, and weight decay is for weights proper."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bbg.errors import BbgError
from bbg.image import Preprocess
from bbg.recipe import Recipe
from bbg.training.factory import build
from bbg.training.optimizer import make_optimizer
from bbg.training.schedule import lr_factor, set_lr, set_stage
from bbg.training.tasks import make_task
from bbg.training.tasks.classification import Classification, distillation

RECIPE = Recipe(dataset="digits", network="resnet8", width=4, act="rprelu")


@pytest.mark.parametrize(
    ("schedule", "shares"),
    [
        ("constant", {0: 1, 50: 1, 99: 1}),
        ("linear", {0: 1, 50: 0.5, 100: 0}),
        ("cosine", {0: 1, 25: 0.5 + 0.25 * math.sqrt(2), 50: 0.5, 100: 0}),
        ("onecycle", {0: 1 / 25, 15: 0.5 * (1 + 1 / 25), 30: 1, 65: 0.5 * (1 + 1e-4), 100: 1e-4}),
    ],
)
def test_schedules(schedule: str, shares: dict[int, float]) -> None:
    recipe = RECIPE.changed({"schedule": schedule})
    for step, share in shares.items():
        assert lr_factor(recipe, step, 100) == pytest.approx(share, abs=1e-12)


@pytest.mark.parametrize("warmup", [0, 1])
def test_onecycle_at_the_ends_of_warmup(warmup: int) -> None:
    recipe = RECIPE.changed({"warmup": warmup})
    factors = [lr_factor(recipe, step, 50) for step in range(50)]
    assert sorted(factors, reverse=warmup == 0) == factors
    assert 0 < min(factors) <= max(factors) <= 1


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_weight_decay_is_for_weights_proper(optimizer: str) -> None:
    recipe = RECIPE.changed({"optimizer": optimizer, "weight_decay": 0.1, "method": "reactnet"})
    model = build(recipe, 10, Preprocess.of("digits"))
    groups = make_optimizer(model, recipe).param_groups
    decayed = {id(p) for group in groups for p in group["params"] if group["weight_decay"]}
    assert {name for name, p in model.named_parameters() if id(p) in decayed} == {
        f"{name}.weight" for name, m in model.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))
    }
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))


def test_each_stage_has_a_schedule_of_its_own() -> None:
    recipe = RECIPE.changed({"schedule": "linear", "epochs": 10, "activation_epochs": 4})
    factors = [lr_factor(recipe, step, 100) for step in range(101)]
    assert factors[:40] == pytest.approx([1 - i / 40 for i in range(40)])
    assert factors[40:] == pytest.approx([1 - i / 60 for i in range(61)])


def test_weights_stay_real_in_the_first_stage_and_gradients_sharpen() -> None:
    recipe = RECIPE.changed({"method": "irnet", "epochs": 10, "activation_epochs": 4})
    model = build(recipe, 10, Preprocess.of("digits")).eval()
    x = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    outputs, steepness = [], []
    for epoch in (0, 3, 4, 9):
        set_stage(model, recipe, epoch)
        outputs.append(model(x))
        steepness.append(float(model.units[0].conv.weight_binarizer.t))
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.allclose(outputs[1], outputs[2])
    assert torch.equal(outputs[2], outputs[3])
    assert steepness == sorted(set(steepness))

    layer = model.units[0].conv
    set_stage(model, recipe, 0)
    expected = F.conv2d(layer.activation_binarizer(y := torch.randn(1, 4, 5, 5)), layer.weight, padding=1)
    assert torch.equal(layer(y), expected)


def test_distillation_is_the_divergence_from_the_teacher() -> None:
    ours, theirs = torch.randn(5, 7), torch.randn(5, 7)
    for temperature in (1.0, 4.0):
        p, q = (theirs / temperature).softmax(1), (ours / temperature).softmax(1)
        expected = temperature**2 * (p * (p / q).log()).sum(1).mean()
        assert float(distillation(ours, theirs, temperature)) == pytest.approx(float(expected), rel=1e-4)
    assert float(distillation(ours, ours, 2.0)) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_the_loss_is_shared_between_labels_and_teacher(share: float) -> None:
    recipe = RECIPE.changed({"distill": share, "temperature": 2.0})
    model, teacher = (build(recipe, 10, Preprocess.of("digits")) for _ in range(2))
    task = Classification(recipe, 10, teacher)
    x, labels = torch.randn(6, 1, 8, 8), torch.arange(6)
    loss = task.loss(model(x), labels, x)
    assert teacher.training  # it was copied
    logits, taught = model(x), teacher.eval()(x)
    expected = (1 - share) * F.cross_entropy(logits, labels) + share * distillation(logits, taught, 2.0)
    assert loss.item() == pytest.approx(float(expected), rel=1e-5)
    loss.backward()
    assert all(p.grad is None for p in teacher.parameters())
    assert task.teacher is not teacher
    assert set(task.metrics(logits, labels)) == {"accuracy"}
    assert float(task.metrics(logits, labels)["accuracy"]) == float((logits.argmax(1) == labels).float().mean())


def test_a_task_is_found_by_name() -> None:
    assert isinstance(make_task(RECIPE, 10), Classification)
    with pytest.raises(BbgError, match="recipe key 'task' is 'detecting', allowed are classification"):
        make_task(RECIPE.changed({"task": "detecting"}), 10)


def test_the_learning_rate_of_a_step_is_set_in_every_group() -> None:
    optimizer = make_optimizer(nn.Linear(3, 2), RECIPE)
    set_lr(optimizer, RECIPE, 30, 100)
    assert [group["lr"] for group in optimizer.param_groups] == [RECIPE.lr * lr_factor(RECIPE, 30, 100)] * 2
