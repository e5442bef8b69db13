"""Each binary kernel on the layers of cases/convolutions.py, beside the roofline loop of its kernel set, on one thread.

    python -m bench.kernels [--sets avx512 avx2] [--rounds 10] [--out bench/results/kernels.json]

A layer runs through the public engine in two forms: "bits", whose integer sums meet thresholds and leave as bits, and
"unit", whose sums get scale, bias, gated shortcut (where the shapes agree) and a hinge and leave as real values and
bits. Time is that of the op alone; MACs are those of taps inside the map. Every set runs in a process of its own;
rounds of the roofline loop alternate with rounds of the layer, and the share is that of the best of both. A kernel that
counts in another way than the loop does, three words at a time or by a larger table, may exceed it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from statistics import median

from bbg import _native
from bbg.engine import kernel_sets
from bench.binary_layers import FORMS, Timed
from bench.markdown import figure, number, part, percent, plain, table
from bench.measure import spread
from bench.record import ROOT, Result, parser_of, run
from cases.convolutions import LAYERS

TITLE = "Kernels beside the roofline"
SECONDS = 0.02  # of the layer in one round


def measure(kernel_set: str, rounds: int) -> Result:
    """All layers in both forms with one kernel set, which this process is held to."""
    rows, rooflines = [], []
    for network, case, images in LAYERS:
        for form in FORMS:
            timed = Timed(case, form, images)
            assert timed.engine.kernels == kernel_set
            limits, times = [], []
            for _ in range(rounds):
                limits.append(_native.roofline(kernel_set))
                times += timed.round(SECONDS)
            best, middle = (1e-9 * timed.macs / t for t in (min(times), median(times)))
            rows.append(
                {
                    "set": kernel_set,
                    "network": network,
                    "layer": str(case),
                    "images": images,
                    "form": form,
                    "MMACs": timed.macs / 1e6,
                    **spread(times),
                    "best_GMACs": best,
                    "median_GMACs": middle,
                    "share": best / max(limits),
                    "median_share": middle / median(limits),
                }
            )
            rooflines += limits
    limit = {"set": kernel_set, "best_GMACs": max(rooflines), "median_GMACs": median(rooflines)}
    return {"rooflines": [limit], "kernels": rows}


def elsewhere(kernel_set: str, rounds: int) -> Result:
    """`measure` in a process of its own."""
    command = [sys.executable, "-m", "bench.kernels", "--only", kernel_set, "--rounds", str(rounds)]
    environment = {**os.environ, "BBG_ISA": kernel_set}
    done = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, check=True)
    result: Result = json.loads(done.stdout)
    return result


def rows(arguments: argparse.Namespace) -> Result:
    """A row per kernel set, layer and form; the best and median of the roofline loop of each set."""
    result: Result = {"threads": 1, "rooflines": [], "kernels": []}
    for name in arguments.sets:
        measured = elsewhere(name, arguments.rounds)
        result["rooflines"] += measured["rooflines"]
        result["kernels"] += measured["kernels"]
    return result


def render(result: Result) -> str:
    """Rooflines, then both forms of a layer side by side."""
    forms = {(r["set"], r["network"], r["layer"], r["images"], r["form"]): r for r in result["kernels"]}
    layers = [{**bits, "unit": forms[(*key, "unit")]} for (*key, form), bits in forms.items() if form == "bits"]
    return "\n\n".join(
        (
            "The roofline is a loop of xor, population count and addition with nothing around it, on one thread; for "
            "AVX2 the classic one that looks nibbles up. `bits` is a layer that ends in thresholds, `unit` one that "
            "ends in scale, bias, shortcut and hinge. Best of all rounds; MACs are those of taps inside the map.",
            table(
                result["rooflines"],
                plain("set", "kernel set"),
                figure("best_GMACs", "roofline, GMAC/s"),
                figure("median_GMACs", "median"),
            ),
            table(
                layers,
                plain("set", "kernel set"),
                plain("network"),
                ("layer", lambda r: r["layer"] + (f", {r['images']} images" if r["images"] > 1 else "")),
                figure("min_us", "bits: us"),
                figure("best_GMACs", "GMAC/s"),
                part("share", "of the roofline"),
                ("unit: us", lambda r: number(r["unit"]["min_us"])),
                ("GMAC/s", lambda r: number(r["unit"]["best_GMACs"])),
                ("of the roofline", lambda r: percent(r["unit"]["share"])),
            ),
        )
    )


def main() -> None:
    """The command line."""
    known = [s.name for s in kernel_sets() if s.supported]
    parser = parser_of("kernels", __doc__, rounds=10)
    parser.add_argument("--sets", nargs="+", choices=known, default=known)
    parser.add_argument("--only", choices=known, help="print this set's rows as JSON; BBG_ISA must say the same")
    arguments = parser.parse_args()
    if arguments.only:
        print(json.dumps(measure(arguments.only, arguments.rounds)))
    else:
        run(parser, rows)


if __name__ == "__main__":
    main()
