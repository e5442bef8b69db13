"""What a type checker sees of the public face: a misspelt name is an error, and what `predict` returns is known."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.paths import ROOT

import bbg

SAMPLE = """\
import bbg

engine: bbg.Engine = bbg.load("net.bbg")
one: list[bbg.Prediction] = engine.predict("a.jpg")
many: list[list[bbg.Prediction]] = engine.predict(["a.jpg", "b.jpg"], top=1)
label: str = one[0].label
score: float = many[0][0].score
table: str = engine.summary()
bbg.laod("net.bbg")
few: list[bbg.Prediction] = engine.predict(["a.jpg"])
engine.predict(3)
"""


def test_a_type_checker_knows_the_public_face(tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    sample = tmp_path / "sample.py"
    sample.write_text(SAMPLE)
    # The cache of `make lint`, which has all of torch's types already.
    command = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", str(sample)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    # A path may be that of an earlier run: the cache knows a module of the same name and content, and prints it.
    errors = re.findall(r"sample\.py:(\d+): error: (.*)", done.stdout)
    assert [int(line) for line, _ in errors] == [9, 10, 11], done.stdout + done.stderr
    assert '"laod"' in errors[0][1]


def test_what_predict_returns_has_a_public_name() -> None:
    assert bbg.Prediction("cat", 0.5) == ("cat", 0.5)
    assert bbg.Prediction.__module__ == "bbg.heads"
