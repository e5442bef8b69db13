"""Python environments of their own for packages that do not go together with this one's."""

from __future__ import annotations

import json
import subprocess
import venv
from collections.abc import Sequence
from pathlib import Path

from bench.record import ROOT

ENVIRONMENTS = ROOT / "build" / "environments"


def environment(name: str, packages: Sequence[str], *flags: str) -> Path:
    """The Python of an environment with `packages`, made where it is not there yet. `flags` are those of pip.

    Raises RuntimeError with pip's reason where a package cannot be installed.
    """
    folder = ENVIRONMENTS / name
    python, stamp = folder / "bin" / "python", folder / "packages.json"
    wanted = json.dumps([*packages, *flags])
    if stamp.exists() and stamp.read_text() == wanted:
        return python
    venv.create(folder, clear=True, with_pip=True)
    command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *flags, *packages]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or ["pip failed"])[-1])
    stamp.write_text(wanted)
    return python
