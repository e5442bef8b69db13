"""Learning rates are functions of the step alone, and weight decay is for weights proper."""

from __future__ import annotations

import math

import pytest
from torch import nn

from bbg.checkpoint import build
from bbg.image import Preprocess
from bbg.recipe import Recipe
from bbg.tasks import Classification, lr_factor

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
    groups = Classification(model, recipe, 10, 100).configure_optimizers().param_groups
    decayed = {id(p) for group in groups for p in group["params"] if group["weight_decay"]}
    assert {name for name, p in model.named_parameters() if id(p) in decayed} == {
        f"{name}.weight" for name, m in model.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))
    }
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))
