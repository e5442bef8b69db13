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

from bbg.data import open_data


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
    in_torch, in_engine = demo.run(tmp_path, epochs=4)
    labels = open_data("digits", None).test.labels
    assert in_torch.accuracy(labels) > 0.5, "ten classes, so chance is 0.1"
    assert abs(in_torch.accuracy(labels) - in_engine.accuracy(labels)) <= 1 / 360
    assert (in_torch.logits.argmax(1) != in_engine.logits.argmax(1)).sum() <= 1
    assert in_engine.bytes == (tmp_path / "digits.bbg").stat().st_size < in_torch.bytes / 8
    assert 0 < in_engine.seconds < in_torch.seconds
    out = capsys.readouterr().out
    assert f"{100 * in_engine.accuracy(labels):.2f} %" in out
    assert f"{in_engine.bytes:,}" in out
    with Image.open(tmp_path / "digits.png") as picture:
        assert picture.width > 1000
        assert np.asarray(picture.convert("L")).std() > 10, "something is drawn"
