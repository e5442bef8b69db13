"""The frontier of a plan as a picture."""

from __future__ import annotations

import os
from pathlib import Path

from bbg import style
from bbg.budget import Budget
from bbg.files import write_bytes
from bbg.planning.frontier import Plan


def draw_frontier(plan: Plan, path: str | os.PathLike[str]) -> Path:
    """Draw loss against time and against bytes, the chosen plan marked, to `path` (PNG); returns it."""
    budget = Budget.of(plan.budget)
    steps = plan.frontier
    with style.applied():
        figure = style.figure(9.6, 3.9)
        left, right = figure.subplots(1, 2)
        for axis, what, label, unit in (
            (left, "seconds", "us per image, one thread", 1e6),
            (right, "bytes", "kB of tensors", 1e-3),
        ):
            style.axis(axis, title="loss added" if axis is left else "", x=label)
            amounts = [unit * getattr(step, what) for step in steps]
            axis.plot(amounts, [step.loss for step in steps], color=style.GREEN, marker="o", markersize=4)
            chosen = steps[plan.chosen]
            axis.plot([unit * getattr(chosen, what)], [chosen.loss], color=style.VIOLET, marker="o", markersize=9)
            binary = f"{len(chosen.binary)} layer{'s' * (len(chosen.binary) != 1)} at 1 bit"
            place = (unit * getattr(chosen, what), chosen.loss)
            axis.annotate(binary, place, xytext=(8, 8), textcoords="offset points", color=style.VIOLET)
            if what == budget.what:
                axis.axvline(unit * budget.amount, color=style.GREY, linewidth=1, linestyle="--")
            axis.set_xlim(left=0)
        figure.suptitle(f"Plans for {plan.budget}", x=0.012, ha="left", fontsize=13, fontweight="bold")
        write_bytes(Path(path), style.png(figure))
    return Path(path)
