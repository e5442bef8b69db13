"""What a packed network costs besides its time: bytes, loading, memory, and the overhead of a call.

    python bench/footprint.py [--rounds 30] [--out bench/results/footprint.json]

Loading is timed with the file in the system's cache. Memory is the peak of a process that loads the network and runs
one image on one thread, above that of one that only imports numpy. The overhead is the time of a call from Python
whose graph adds nothing to a single number.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from common import finish, machine, options
from networks import AVAILABLE, pack

import bbg
from bbg.engine import Engine
from bbg.graph import Graph, Op
from bbg.graph.file import PackedModel

EDGES = ("int8", "fp32")
CALLS = 2000  # in a round
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


def loading(path: Path, rounds: int) -> list[float]:
    """Durations of loading, one a round."""
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        bbg.load(path, threads=1)
        times.append(time.perf_counter() - began)
    return times


def overhead(rounds: int) -> float:
    """Seconds per call of an engine that has nothing to do, at best."""
    graph = Graph("x", (1, 1, 1), (Op("y", "pointwise", ("x",), "y"),), ()).with_outputs("y")
    engine, x = Engine(PackedModel(graph), threads=1), np.zeros((1, 1, 1, 1), np.float32)
    best = float("inf")
    for _ in range(rounds):
        began = time.perf_counter()
        for _ in range(CALLS):
            engine(x)
        best = min(best, (time.perf_counter() - began) / CALLS)
    return best


def main() -> None:
    """The command line."""
    arguments = options(__doc__, "footprint").parse_args()
    result: dict[str, Any] = {**machine(), "threads": 1, "rounds": arguments.rounds, "footprint": []}
    bare = peak(BARE)
    with tempfile.TemporaryDirectory() as place:
        for network in AVAILABLE:
            for edges in EDGES:
                path = Path(place) / f"{network}-{edges}.bbg"
                pack(network, path, edges)
                times, needed = loading(path, arguments.rounds), peak(RUN.format(path=str(path)))
                result["footprint"].append(
                    {
                        "network": network,
                        "edges": edges,
                        "bytes": path.stat().st_size,
                        "load_min_us": 1e6 * min(times),
                        "load_median_us": 1e6 * median(times),
                        "peak_bytes_above_numpy": needed - bare,
                    }
                )
    result["numpy_peak_bytes"] = bare
    result["call_overhead_us"] = 1e6 * overhead(arguments.rounds)
    finish(result, arguments.out)


if __name__ == "__main__":
    main()
