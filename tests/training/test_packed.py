"""Tests between the epochs by the engine: the same figures and the same training, and by torch where need be."""

from __future__ import annotations

import pytest
import torch
from support.trainings import bits, first
from torch import Tensor, nn

import bbg
from bbg.data import Split, open_data
from bbg.data.loader import Loader
from bbg.methods import METHODS
from bbg.recipe import Recipe
from bbg.training.packed import PackedNetwork, pack

torch.set_num_threads(1)

RECIPE = Recipe(dataset="digits", network="resnet8", width=4, epochs=3, batch_size=64, crop_padding=0, flip=False)


@pytest.fixture(scope="module")
def digits() -> Split:
    data = open_data("digits", None)
    return data._replace(train=first(data.train, 128), test=first(data.test, 100))


@pytest.mark.parametrize("method", METHODS)
def test_the_engine_finds_the_figures_of_torch_and_changes_no_weight(method: str, digits: Split) -> None:
    recipe = RECIPE.changed({"method": method})
    torch.manual_seed(0)
    model = bbg.create("resnet8", method, width=4, in_channels=1, num_classes=10)
    by_torch = bbg.fit(model, recipe, digits, progress=False)
    torch.manual_seed(0)
    model = bbg.create("resnet8", method, width=4, in_channels=1, num_classes=10)
    by_engine = bbg.fit(model, recipe.changed({"evaluation": "packed"}), digits, progress=False)
    assert bits(by_engine.model) == bits(by_torch.model)
    for ours, theirs in zip(by_engine.history, by_torch.history, strict=True):
        assert ours["test_loss"] == pytest.approx(theirs["test_loss"], rel=1e-3)
        assert abs(ours["test_accuracy"] - theirs["test_accuracy"]) <= 0.01  # one near-tie in 100 images
    assert by_engine.history[-1]["test_loss"] == by_torch.history[-1]["test_loss"]  # the last one is torch's own


def test_packing_gives_an_engine(digits: Split) -> None:
    model = bbg.create("resnet8", width=4, in_channels=1, num_classes=10).eval()
    packed = pack(model, Loader(digits.test, 50, preprocess=digits.preprocess))
    assert isinstance(packed, PackedNetwork)
    x = torch.randn(3, 1, *digits.preprocess.size)
    assert torch.allclose(packed(x), model(x), atol=1e-4)


class Outside(nn.Module):
    """A network with a function that has no rule."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.head(torch.erfinv(x.flatten(1)[:, :64].clamp(-0.5, 0.5)))
        return result


def test_a_network_that_cannot_be_packed_is_tested_in_torch(digits: Split, caplog: pytest.LogCaptureFixture) -> None:
    model = Outside()
    assert pack(model, Loader(digits.test, 50, preprocess=digits.preprocess)) is model
    assert "tested in torch" in caplog.text
    assert "erfinv" in caplog.text
