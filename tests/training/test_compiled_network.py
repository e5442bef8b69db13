"""torch.compile is used where it gives the same network, and only there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support.trainings import bits, first
from torch import Tensor, nn

import bbg
from bbg.data import open_data
from bbg.recipe import Recipe
from bbg.training.compiled import compile_network
from bbg.training.loop import train

torch.set_num_threads(1)

IMAGES = torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def network() -> nn.Module:
    torch.manual_seed(0)
    return bbg.create("resnet8", width=4, num_classes=3).train()


def compiler(monkeypatch: pytest.MonkeyPatch, forward: Any) -> None:
    """`torch.compile` gives networks with this forward pass, a function of the network and the images."""

    class Compiled(nn.Module):
        def __init__(self, plain: nn.Module) -> None:
            super().__init__()
            self.plain = plain

        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = forward(self.plain, x)
            return result

    monkeypatch.setattr(torch, "compile", lambda model, **_: Compiled(model))


def test_the_same_network_is_used_and_its_statistics_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    compiler(monkeypatch, lambda plain, x: plain(x))
    model = network()
    before = bits(model.state_dict())
    assert compile_network(model, IMAGES, False) is not model
    assert bits(model.state_dict()) == before
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize(
    "forward",
    [
        lambda plain, x: plain(x).detach() + 0 * plain(x),
        lambda plain, x: plain.head(plain.norm(plain.pool(plain.units(plain.stem(x)).detach()).flatten(1))),
        lambda plain, x: plain(x) * torch.nan,
    ],
    ids=["no gradient", "none below the pool", "not a number"],
)
def test_a_network_with_other_gradients_is_not_used(
    forward: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    compiler(monkeypatch, forward)
    model = network()
    assert compile_network(model, IMAGES, False) is model
    assert "trains without torch.compile" in caplog.text


def test_without_a_compiler_it_trains_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(plain: nn.Module, x: Tensor) -> Tensor:
        raise RuntimeError("no compiler here")

    digits = open_data("digits", None)
    digits = digits._replace(train=first(digits.train, 128), test=first(digits.test, 32))
    recipe = Recipe(dataset="digits", network="resnet8", width=4, epochs=1, batch_size=64, crop_padding=0, flip=False)
    plain = train(recipe, digits, tmp_path / "plain", progress=False)
    compiler(monkeypatch, fail)
    found = train(recipe.changed({"compile": True}), digits, tmp_path / "compiled", progress=False)
    assert "no compiler here" in caplog.text
    assert bits(found.model) == bits(plain.model)
