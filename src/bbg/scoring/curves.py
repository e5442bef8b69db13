"""Precision by recall of each class of a detector: as a table, and as a picture where matplotlib is installed."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from bbg import style, tables
from bbg.average_precision import Curve
from bbg.files import write_bytes, write_text
from bbg.log import LOGGER
from bbg.scoring.detection import BoxEvaluation

FILES = ("curves.csv", "curves.png")
RECALLS = np.linspace(0, 1, 201)  # at which the mean over the classes is drawn


def write_curves(evaluation: BoxEvaluation, model: str, out: Path) -> None:
    """`curves.csv` and `curves.png` in the folder `out`; where there is no matplotlib, the table alone, which is told.

    A row of the table is a box that is right: its class and score, and recall and precision of all boxes of that class
    with at least that score. The last row of a class is that of its last box. The overlap asked for is 0.5.
    """
    write_text(out / FILES[0], tables.csv(list(rows(evaluation))))
    if find_spec("matplotlib") is None:
        LOGGER.warning("%s is not drawn: that needs matplotlib; run pip install matplotlib", FILES[1])
        return
    write_bytes(out / FILES[1], drawn(evaluation, model))


def rows(evaluation: BoxEvaluation) -> Iterator[dict[str, Any]]:
    """The rows of the table."""
    for number, name in enumerate(evaluation.classes):
        curve = evaluation.matches.curve(number)
        if not curve.objects:
            continue
        recall, precision = curve.recall, curve.precision
        right = np.diff(curve.right, prepend=0) > 0
        right[-1:] = True
        for place in np.flatnonzero(right).tolist():
            score = float(curve.scores[place])
            yield {"class": name, "score": score, "recall": recall[place], "precision": precision[place]}


def best_precision(curve: Curve, recalls: np.ndarray) -> np.ndarray:
    """The best precision from each of `recalls` on, 0 beyond what is reached: the line whose area is the AP."""
    if not len(curve.right):
        return np.zeros(len(recalls))
    best = np.append(np.maximum.accumulate(curve.precision[::-1])[::-1], 0)
    found: np.ndarray = best[np.searchsorted(curve.recall, recalls, side="left")]
    return found


def drawn(evaluation: BoxEvaluation, model: str) -> bytes:
    """The curves as a PNG file: of up to eight classes each in a colour; of more in grey, and their mean."""
    known = [(name, evaluation.matches.curve(number)) for number, name in enumerate(evaluation.classes)]
    known = [(name, curve) for name, curve in known if curve.objects]
    few = len(known) <= len(style.SERIES)
    lines = np.array([best_precision(curve, RECALLS) for _, curve in known]).reshape(-1, len(RECALLS))
    with style.applied():
        figure = style.figure(7.2, 4.8)
        axis = style.axis(figure.subplots(), x="recall", y="precision")
        for place, (name, curve) in enumerate(known):
            label = f"{style.text(name)[:40]}  {100 * curve.area:.1f} %"
            colour = style.SERIES[place] if few else style.PALE
            how = {"label": label} if few else {"linewidth": 0.8}
            axis.plot(RECALLS, lines[place], color=colour, drawstyle="steps-pre", **how)
        if len(known) > 1:
            mean = f"mean  {100 * evaluation.matches.mean_area:.1f} %"
            dashes = {"linestyle": "--", "color": style.INK} if few else {"color": style.GREEN}
            axis.plot(RECALLS, lines.mean(0), drawstyle="steps-pre", label=mean, **dashes)
        for direction in ("x", "y"):
            style.percent(axis, direction)
            getattr(axis, f"set_{direction}lim")(0, 1.02)
        if known:
            axis.legend(loc="upper left", bbox_to_anchor=(1.01, 1), title="average precision", alignment="left")
        axis.set_title(f"{len(evaluation):,} images, {style.text(model)}")
        return style.png(figure)
