"""The frontier: accuracy against latency and against bytes of all trained networks, ours and those of int8 engines.

    python -m bench.frontier --runs DIR --data DIR [--cache DIR] [--rows NAME ...] [--rounds 20] [--out FILE.json]

RUNS/NAME/last.ckpt is what a row of the study came to. A real-valued row runs in every other runtime, in float32 and in
int8 with ranges of 500 training images, and in bbg in 8 bits. A row with layers of 1 bit runs in bbg. Each runtime
names all test images with the very model that is timed, one image at a time on one thread.

For each peer of the peers' own frontier the table names the most accurate of ours that is no slower, or no larger, and
how much more accurate it is.
Between two of our networks the frontier is read off at the peer's accuracy, the logarithm of time or bytes as a
straight line.
"""

from __future__ import annotations

import math
import tempfile
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from bbg import style
from bbg.data import open_recipe
from bbg.data.sets import read_batch
from bbg.files import write_bytes
from bbg.layers.bits import bits_of
from bench.eight_bit_accuracy import calibration, pack
from bench.eight_bits import unheld
from bench.markdown import MIN, figure, not_measured, plain, table
from bench.networks import export
from bench.record import Result, parser_of, run
from bench.runtime_process import JUDGED
from bench.runtimes import Entrant, compare
from bench.study.row import trained
from bench.study.rows import read as study_rows

TITLE = "The frontier"
PLOT = "accuracy.svg"
FLOAT32 = tuple(Entrant(runtime, "float32") for runtime in ("OpenVINO", "ONNX Runtime", "LiteRT"))
LEAST = 0.0  # correlation with torch that is asked for: whatever an engine makes of 8 bits, its accuracy tells
WHAT = {"min_us": "us per image, one thread", "bytes": "bytes of the model"}


def rows(arguments: Namespace) -> Result:
    """A row per network and entrant."""
    names = arguments.rows or [row.name for row in study_rows()]
    found = [name for name in names if (arguments.runs / name / "last.ckpt").exists()]
    result: Result = {"batch": 1, "threads": 1, "absent": [], "frontier": []}
    for name in found:
        with tempfile.TemporaryDirectory() as place:
            binary = prepare(arguments.runs, name, Path(place), arguments.data, arguments.cache)
            entrants = (Entrant("bbg", "packed"),) if binary else (*unheld(), *FLOAT32)
            rows, absent = compare(name, 1, entrants, arguments.rounds, Path(place), LEAST)
        result["frontier"] += rows
        result["absent"] += absent
        print(table(rows, plain("network"), plain("runtime"), plain("precision"), MIN, figure("accuracy")), flush=True)
    return result


def prepare(runs: Path, name: str, folder: Path, data: Path, cache: Path | None) -> bool:
    """The files of all runtimes and the test images; whether the network has layers of 1 bit."""
    state, network = trained(runs, name)
    split = open_recipe(state.recipe, data, cache)
    network, images = network.eval(), calibration(split)
    pixels, labels = read_batch(split.test, range(len(split.test)))
    how = images.preprocess
    judged = {"pixels": pixels, "labels": np.asarray(labels), "mean": np.array(how.mean), "std": np.array(how.std)}
    np.savez(folder / f"{name}.{JUDGED}", **judged)
    binary = any(bits_of(layer) == 1 for layer in network.modules())
    pack(network, folder / f"{name}.bbg", images, "fp32" if binary else "int8")
    if not binary:
        export(network, name, how.normalize(pixels[:1]), how.normalize(images.images), folder)
    return binary


def is_ours(row: Result) -> bool:
    """Whether it has layers of 1 bit."""
    return bool(row["precision"] == "packed")


def best(points: Sequence[Result], what: str) -> list[Result]:
    """Those of `points` that no other one beats in accuracy and in `what`, the cheapest first."""
    found: list[Result] = []
    for point in sorted(points, key=lambda p: (p[what], -p["accuracy"])):
        if not found or point["accuracy"] > found[-1]["accuracy"]:
            found.append(point)
    return found


def read_off(points: Sequence[Result], accuracy: float, what: str) -> float | None:
    """What the frontier of `points` costs at `accuracy`; None where it does not reach it.

    Between two points the logarithm of the cost is a straight line of the accuracy. Below the cheapest it is its cost.
    """
    line = best(points, what)
    for lower, upper in zip([None, *line], line, strict=False):
        if upper["accuracy"] >= accuracy:
            if lower is None:
                return float(upper[what])
            share = (accuracy - lower["accuracy"]) / (upper["accuracy"] - lower["accuracy"])
            return float(math.exp((1 - share) * math.log(lower[what]) + share * math.log(upper[what])))
    return None


def verdicts(result: Result, what: str) -> list[Result]:
    """A row for each peer of the peers' frontier: the most accurate of ours that costs no more, and the ratio."""
    ours = [row for row in result["frontier"] if is_ours(row)]
    found = []
    for peer in best([row for row in result["frontier"] if row["runtime"] != "bbg"], what):
        cheap = [row for row in ours if row[what] <= peer[what]]
        match = max(cheap, key=lambda row: float(row["accuracy"]), default=None)
        cost = read_off(ours, peer["accuracy"], what)
        found.append(
            {
                "peer": f"{peer['network']}, {peer['runtime']} {peer['precision']}",
                "cost": peer[what],
                "accuracy": peer["accuracy"],
                "ours": "" if match is None else match["network"],
                "points": None if match is None else 100 * (match["accuracy"] - peer["accuracy"]),
                "ratio": None if cost is None else peer[what] / cost,
            }
        )
    return found


def render(result: Result) -> str:
    """The points, and both frontiers."""
    points = sorted(result["frontier"], key=lambda row: (row["runtime"] != "bbg", row["network"]))
    parts = [
        "One image, one thread. Accuracy is that of the very model that is timed, on all test images.",
        f"![Accuracy against latency and bytes]({PLOT})",
        table(
            points,
            plain("network", "row of the study"),
            plain("runtime"),
            plain("precision"),
            MIN,
            ("kB", lambda row: f"{row['bytes'] / 1000:,.1f}"),
            ("accuracy", lambda row: f"{100 * row['accuracy']:.2f} %"),
        ),
    ]
    for what, words in WHAT.items():
        parts += [
            f"The peers' frontier by {words}. The best of ours at no more: its distance in points; and at the peer's "
            "accuracy, the peer's cost over ours.",
            table(
                verdicts(result, what),
                plain("peer"),
                figure("cost", words),
                ("accuracy", lambda row: f"{100 * row['accuracy']:.2f} %"),
                plain("ours", "best of ours"),
                ("points", lambda row: "" if row["points"] is None else f"{row['points']:+.2f}"),
                figure("ratio", "peer over ours"),
            ),
        ]
    return "\n\n".join(parts) + not_measured(result["absent"])


def draw(result: Result, folder: Path) -> None:
    """Accuracy against time and against bytes: ours, ours in 8 bits, and the peers, each with its frontier."""
    series = (
        ("bbg, 1 and 8 bits", style.GREEN, is_ours),
        ("bbg, 8 bits", style.VIOLET, lambda row: row["runtime"] == "bbg" and not is_ours(row)),
        ("int8 of the others", style.ORANGE, lambda row: row["runtime"] != "bbg" and row["precision"] != "float32"),
        ("float32 of the others", style.GREY, lambda row: row["runtime"] != "bbg" and row["precision"] == "float32"),
    )
    with style.applied():
        picture = style.figure(10, 4.2)
        for axis, (what, words) in zip(picture.subplots(1, 2, sharey=True), WHAT.items(), strict=True):
            style.axis(axis, x=words, y="accuracy, %" if what == "min_us" else "")
            axis.set_xscale("log")
            for name, colour, fits in series:
                own = [row for row in result["frontier"] if fits(row)]
                axis.scatter([r[what] for r in own], [100 * r["accuracy"] for r in own], s=18, color=colour, label=name)
                line = best(own, what)
                axis.plot([r[what] for r in line], [100 * r["accuracy"] for r in line], color=colour, linewidth=1.4)
        axis.legend(loc="lower right", fontsize=9)
        write_bytes(folder / PLOT, style.svg(picture))


def main() -> None:
    """The command line."""
    parser = parser_of("frontier", __doc__, rounds=20)
    parser.add_argument("--runs", type=Path, required=True, help="the runs of the study")
    parser.add_argument("--data", type=Path, required=True, help="the folder of CIFAR-10")
    parser.add_argument("--cache", type=Path, help="folder in which decoded images are kept")
    parser.add_argument("--rows", nargs="+", metavar="NAME", help="rows of the study; default: all with a checkpoint")
    torch.set_num_threads(2)
    run(parser, rows, ("numpy", "torch", "openvino", "onnxruntime"))


if __name__ == "__main__":
    main()
