"""Networks of 8 and 1 bits beside int8 ones: time in every runtime, size, and the accuracy of the study.

    python -m bench.mixed --runs DIR [--networks resnet20] [--rounds 20] [--out FILE.json]

RUNS/ROW/packed.bbg is what a row of the study came to. The peers run the real-valued network of the same table in int8,
as in eight_bits.py. Their accuracy is that of the row in float32, since their own int8 is not scored.
"""

from __future__ import annotations

import shutil
import tempfile
from argparse import Namespace
from pathlib import Path
from typing import Any

from bench.eight_bits import FREE, LEAST, NO_AMX, prepare
from bench.markdown import MIN, figure, not_measured, plain, table
from bench.record import Result, parser_of, read, run
from bench.runtimes import Entrant, compare, has_amx
from bench.study.rows import RECORDS

TITLE = "Mixed networks beside int8 ones"
# Per network: the row of its float training, and the rows of mixed networks that are held against it.
AGAINST = {
    "resnet8": (
        "resnet8-w16-float-20e-s0",
        ("mixed-small-20e-s0", "mixed-small-wide-20e-s0", "mixed-small-fast-20e-s0"),
    ),
    "resnet20": (
        "resnet20-w16-float-20e-s0",
        ("mixed-medium-20e-s0", "mixed-medium-wide-20e-s0", "mixed-medium-deep-20e-s0", "resnet18-mixed-20e-s0"),
    ),
    "resnet18_cifar": (
        "resnet18-w16-float-20e-s0",
        ("resnet18-mixed-wide-20e-s0", "mixed-large-20e-s0", "mixed-large-short-20e-s0", "mixed-large-narrow-20e-s0"),
    ),
}


def rows(arguments: Namespace) -> Result:
    """A row per network and entrant."""
    result: Result = {"batch": 1, "threads": 1, "absent": [], "mixed": []}
    for name in arguments.networks:
        float_row, mixed = AGAINST[name]
        mixed = tuple(row for row in mixed if (arguments.runs / row / "packed.bbg").exists())
        with tempfile.TemporaryDirectory() as place:
            prepare(name, Path(place))
            for row in mixed:
                shutil.copy(arguments.runs / row / "packed.bbg", Path(place) / f"{name}.{row}.bbg")
            for entrants in (FREE, *([NO_AMX] if has_amx() else [])):
                ours = tuple(Entrant("bbg", row, entrants[0].held_to) for row in mixed)
                found, absent = compare(name, 1, (*entrants, *ours), arguments.rounds, Path(place), LEAST)
                for line in found:
                    line["accuracy"] = accuracy(line["precision"] if line["precision"] in mixed else float_row)
                result["mixed"] += found
                result["absent"] += absent
    return result


def accuracy(row: str) -> float:
    """On all test images, in the engine where the row was packed in the widths that it was trained in."""
    record: dict[str, Any] = read(RECORDS / f"{row}.json")
    return float(record["packed"]["accuracy"])


def render(result: Result) -> str:
    """A row per entrant; the times are over that of the fastest peer."""

    def group(row: Result) -> tuple[str, bool]:
        return row["network"], row["held_to"] is not None

    peers = [row for row in result["mixed"] if row["runtime"] != "bbg"]
    shown = [
        {**row, "gain": min(p["min_us"] for p in peers if group(p) == group(row)) / row["min_us"]}
        for row in result["mixed"]
    ]
    columns: list[Any] = [
        plain("network", "beside"),
        ("held to", lambda r: r["held_to"] or ""),
        plain("runtime"),
        plain("precision", "precision or row"),
        MIN,
        figure("gain", "fastest peer over it"),
        ("kB", lambda r: "" if r["bytes"] is None else f"{r['bytes'] / 1000:,.0f}"),
        ("accuracy", lambda r: f"{100 * r['accuracy']:.2f} %"),
    ]
    text = (
        "One image, one thread. The accuracy of the peers, and of bbg in 8 bits, is that of the float training. Rows "
        "called `mixed` have layers of 8 bits and of 1 bit (bench/study/networks.py says which); theirs is that of the "
        "packed file."
    )
    return f"{text}\n\n{table(shown, *columns)}{not_measured(result['absent'])}"


def main() -> None:
    """The command line."""
    parser = parser_of("mixed", __doc__, rounds=20)
    parser.add_argument("--runs", type=Path, required=True, help="the runs of the study")
    parser.add_argument("--networks", nargs="+", choices=AGAINST, default=list(AGAINST))
    run(parser, rows, ("numpy", "torch", "openvino", "onnxruntime"))


if __name__ == "__main__":
    main()
