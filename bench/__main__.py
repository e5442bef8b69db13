"""Every benchmark, each in a process of its own, then the page: `python -m bench`."""

from __future__ import annotations

import subprocess
import sys

from bench import BENCHMARKS
from bench.record import ROOT

for name in (*BENCHMARKS, "report"):
    print(f"bench.{name}", flush=True)
    subprocess.run([sys.executable, "-m", f"bench.{name}"], cwd=ROOT, check=True)
