"""The history of a training, as a table and as curves."""

from __future__ import annotations

import csv
from pathlib import Path


def write_history(history: list[dict[str, float]], out: Path) -> None:
    """`history.csv` and `curves.png` in the folder `out`."""
    columns = list({key: None for row in history for key in row})
    with open(out / "history.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(history)
    draw_curves(history, [name for name in columns if f"test_{name}" in columns], out / "curves.png")


def draw_curves(history: list[dict[str, float]], names: list[str], path: Path) -> None:
    """One panel for each figure that the history has of both the training and the test images."""
    from matplotlib.figure import Figure

    epochs = [row["epoch"] for row in history]
    figure = Figure(figsize=(4.5 * len(names), 3.5), layout="constrained")
    for axis, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        axis.plot(epochs, [row[name] for row in history], label="training", marker=".")
        axis.plot(epochs, [row[f"test_{name}"] for row in history], label="test", marker=".")
        axis.set(xlabel="epoch", ylabel=name)
        axis.grid(alpha=0.3)
        axis.legend()
    figure.savefig(path, dpi=120)
