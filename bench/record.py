"""What all benchmarks share: where things are, what they were measured on, how a result is written.

A result is one JSON file under bench/results: facts about machine and versions, then lists of rows. It names no host
and no path. `bench/report.py` makes docs/results.md of them.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
import venv
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "bench" / "results"
ENVIRONMENTS = ROOT / "build" / "environments"
sys.path.append(str(ROOT))

from cases.convolutions import LAYERS, Case, conv_op

__all__ = ["LAYERS", "Case", "conv_op", "environment", "finish", "machine", "options"]


def machine(packages: Iterable[str] = ("numpy",)) -> dict[str, Any]:
    """Date, commit, processor, cores, load at the start, and versions of the `packages` that are used."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    return {
        "date": datetime.date.today().isoformat(),
        "commit": commit(),
        "cpu": fields.get("model name", platform.processor() or platform.machine()),
        "cpu_family_model": f"{fields.get('cpu family', '?')}/{fields.get('model', '?')}",
        "cores": len(os.sched_getaffinity(0)),
        "load": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in packages},
    }


def commit() -> str | None:
    """The commit that is checked out, with a + where files differ from it, or None outside of a repository."""

    def git(*words: str) -> str | None:
        done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else None

    name = git("rev-parse", "--short", "HEAD")
    sources = ("bench", "native", "src", "tests")
    changed = git("status", "--porcelain", "--", *sources, ":!bench/results")
    return name and name + ("+" if changed else "")


def options(text: str | None, name: str) -> argparse.ArgumentParser:
    """A parser with what every benchmark has: how many rounds, and where the result goes."""
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=30, help="turns of each; default 30")
    parser.add_argument("--out", type=Path, default=RESULTS / f"{name}.json")
    return parser


def finish(result: dict[str, Any], out: Path) -> None:
    """Print `result` as tables and write it to `out`."""
    from bbg.cli.output import show

    out.parent.mkdir(parents=True, exist_ok=True)
    show(result, out)


def environment(name: str, packages: Sequence[str], *flags: str) -> Path:
    """The Python of an environment of its own with `packages`, made where it is not there yet.

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
