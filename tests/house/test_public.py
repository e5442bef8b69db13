"""The public face: every public name with its signature is on record, and a type checker knows the names."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from support.paths import ROOT

pytest.importorskip("torch")

from support import public


def test_public_names_and_signatures_are_those_on_record() -> None:
    """After a change that is meant, `python tests/support/public.py` records anew; the diff is the change."""
    assert public.text().splitlines() == public.RECORD.read_text(encoding="utf-8").splitlines()


@pytest.mark.skipif(find_spec("mypy") is None, reason="mypy is not installed")
def test_a_misspelt_name_is_a_type_error(tmp_path: Path) -> None:
    """Only what decides which names there are is looked into: torch would take the checker half a minute."""
    path = tmp_path / "user.py"
    path.write_text('import bbg\n\nbbg.load("a.bbg")\nbbg.laod("a.bbg")\nbbg.zoo.names()\nbbg.zoo.nmaes()\n')
    files = [f"bbg/{name}.py" for name in ("__init__", "_version", "errors", "zoo/__init__")]
    options = ["--strict", "--follow-imports=skip", "--config-file=", f"--cache-dir={tmp_path / 'cache'}"]
    command = [sys.executable, "-m", "mypy", *options, *files, str(path)]
    done = subprocess.run(command, cwd=ROOT / "src", capture_output=True, text=True, timeout=300, check=False)
    errors = [line for line in done.stdout.splitlines() if line.startswith(str(path))]
    assert len(errors) == 2, done.stdout + done.stderr
    assert 'user.py:4: error: Module has no attribute "laod"' in errors[0]
    assert 'user.py:6: error: Module has no attribute "nmaes"' in errors[1]
