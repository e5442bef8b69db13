"""The history of a training, as a table and as curves."""

from __future__ import annotations

import csv
from io import StringIO
from pathlib import Path
from typing import Any

from bbg import style
from bbg.files import write_bytes, write_text

# What a figure may be of, as the prefix of its column, with the word and the colour of its line.
SIDES = (("", "training", style.GREY), ("held_out_", "held out", style.VIOLET), ("test_", "test", style.GREEN))


def write_history(history: list[dict[str, float]], out: Path) -> None:
    """`history.csv` and `curves.png` in the folder `out`."""
    columns = list({key: None for row in history for key in row})
    writer = csv.DictWriter(table := StringIO(), columns)
    writer.writeheader()
    writer.writerows(history)
    write_text(out / "history.csv", table.getvalue())
    draw_curves(history, [name for name in columns if f"test_{name}" in columns], out / "curves.png")


def draw_curves(history: list[dict[str, float]], names: list[str], path: Path) -> None:
    """A panel for each figure that the history has of training and test images, and one for the learning rate."""
    rated = any("lr" in row for row in history)
    with style.applied():
        panels = len(names) + rated
        figure = style.figure(4.4 * panels, 3.7)
        axes = list(figure.subplots(1, panels, squeeze=False)[0])
        for axis, name in zip(axes, names, strict=False):
            draw_figure(axis, history, name)
        if rated:
            rows = [row for row in history if "lr" in row]
            style.axis(axes[-1], title="learning rate", x="end of epoch")
            style.whole_numbers(axes[-1])
            _line(axes[-1], rows, "lr", style.VIOLET)
            axes[-1].set_ylim(bottom=0)
        figure.suptitle(style.text(path.resolve().parent.name), x=0.012, ha="left", fontsize=13, fontweight="bold")
        write_bytes(path, style.png(figure))


def draw_figure(axis: Any, history: list[dict[str, float]], name: str) -> None:
    """One figure by epoch, of each of SIDES that the history has, with the last value beside the line."""
    style.axis(axis, title=name.replace("_", " "), x="epoch")
    style.whole_numbers(axis)
    sides = [
        (prefix + name, word, colour) for prefix, word, colour in SIDES if any(prefix + name in r for r in history)
    ]
    values = [row[column] for column, _, _ in sides for row in history if column in row]
    share = "loss" not in name and all(0 <= value <= 1 for value in values)
    ends = [_line(axis, [row for row in history if column in row], column, colour) for column, _, colour in sides]
    if share:
        style.percent(axis)
    words = [
        word + (f" {100 * end:.1f} %" if share else f" {end:.3g}")
        for end, (_, word, _) in zip(ends, sides, strict=True)
    ]
    style.label_ends(axis, int(history[-1]["epoch"]), ends, words, [colour for _, _, colour in sides])


def _line(axis: Any, rows: list[dict[str, float]], column: str, colour: str) -> float:
    """Draw a column by epoch; returns its last value."""
    marker = "o" if len(rows) < 20 else None
    axis.plot(
        [int(row["epoch"]) for row in rows], [row[column] for row in rows], color=colour, marker=marker, markersize=4
    )
    return rows[-1][column]
