"""Pseudo-gradients that sharpen: in a loop of one's own as in `bbg train`."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import bbg
from bbg.errors import BbgError
from bbg.methods import METHODS, Binarizer
from bbg.recipe import Recipe
from bbg.training.schedule import set_stage

SHARPENING = ("irnet", "adabin")


def sharpness(model: torch.nn.Module) -> list[float]:
    found: list[Any] = [
        module.t for module in model.modules() if isinstance(module, Binarizer) and hasattr(module, "t")
    ]
    return [float(t) for t in found]


@pytest.mark.parametrize("name", SHARPENING)
def test_a_loop_of_ones_own_sharpens_as_a_training_does(name: str) -> None:
    """IR-Net's formula: from 0.1 to 10, evenly in its logarithm."""
    ours, theirs = (bbg.create("resnet8", name, num_classes=3, width=4) for _ in range(2))
    recipe = Recipe(dataset="digits", network="resnet8", method=name, epochs=4)
    for epoch in range(4):
        bbg.anneal(ours, epoch / 4)
        set_stage(theirs, recipe, epoch)
        wanted = 10 ** (-1 + 2 * epoch / 4)
        assert sharpness(ours) == pytest.approx([wanted] * len(sharpness(ours)))
        assert sharpness(ours) == sharpness(theirs)
        assert sharpness(ours)


@pytest.mark.parametrize("name", [name for name in METHODS if name != "float"])
def test_it_changes_gradients_alone_and_only_where_a_method_sharpens(name: str) -> None:
    torch.manual_seed(0)
    model = bbg.create("resnet8", name, num_classes=3, width=4).eval()
    x = torch.randn(4, 3, 16, 16)

    def both() -> tuple[torch.Tensor, torch.Tensor]:
        model.zero_grad()
        y = model(x)
        y.square().sum().backward()
        weight = next(p for n, p in model.named_parameters() if n.endswith("conv.weight"))
        assert weight.grad is not None
        return y.detach(), weight.grad.clone()

    bbg.anneal(model, 0)
    y, gradient = both()
    bbg.anneal(model, 0.9)
    y_late, gradient_late = both()
    assert torch.equal(y, y_late)
    assert torch.equal(gradient, gradient_late) == (name not in SHARPENING)


@pytest.mark.parametrize("progress", [-0.1, 1.1, float("nan")])
def test_another_number_is_refused(progress: float) -> None:
    with pytest.raises(BbgError, match=r"progress is .*, allowed is 0 to 1"):
        bbg.anneal(bbg.create("resnet8", num_classes=3, width=4), progress)
