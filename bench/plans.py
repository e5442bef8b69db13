"""Networks whose widths a plan chose beside uniform ones of about the same latency, after the same fine-tuning.

    python -m bench.plans --runs DIR --data DIR [--cache DIR] [--rounds 20] [--out FILE.json]

The plans have 1 bit in the layers that `bbg.plan` puts first for the row resnet18-w32-rprelu-8e-s0 of the study (units
15, 14, 13, 12), and as many of them as meet the budget by a timing of the untrained networks in quiet minutes.
bench/study.toml has the widths. RUNS/ROW/last.ckpt is what a row came to; what is not 1 bit becomes 8 bits in the
conversion, with ranges of 500 training images. All take turns on one thread. Rows that are not done are left out.
"""

from __future__ import annotations

import tempfile
from argparse import Namespace
from pathlib import Path
from typing import Any

from bench.eight_bit_accuracy import pack_row
from bench.markdown import MEDIAN, MIN, not_measured, plain, table
from bench.record import Result, parser_of, run
from bench.runtimes import Entrant, compare
from bench.study.rows import RECORDS

TITLE = "Planned widths beside uniform ones"
NETWORK = "resnet20"  # whose images the networks take, CIFAR-10's
FILES = {  # the row, and the edges of the packed file
    "plan for 257 us": ("tuned-plan-257us-s0", "int8"),
    "plan for 216 us": ("tuned-plan-216us-s0", "int8"),
    "plan for 195 us": ("tuned-plan-195us-s0", "int8"),
    "8 bits, width 28": ("tuned-w28-s0", "int8"),
    "8 bits, width 24": ("tuned-w24-s0", "int8"),
    "1 bit, first and last 8": ("tuned-w32-1bit-s0", "int8"),
    "1 bit, first and last float32": ("tuned-w32-1bit-s0", "fp32"),
}
EVERYWHERE = ("1 bit, first and last 8", "1 bit, first and last float32")
BUDGETS = {  # the plan, and the widest network of 8 bits that meets the budget
    "257 us": ("plan for 257 us", "8 bits, width 28"),
    "216 us": ("plan for 216 us", "8 bits, width 24"),
    "195 us": ("plan for 195 us", "8 bits, width 24"),
}


def rows(arguments: Namespace) -> Result:
    """A row per network."""
    accuracies = {}
    with tempfile.TemporaryDirectory() as place:
        for name, (row, edges) in FILES.items():
            if not (RECORDS / f"{row}.json").exists():
                continue
            path = Path(place) / f"{NETWORK}.{name}.bbg"
            accuracies[name] = pack_row(arguments.runs, row, path, edges, arguments.data, arguments.cache)
            print(name, accuracies[name], flush=True)
        entrants = tuple(Entrant("bbg", name) for name in accuracies)
        found, absent = compare(NETWORK, 1, entrants, arguments.rounds, Path(place))
    for line in found:
        line["accuracy"] = accuracies[line["precision"]]
    return {"batch": 1, "threads": 1, "absent": absent, "plans": found}


def render(result: Result) -> str:
    """A table per budget in one."""
    by_name = {row["precision"]: row for row in result["plans"]}
    shown: list[dict[str, Any]] = [
        {"budget": budget, **by_name[name]}
        for budget, pair in BUDGETS.items()
        for name in (*pair, *EVERYWHERE)
        if name in by_name
    ]
    columns: list[Any] = [
        plain("budget"),
        plain("precision", "widths"),
        MIN,
        MEDIAN,
        ("kB", lambda row: f"{row['bytes'] / 1000:,.0f}"),
        ("accuracy", lambda row: f"{100 * row['accuracy']:.2f} %"),
    ]
    missing = [name for name in FILES if name not in by_name]
    text = (
        "One image, one thread; the accuracy of the packed file, after two epochs of fine-tuning from float weights."
        f"{' Not trained yet: ' + ', '.join(missing) + '.' if missing else ''}"
    )
    return f"{text}\n\n{table(shown, *columns)}{not_measured(result['absent'])}"


def main() -> None:
    """The command line."""
    parser = parser_of("plans", __doc__, rounds=20)
    parser.add_argument("--runs", type=Path, required=True, help="the runs of the study")
    parser.add_argument("--data", type=Path, required=True, help="the folder of CIFAR-10")
    parser.add_argument("--cache", type=Path, help="folder in which decoded images are kept")
    run(parser, rows, ("numpy", "torch"))


if __name__ == "__main__":
    main()
