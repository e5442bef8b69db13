"""Where the time of a packed network goes, op by op, binary ones beside the roofline loop, on one thread.

    python bench/layers.py [--networks resnet20 resnet18] [--rounds 30] [--out bench/results/layers.json]

Times are those of Engine.profile on the bytes of an image; MACs are those of taps inside the map.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from common import finish, machine, options
from kernels import executed
from networks import AVAILABLE, bytes_of, pack

from bbg import _native
from bbg.engine import Engine
from bbg.graph.file import read

CALLS = 20  # in a round, after one that warms up


def profile(network: str, path: Path, rounds: int) -> list[dict[str, Any]]:
    """A row per op."""
    model, image = read(path), bytes_of(network)
    engine = Engine(model, threads=1)
    values = model.graph.shapes(*model.graph.input_shape[1:])
    limits, times = [], []
    for _ in range(rounds):
        limits.append(_native.roofline(engine.kernels))
        times += [[op.seconds for op in engine.profile(image)] for _ in range(CALLS + 1)][1:]
    least, middle = np.min(times, axis=0), np.median(times, axis=0)
    rows = []
    for i, (op, cost) in enumerate(zip(model.graph.ops, model.graph.costs(), strict=True)):
        macs = executed(op, values)
        speed = 1e-9 * macs / least[i] if macs and least[i] else None
        share = speed / max(limits) if speed and cost.bits == 1 else None
        rows.append(
            {
                "network": network,
                "kernels": engine.kernels,
                "op": op.name,
                "kind": op.kind,
                "result": list(cost.shape),
                "bits": cost.bits,
                "MMACs": macs / 1e6,
                "min_us": 1e6 * least[i],
                "median_us": 1e6 * middle[i],
                "part": least[i] / least.sum(),
                "best_GMACs": speed,
                "share": share,
            }
        )
    return rows


def main() -> None:
    """The command line."""
    parser = options(__doc__, "layers")
    parser.add_argument("--networks", nargs="+", choices=AVAILABLE, default=AVAILABLE)
    arguments = parser.parse_args()
    result: dict[str, Any] = {**machine(), "threads": 1, "rounds": arguments.rounds, "layers": []}
    with tempfile.TemporaryDirectory() as place:
        for network in arguments.networks:
            path = Path(place) / f"{network}.bbg"
            pack(network, path)
            result["layers"] += profile(network, path, arguments.rounds)
    finish(result, arguments.out)


if __name__ == "__main__":
    main()
