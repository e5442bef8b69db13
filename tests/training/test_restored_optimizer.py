"""What a checkpoint says of the optimizer: numbers of the right shapes are taken, options are those of the recipe."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch

from bbg.errors import BbgError
from bbg.image import Preprocess
from bbg.recipe import Recipe
from bbg.training.factory import build
from bbg.training.optimizer import make_fused, make_optimizer, portable_state, restore

RECIPES = {
    "adam": Recipe(dataset="digits", network="resnet8", width=2),
    "sgd": Recipe(dataset="digits", network="resnet8", width=2, optimizer="sgd"),
    "both": Recipe(dataset="digits", network="resnet8", width=2, real_optimizer="sgd", real_lr=0.1),
}
GREY = Preprocess(8, mode="L", mean=(0.3,), std=(0.4,))


def trained(recipe: Recipe, state: dict[str, Any] | None = None) -> tuple[dict[str, Any], list[torch.Tensor]]:
    """The state and the parameters behind a step, from `state` on."""
    torch.manual_seed(0)
    model = build(recipe, 3, GREY)
    optimizer = make_optimizer(model, recipe)
    if state is not None:
        restore(optimizer, copy.deepcopy(state))  # whose numbers the step changes
    make_fused(optimizer)
    model(torch.randn(4, 1, 8, 8)).square().sum().backward()
    optimizer.step()
    return portable_state(optimizer), list(model.parameters())


def held(change: Callable[[torch.Tensor], Any]) -> Callable[[dict[str, Any]], None]:
    """Change all numbers that are held for a parameter of several."""

    def damage(state: dict[str, Any]) -> None:
        for values in state["state"].values():
            for name, value in values.items():
                if isinstance(value, torch.Tensor) and value.dim():
                    values[name] = change(value)

    return damage


DAMAGES: dict[str, Callable[[dict[str, Any]], None]] = {
    "one number for all": held(lambda value: torch.tensor(0.0)),  # which a fused step reads beyond its end
    "another shape": held(lambda value: torch.zeros(3, 5)),
    "a list": held(lambda value: [0.0]),
    "another name": lambda state: state["state"].update({0: {"other": torch.zeros(1)}}),
    "no groups": lambda state: state.update(param_groups=[]),
    "a number of states": lambda state: state.update(state=5),
    "nothing": dict.clear,
}


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("damage", DAMAGES)
def test_the_state_of_another_network_is_refused(damage: str, recipe: str) -> None:
    state, _ = trained(RECIPES[recipe])
    DAMAGES[damage](state)
    optimizer = make_optimizer(build(RECIPES[recipe], 3, GREY), RECIPES[recipe])
    with pytest.raises(BbgError, match="the optimizer's state in the checkpoint is not that of this network"):
        restore(optimizer, state)


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize(
    "odd", [{"amsgrad": True}, {"maximize": True, "differentiable": True}, {"betas": None, "eps": "x", "momentum": "y"}]
)
def test_options_are_those_of_the_recipe(odd: dict[str, Any], recipe: str) -> None:
    """Some change what a step reads, others lead it uphill."""
    state, _ = trained(RECIPES[recipe])
    _, wanted = trained(RECIPES[recipe], state)
    state["param_groups"] = [{**group, **odd} for group in state["param_groups"]]
    _, found = trained(RECIPES[recipe], state)
    assert all(map(torch.equal, found, wanted))
