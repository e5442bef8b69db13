"""The demo, cut short: it trains, converts, compares both sides and draws."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.paths import ROOT
from torch import nn

import bbg
from bbg.data import open_data
from bbg.training.evaluate import logits_of


@pytest.fixture(scope="module")
def demo() -> ModuleType:
    path = ROOT / "examples" / "digits.py"
    spec = importlib.util.spec_from_file_location("digits_demo", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_the_demo_compares_both_sides_and_draws(demo: ModuleType, tmp_path: Path, capsys: Any) -> None:
    sides = demo.run(tmp_path, epochs=4)
    simulated, twin, packed = sides.simulated, sides.twin, sides.packed
    labels = open_data("digits", None).test.labels
    assert twin.accuracy(labels) > 0.5, "ten classes, so chance is 0.1"
    assert abs(simulated.accuracy(labels) - packed.accuracy(labels)) <= 1 / 360
    assert (simulated.logits.argmax(1) != packed.logits.argmax(1)).sum() <= 1
    assert packed.bytes == (tmp_path / "digits.bbg").stat().st_size < twin.bytes / 8
    assert {"bbg in float32", "torch, frozen"} <= set(sides.seconds)
    assert sides.seconds[twin.engine] == twin.seconds == min(sides.seconds.values()), "the fastest is the one to beat"
    assert 0 < packed.seconds < twin.seconds < simulated.seconds
    out = capsys.readouterr().out
    assert f"float twin, {twin.engine}" in out
    assert f"{100 * packed.accuracy(labels):.1f} %" in out
    assert f"{packed.bytes:,} bytes" in out
    with Image.open(tmp_path / "digits.png") as picture:
        assert picture.width > 1000
        assert np.asarray(picture.convert("L")).std() > 10, "something is drawn"


def test_an_engine_that_computes_something_else_is_not_compared(
    demo: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(twin: nn.Module, one: np.ndarray) -> None:
        raise ImportError

    wrong, split = np.zeros((1, 10), np.float32), open_data("digits", None)
    twin = bbg.create("resnet8", "float", num_classes=10, in_channels=1).eval()
    logits = logits_of(twin, split.test, split.preprocess).numpy()
    others = {"wrong": lambda twin, one: lambda: wrong, "absent": absent, "torch": demo.in_torch}
    monkeypatch.setattr(demo, "ENGINES", others)
    assert list(demo.calls_of(twin, split, logits)) == ["torch"]
