"""A training that is killed three times ends in the same bits as an undisturbed one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import torch
from support.kill_train import RECIPE
from support.paths import ROOT
from support.trainings import bits

from bbg.training.checkpoint import Checkpoint
from bbg.training.loop import LAST


def test_three_kills_end_in_the_same_bits(tmp_path: Path) -> None:
    run = [sys.executable, str(ROOT / "tests" / "support" / "kill_train.py"), str(tmp_path), "0"]
    root = ROOT
    path = os.pathsep.join([str(root / "src"), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(run, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": path})
    assert done.returncode == 0, done.stderr
    runs = json.loads(done.stdout.splitlines()[-1])
    assert [r["killed"] for r in runs] == [False, True, True, True, False]
    assert not any(r["failed"] for r in runs)
    assert [r["half_written"] for r in runs][2] is True
    assert all(r["at"][0] < RECIPE.epochs for r in runs[1:4])
    straight, resumed = (Checkpoint.load(tmp_path / name / LAST) for name in ("undisturbed", "killed"))
    assert bits(straight.model) == bits(resumed.model)
    for a, b in zip(straight.history, resumed.history, strict=True):
        assert all(a[name] == b[name] for name in ("epoch", "test_loss", "test_accuracy", "flips"))
    moments = [[v for _, s in sorted(c.optimizer["state"].items()) for v in s.values()] for c in (straight, resumed)]
    assert all(torch.equal(a, b) for a, b in zip(*moments, strict=True))
