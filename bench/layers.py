"""Where the time of a packed network goes, op by op, binary ones beside the roofline loop, on one thread.

    python -m bench.layers [--networks resnet20 resnet18] [--rounds 30] [--out bench/results/layers.json]

Times are those of Engine.profile on the bytes of an image; MACs are those of taps inside the map.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from bbg import _native
from bbg.engine import Engine
from bbg.graph.file import read
from bench.binary_layers import executed
from bench.markdown import MEDIAN, MIN, figure, part, plain, table
from bench.measure import spread
from bench.networks import AVAILABLE, bytes_of, pack
from bench.record import Result, parser_of, run

TITLE = "Where the time goes"
CALLS = 20  # in a round, after one that warms up


def profile(network: str, path: Path, rounds: int) -> list[dict[str, Any]]:
    """A row per op."""
    model, image = read(path), bytes_of(network)
    engine = Engine(model, threads=1)
    values = model.graph.shapes(*model.graph.input_shape[1:])
    limits, calls = [], []
    for _ in range(rounds):
        limits.append(_native.roofline(engine.kernels))
        calls += [[op.seconds for op in engine.profile(image)] for _ in range(CALLS + 1)][1:]
    times = [spread(of_one_op) for of_one_op in zip(*calls, strict=True)]
    total = sum(time["min_us"] for time in times)
    rows = []
    for op, cost, time in zip(model.graph.ops, model.graph.costs(), times, strict=True):
        macs = executed(op, values)
        speed = 1e-3 * macs / time["min_us"] if macs and time["min_us"] else None
        rows.append(
            {
                "network": network,
                "kernels": engine.kernels,
                "op": op.name,
                "kind": op.kind,
                "result": list(cost.shape),
                "bits": cost.bits,
                "MMACs": macs / 1e6,
                **time,
                "part": time["min_us"] / total,
                "best_GMACs": speed,
                "share": speed / max(limits) if speed and cost.bits == 1 else None,
            }
        )
    return rows


def rows(arguments: argparse.Namespace) -> Result:
    """A row per network and op."""
    result: Result = {"threads": 1, "layers": []}
    with tempfile.TemporaryDirectory() as folder:
        for network in arguments.networks:
            path = Path(folder) / f"{network}.bbg"
            pack(network, path)
            result["layers"] += profile(network, path, arguments.rounds)
    return result


def render(result: Result) -> str:
    """The ops of each network that take at least a hundredth of its time."""
    return "Ops of at least 1 % of the network's time, one thread.\n\n" + table(
        [r for r in result["layers"] if r["part"] >= 0.01],
        plain("network"),
        plain("op"),
        plain("kind"),
        ("result", lambda r: "x".join(map(str, r["result"]))),
        MIN,
        MEDIAN,
        part("part"),
        figure("best_GMACs", "GMAC/s"),
        part("share", "of the roofline"),
    )


if __name__ == "__main__":
    parser = parser_of("layers", __doc__, rounds=30)
    parser.add_argument("--networks", nargs="+", choices=AVAILABLE, default=AVAILABLE)
    run(parser, rows)
