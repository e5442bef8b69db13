"""Every benchmark but those that are run by name, each in a process of its own, then the page: `python -m bench`."""

from __future__ import annotations

import subprocess
import sys

from bench import BENCHMARKS, BY_NAME
from bench.record import ROOT

for name in (*(name for name in BENCHMARKS if name not in BY_NAME), "report"):
    print(f"bench.{name}", flush=True)
    subprocess.run([sys.executable, "-m", f"bench.{name}"], cwd=ROOT, check=True)
