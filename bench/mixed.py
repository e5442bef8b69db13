"""Networks of 8 and 1 bits beside int8 ones: time in every runtime, size, and accuracy.

    python -m bench.mixed --runs DIR --data DIR [--cache DIR] [--networks resnet20] [--rounds 20] [--out FILE.json]

RUNS/ROW/last.ckpt is what a row of the study came to, whose packed file answers all test images; rows that are not
there are left out. Rows of real-valued layers get their 8 bits in the conversion, with ranges of 500 training images.
The peers run the real-valued network of the same table in int8, as in eight_bits.py. Their accuracy is that of the row
in float32, since their own int8 is not scored.
"""

from __future__ import annotations

import tempfile
from argparse import Namespace
from pathlib import Path
from typing import Any

from bench.eight_bit_accuracy import pack_row
from bench.eight_bits import LEAST, NO_AMX, prepare, unheld
from bench.markdown import MIN, figure, not_measured, plain, table
from bench.record import Result, parser_of, read, run
from bench.runtimes import Entrant, compare, has_amx
from bench.study.rows import RECORDS

TITLE = "Mixed networks beside int8 ones"
LEARNED, ROUNDED = "fp32", "int8"  # edges: whether a row trained in 8 bits, or gets them in the conversion
# Per network: the row of its float training, and the rows of mixed networks that are held against it.
AGAINST = {
    "resnet8": (
        "resnet8-w16-float-20e-s0",
        {
            "mixed-small-20e-s0": LEARNED,
            "mixed-small-wide-20e-s0": LEARNED,
            "mixed-small-broad-20e-s0": LEARNED,
            "mixed-small-fast-20e-s0": LEARNED,
            "bbgnet-xs-20e-s0": LEARNED,
        },
    ),
    "resnet20": (
        "resnet20-w16-float-20e-s0",
        {
            "mixed-medium-20e-s0": LEARNED,
            "mixed-medium-plus-20e-s0": LEARNED,
            "mixed-medium-wide-20e-s0": LEARNED,
            "mixed-medium-short-20e-s0": LEARNED,
            "mixed-medium-deep-20e-s0": LEARNED,
            "resnet18-mixed-20e-s0": LEARNED,
            "tuned-w16-last8-s0": ROUNDED,
        },
    ),
    "resnet18_cifar": (
        "resnet18-w16-float-20e-s0",
        {
            "resnet18-mixed-wide-20e-s0": LEARNED,
            "mixed-large-20e-s0": LEARNED,
            "mixed-large-short-20e-s0": LEARNED,
            "mixed-large-narrow-20e-s0": LEARNED,
        },
    ),
}


def rows(arguments: Namespace) -> Result:
    """A row per network and entrant."""
    result: Result = {"batch": 1, "threads": 1, "absent": [], "mixed": []}
    for name in arguments.networks:
        float_row, mixed = AGAINST[name]
        accuracies = {}
        with tempfile.TemporaryDirectory() as place:
            for row, edges in mixed.items():
                path = Path(place) / f"{name}.{row}.bbg"
                if (RECORDS / f"{row}.json").exists() and (arguments.runs / row / "last.ckpt").exists():
                    accuracies[row] = pack_row(arguments.runs, row, path, edges, arguments.data, arguments.cache)
                    print(row, accuracies[row], flush=True)
            real: dict[str, Any] = read(RECORDS / f"{float_row}.json")
            prepare(name, Path(place))
            for entrants in (unheld(), *([NO_AMX] if has_amx() else [])):
                ours = tuple(Entrant("bbg", row, entrants[0].held_to) for row in accuracies)
                found, absent = compare(name, 1, (*entrants, *ours), arguments.rounds, Path(place), LEAST)
                for line in found:
                    line["accuracy"] = accuracies.get(line["precision"], real["packed"]["accuracy"])
                result["mixed"] += found
                result["absent"] += absent
    return result


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
        "of the study have layers of 8 bits and of 1 bit (bench/study/networks.py and study.toml say which); theirs is "
        "that of the packed file."
    )
    return f"{text}\n\n{table(shown, *columns)}{not_measured(result['absent'])}"


def main() -> None:
    """The command line."""
    parser = parser_of("mixed", __doc__, rounds=20)
    parser.add_argument("--runs", type=Path, required=True, help="the runs of the study")
    parser.add_argument("--data", type=Path, required=True, help="the folder of CIFAR-10")
    parser.add_argument("--cache", type=Path, help="folder in which decoded images are kept")
    parser.add_argument("--networks", nargs="+", choices=AGAINST, default=list(AGAINST))
    run(parser, rows, ("numpy", "torch", "openvino", "onnxruntime"))


if __name__ == "__main__":
    main()
