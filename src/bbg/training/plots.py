"""The history of a training, as a table and as curves."""

from __future__ import annotations

import csv
from pathlib import Path


def write_history(history: list[dict[str, float]], out: Path) -> None:
    """`history.csv` and `curves.png` in the folder `out`."""
    with open(out / "history.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list({key: None for row in history for key in row}))
        writer.writeheader()
        writer.writerows(history)
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    epochs = [row["epoch"] for row in history]
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.5), layout="constrained")
    for axis, unit in ((left, "loss"), (right, "accuracy")):
        axis.plot(epochs, [row[unit] for row in history], label="training", marker=".")
        axis.plot(epochs, [row[f"test_{unit}"] for row in history], label="test", marker=".")
        axis.set(xlabel="epoch", ylabel=unit)
        axis.grid(alpha=0.3)
        axis.legend()
    figure.savefig(out / "curves.png", dpi=120)
    plt.close(figure)
