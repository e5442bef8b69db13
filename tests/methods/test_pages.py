"""Each method's page says its formula and its source, and docs/methods.svg shows it as it is."""

from __future__ import annotations

from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest
import torch
from support.paths import ROOT

from bbg.methods import METHODS, MODULES

SCRIPT = ROOT / "docs" / "methods.py"


@pytest.fixture(scope="module")
def picture() -> Any:
    """The script that draws docs/methods.svg."""
    pytest.importorskip("matplotlib")
    spec = spec_from_file_location("methods_picture", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", MODULES)
def test_a_method_says_its_formula_and_its_source(name: str) -> None:
    text = import_module(f"bbg.methods.{name}").__doc__ or ""
    assert "arXiv" in " ".join(text.split())
    assert ("conv(" if name == "float" else "sign(") in text


def test_every_binarizer_is_drawn(picture: Any, tmp_path: Path) -> None:
    drawn = {getattr(METHODS[name], side) for name in picture.DRAWN for side in ("weight", "activation")}
    assert drawn == {getattr(m, side) for m in METHODS.values() for side in ("weight", "activation")} - {None}
    picture.draw(tmp_path / "methods.svg")
    svg = (tmp_path / "methods.svg").read_text(encoding="utf-8")
    assert all(f">{name}<" in svg for name in picture.DRAWN)


def test_curves_are_those_of_the_formulas(picture: Any) -> None:
    weights, activations = picture.WEIGHTS, picture.ACTIVATIONS
    x, q, gradient = map(torch.tensor, picture.curves(METHODS["bbg"].weight(1), 0.0))
    alpha = (weights - weights.mean()).abs().mean()
    torch.testing.assert_close(x, weights)
    torch.testing.assert_close(q, torch.where(weights >= weights.mean(), alpha, -alpha))
    torch.testing.assert_close(gradient, alpha.expand(len(x)))
    x, q, gradient = map(torch.tensor, picture.curves(METHODS["bireal"].activation(1), 0.0))
    torch.testing.assert_close(q, torch.where(activations >= 0, 1.0, -1.0))
    torch.testing.assert_close(gradient, (2 - 2 * activations.abs()).clamp(min=0))
    for progress, t in ((0.0, 0.1), (0.5, 1.0), (1.0, 10.0)):
        _, _, gradient = map(torch.tensor, picture.curves(METHODS["irnet"].activation(1), progress))
        want = max(1 / t, 1) * t * (1 - (t * activations).tanh() ** 2)
        torch.testing.assert_close(gradient, want, rtol=1e-4, atol=1e-5)
