"""The record of a measurement: what it was measured on, where it is written, and the command line that makes it.

A record is one JSON file under bench/results: facts about machine and versions, then lists of rows. It names no host
and no path.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import subprocess
from collections.abc import Callable, Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "bench" / "results"

Result = dict[str, Any]
Rows = Callable[[argparse.Namespace], Result]


def machine(packages: Iterable[str] = ("numpy",)) -> Result:
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


def commit(folder: Path = ROOT) -> str | None:
    """The commit that is checked out in `folder`, with a + where files differ from it; None outside of a repository."""

    def git(*words: str) -> str | None:
        done = subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else None

    name = git("rev-parse", "--short", "HEAD")
    sources = ("bench", "cases", "native", "src", "tests")
    changed = git("status", "--porcelain", "--", *sources, ":!bench/results")
    return name and name + ("+" if changed else "")


def parser_of(name: str, text: str | None, rounds: int) -> argparse.ArgumentParser:
    """A parser with what every benchmark has: how many rounds, and where the record goes."""
    parser = argparse.ArgumentParser(
        prog=f"python -m bench.{name}", description=text, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=rounds, help="turns of each; default: %(default)s")
    parser.add_argument("--out", type=Path, default=RESULTS / f"{name}.json")
    return parser


def run(parser: argparse.ArgumentParser, rows: Rows, packages: Iterable[str] = ("numpy",)) -> None:
    """Read the command line, measure, print the record as tables and write it.

    `rows` may return `versions` of more packages, and raises RuntimeError where the other side cannot be measured here:
    the record then says why.
    """
    arguments = parser.parse_args()
    facts = {**machine(packages), "rounds": arguments.rounds}
    try:
        measured = rows(arguments)
    except RuntimeError as error:
        measured = {"absent": str(error)}
    facts["versions"] |= measured.pop("versions", {})
    write({**facts, **measured}, arguments.out)


def write(result: Result, out: Path) -> None:
    """Print `result` as tables and write it to `out`."""
    from bbg.cli.output import show

    out.parent.mkdir(parents=True, exist_ok=True)
    show(result, out)


def read(path: Path) -> Result:
    """The record in `path`."""
    result: Result = json.loads(path.read_text(encoding="utf-8"))
    return result
