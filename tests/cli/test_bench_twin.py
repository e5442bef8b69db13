"""The real-valued network that `bbg bench` times beside a detector has its heads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import bbg
from bbg.cli.bench import torch_twin
from bbg.training import factory

torch.set_num_threads(1)


def test_the_twin_has_the_heads_of_the_detector(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notes: dict[str, Any] = {"network": "ssd_light", "width": 2, "heads": "separable"}
    model = bbg.create("ssd_light", num_classes=2, width=2, size=64, heads="separable").eval()
    bbg.convert(
        model,
        tmp_path / "n.bbg",
        torch.randn(1, 3, 64, 64),
        preprocess=bbg.Preprocess((64, 64)),
        labels=["a", "b"],
        provenance=notes,
    )
    engine, seen, build = bbg.load(tmp_path / "n.bbg", threads=1), [], factory.build

    def noted(recipe: Any, *others: Any) -> torch.nn.Module:
        seen.append(recipe.heads)
        return build(recipe, *others)

    monkeypatch.setattr(factory, "build", noted)
    assert torch_twin(engine, np.zeros((1, 3, 64, 64), np.float32), 1) is not None
    assert seen == ["separable", "separable"]
