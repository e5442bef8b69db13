"""What a packed network costs besides its time: bytes, loading, memory, and the overhead of a call.

    python -m bench.footprint [--rounds 30] [--out bench/results/footprint.json]

Loading is timed with the file in the system's cache. Memory is the peak of a process that loads the network and runs
one image on one thread, above that of one that only imports numpy. The overhead is the time of a call from Python
whose graph adds nothing to a single number.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import numpy as np

import bbg
from bbg.engine import Engine
from bbg.graph import Graph, Op
from bbg.graph.file import PackedModel
from bench.markdown import figure, plain, table
from bench.measure import durations, spread
from bench.networks import AVAILABLE, pack
from bench.record import Result, parser_of, run

TITLE = "Bytes, memory and calls"
EDGES = ("int8", "fp32")
CALLS = 2000  # that are timed together
BARE = "import numpy"
RUN = """
import bbg, numpy
engine = bbg.load({path!r}, threads=1)
engine(numpy.zeros((1, *engine.input_shape[1:], engine.input_shape[0]), numpy.uint8))
"""
# Not ru_maxrss: that of a child begins with what its parent had.
PEAK = """
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


def peak(program: str) -> int:
    """Bytes of memory that a process with this program needed at most; Linux says so."""
    done = subprocess.run([sys.executable, "-c", program + PEAK], stdout=subprocess.PIPE, check=True)
    return int(done.stdout) * 1024


def overhead(rounds: int) -> float:
    """Microseconds per call of an engine that has nothing to do, at best."""
    graph = Graph("x", (1, 1, 1), (Op("y", "pointwise", ("x",), "y"),), ()).with_outputs(["y"])
    engine, x = Engine(PackedModel(graph), threads=1), np.zeros((1, 1, 1, 1), np.float32)

    def calls() -> None:
        for _ in range(CALLS):
            engine(x)

    return spread(durations(calls, 0, least=rounds), parts=CALLS)["min_us"]


def rows(arguments: argparse.Namespace) -> Result:
    """A row per network and kind of edges."""
    result: Result = {"threads": 1, "footprint": []}
    bare = peak(BARE)
    with tempfile.TemporaryDirectory() as folder:
        for network in AVAILABLE:
            for edges in EDGES:
                path = Path(folder) / f"{network}-{edges}.bbg"
                pack(network, path, edges)
                loading = spread(durations(partial(bbg.load, path, threads=1), 0, least=arguments.rounds))
                result["footprint"].append(
                    {
                        "network": network,
                        "edges": edges,
                        "bytes": path.stat().st_size,
                        "load_min_us": loading["min_us"],
                        "load_median_us": loading["median_us"],
                        "peak_bytes_above_numpy": peak(RUN.format(path=str(path))) - bare,
                    }
                )
    return {**result, "numpy_peak_bytes": bare, "call_overhead_us": overhead(arguments.rounds)}


def render(result: Result) -> str:
    """A row per network and kind of edges."""
    bare, call = result["numpy_peak_bytes"] / 1e6, result["call_overhead_us"]
    text = (
        "Memory is that of a process that loads the network and runs one image on one thread, above one that only "
        f"imports numpy ({bare:.1f} MB). A call of an engine with nothing to do takes {call:.2f} us."
    )
    rows = table(
        result["footprint"],
        plain("network"),
        plain("edges"),
        ("bytes", lambda r: f"{r['bytes']:,}"),
        figure("load_min_us", "load: min, us"),
        figure("load_median_us", "median"),
        ("peak memory, MB", lambda r: f"{r['peak_bytes_above_numpy'] / 1e6:.1f}"),
    )
    return f"{text}\n\n{rows}"


if __name__ == "__main__":
    run(parser_of("footprint", __doc__, rounds=30), rows)
