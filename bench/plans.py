"""Networks whose widths a plan chose beside uniform ones of about the same latency, after the same fine-tuning.

    python -m bench.plans --runs DIR [--rounds 20] [--out FILE.json]

The plans are those of `bbg plan CHECKPOINT --budget ...` for the row resnet18-w32-rprelu-8e-s0 of the study, at three
budgets; bench/study.toml has the widths. RUNS/ROW/packed.bbg is what a row came to. All take turns on one thread.
"""

from __future__ import annotations

import shutil
import tempfile
from argparse import Namespace
from pathlib import Path
from typing import Any

from bench.markdown import MEDIAN, MIN, not_measured, plain, table
from bench.mixed import accuracy
from bench.record import Result, parser_of, run
from bench.runtimes import Entrant, compare

TITLE = "Planned widths beside uniform ones"
NETWORK = "resnet20"  # whose images the networks take, CIFAR-10's
EVERYWHERE = ("tuned-w32-1bit-edges8-s0", "tuned-w32-1bit-s0")
BUDGETS = {  # the plan, and the widest network of 8 bits that meets the budget
    "257 us": ("tuned-plan-257us-s0", "tuned-w28-8bits-s0"),
    "216 us": ("tuned-plan-216us-s0", "tuned-w24-8bits-s0"),
    "195 us": ("tuned-plan-195us-s0", "tuned-w24-8bits-s0"),
}


def rows(arguments: Namespace) -> Result:
    """A row per network."""
    names = list(dict.fromkeys(name for pair in BUDGETS.values() for name in pair)) + list(EVERYWHERE)
    with tempfile.TemporaryDirectory() as place:
        for name in names:
            shutil.copy(arguments.runs / name / "packed.bbg", Path(place) / f"{NETWORK}.{name}.bbg")
        entrants = tuple(Entrant("bbg", name) for name in names)
        found, absent = compare(NETWORK, 1, entrants, arguments.rounds, Path(place))
    for row in found:
        row["accuracy"] = accuracy(row["precision"])
    return {"batch": 1, "threads": 1, "absent": absent, "plans": found}


def render(result: Result) -> str:
    """A table per budget in one."""
    by_name = {row["precision"]: row for row in result["plans"]}
    shown: list[dict[str, Any]] = [
        {"budget": budget, **by_name[name]} for budget, pair in BUDGETS.items() for name in (*pair, *EVERYWHERE)
    ]
    columns: list[Any] = [
        plain("budget"),
        plain("precision", "row of the study"),
        MIN,
        MEDIAN,
        ("kB", lambda row: f"{row['bytes'] / 1000:,.0f}"),
        ("accuracy", lambda row: f"{100 * row['accuracy']:.2f} %"),
    ]
    text = "One image, one thread; the accuracy of the packed file, after two epochs of fine-tuning from float weights."
    return f"{text}\n\n{table(shown, *columns)}{not_measured(result['absent'])}"


def main() -> None:
    """The command line."""
    parser = parser_of("plans", __doc__, rounds=20)
    parser.add_argument("--runs", type=Path, required=True, help="the runs of the study")
    run(parser, rows)


if __name__ == "__main__":
    main()
