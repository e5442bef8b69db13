"""Each binary kernel on the layers of tests/cases.py, beside the roofline loop of its kernel set, on one thread.

    python bench/kernels.py [--sets avx512 avx2] [--rounds 10] [--out bench/results/kernels.json]

A layer runs through the public engine in two forms: "bits", whose integer sums meet thresholds and leave as bits, and
"unit", whose sums get scale, bias, gated shortcut (where the shapes agree) and a hinge and leave as real values and
bits. Time is that of the op alone; MACs are those of taps inside the map. Every set runs in a process of its own;
rounds of the roofline loop alternate with rounds of the layer, and the share is that of the best of both. A kernel that
counts in another way than the loop does, three words at a time or by a larger table, may exceed it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from statistics import median
from typing import Any

import numpy as np
from common import LAYERS, Case, conv_op, finish, machine, options

from bbg import _native
from bbg.engine import Engine, kernel_sets
from bbg.graph import Graph, Op, Value
from bbg.graph.file import PackedModel

FORMS = ("bits", "unit")


def executed(op: Op, values: Mapping[str, Value]) -> int:
    """Multiply-accumulates of `op` for one image; a tap outside of the map is none."""
    main, result = values[op.inputs[0]], values[op.result]
    if not op.fan_in(main):
        return 0
    a, taps = op.attributes, 1
    for axis, (size, steps) in enumerate(zip(main.shape[1:], result.shape[1:], strict=True)):
        first = np.arange(steps) * a["stride"][axis] - a["padding"][axis]
        at = first[:, None] + np.arange(a["kernel"][axis]) * a["dilation"][axis]
        taps *= int(((at >= 0) & (at < size)).sum())
    return taps * result.channels * main.channels // int(a["groups"])


def layer(case: Case, form: str) -> Graph:
    """A graph whose op "conv" is the binary convolution `case`, with random weights, in a form or as "sums"."""
    rng = np.random.default_rng(0)
    shape = (case.inputs, *case.size)
    sign = Op("sign", "pointwise", ("x",), bits="b")
    op = conv_op("binary_conv", case, rng)
    if form == "bits":
        threshold = rng.integers(-4, 5, case.outputs).astype(np.int32)
        op = replace(op, real=None, bits="y", tensors={**op.tensors, "acc_threshold": threshold})
    elif form == "unit":
        gated = Graph("x", shape, (sign, op), ()).shapes(*case.size)["y"].shape == shape
        rows = ("scale", "bias", "above", "below", "offset") + ("gate",) * gated
        epilogue = rng.standard_normal((len(rows), case.outputs)).astype(np.float32)
        op = replace(
            op,
            bits="z",
            inputs=("b", "x") if gated else ("b",),
            epilogue=rows,
            tensors={**op.tensors, "epilogue": epilogue},
        )
    return Graph("x", shape, (sign, op), ()).with_outputs(op.written)


class Timed:
    """A binary layer in an engine of its own, with the kernel set that a new engine gets."""

    def __init__(self, case: Case, form: str = "bits", images: int = 1, threads: int = 1) -> None:
        graph = layer(case, form)
        self.images = images
        self.macs = images * executed(graph.ops[1], graph.shapes(*case.size))
        self.engine = Engine(PackedModel(graph), threads)
        shape = (images, case.inputs, *case.size)
        self._x = np.random.default_rng(1).standard_normal(shape).astype(np.float32)

    def seconds(self) -> float:
        """How long the layer takes once."""
        return self.engine.profile(self._x)[1].seconds

    def round(self, seconds: float) -> list[float]:
        """Its times, once after another, while the layer has run for less than `seconds`."""
        self.seconds()
        times = [self.seconds()]
        while sum(times) < seconds:
            times.append(self.seconds())
        return times


def measure(kernel_set: str, rounds: int, seconds: float = 0.01) -> dict[str, Any]:
    """All layers in both forms with one kernel set, which this process is held to."""
    rows, rooflines = [], []
    for network, case, images in LAYERS:
        for form in FORMS:
            timed = Timed(case, form, images)
            assert timed.engine.kernels == kernel_set
            limits, times = [], []
            for _ in range(rounds):
                limits.append(_native.roofline(kernel_set))
                times += timed.round(seconds)
            best, middle = (1e-9 * timed.macs / t for t in (min(times), median(times)))
            rows.append(
                {
                    "set": kernel_set,
                    "network": network,
                    "layer": str(case),
                    "images": images,
                    "form": form,
                    "MMACs": timed.macs / 1e6,
                    "min_us": 1e6 * min(times),
                    "median_us": 1e6 * median(times),
                    "best_GMACs": best,
                    "median_GMACs": middle,
                    "share": best / max(limits),
                    "median_share": middle / median(limits),
                }
            )
            rooflines += limits
    limit = {"set": kernel_set, "best_GMACs": max(rooflines), "median_GMACs": median(rooflines)}
    return {"rooflines": [limit], "kernels": rows}


def elsewhere(kernel_set: str, rounds: int) -> dict[str, Any]:
    """`measure` in a process of its own."""
    command = [sys.executable, __file__, "--only", kernel_set, "--rounds", str(rounds)]
    done = subprocess.run(command, env={**os.environ, "BBG_ISA": kernel_set}, stdout=subprocess.PIPE, check=True)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def main() -> None:
    """The command line."""
    known = [s.name for s in kernel_sets() if s.supported]
    parser = options(__doc__, "kernels")
    parser.add_argument("--sets", nargs="+", choices=known, default=known)
    parser.add_argument("--only", choices=known, help="print this set's rows as JSON; BBG_ISA must say the same")
    parser.set_defaults(rounds=10)
    arguments = parser.parse_args()
    if arguments.only:
        print(json.dumps(measure(arguments.only, arguments.rounds)))
        return
    result: dict[str, Any] = {**machine(), "threads": 1, "rounds": arguments.rounds, "rooflines": [], "kernels": []}
    for name in arguments.sets:
        part = elsewhere(name, arguments.rounds)
        result["rooflines"] += part["rooflines"]
        result["kernels"] += part["kernels"]
    finish(result, arguments.out)


if __name__ == "__main__":
    main()
