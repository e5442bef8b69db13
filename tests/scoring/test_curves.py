"""Precision by recall, as a table and as lines."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bbg.average_precision import Truth
from bbg.boxes import Boxes
from bbg.scoring import BoxEvaluation, BoxScore
from bbg.scoring.curves import best_precision, rows, write_curves

A, B, FAR = [0, 0, 0.1, 0.1], [0.2, 0.2, 0.4, 0.4], [0.7, 0.7, 0.8, 0.8]


def evaluation(*found: tuple[list[float], float], classes: tuple[str, ...] = ("a", "none")) -> BoxEvaluation:
    """One picture with two objects of the first class."""
    boxes = np.array([box for box, _ in found], float).reshape(-1, 4)
    answer = Boxes(boxes, np.zeros(len(found), np.int64), np.array([score for _, score in found], float))
    truth = Truth(np.array([A, B]), np.zeros(2, np.int64), np.zeros(2, bool))
    filled = BoxEvaluation(classes)
    filled.add(BoxScore(0, "1.png", answer, truth))
    return filled


def test_a_row_is_a_right_box_or_the_last() -> None:
    told = list(rows(evaluation((A, 0.9), (FAR, 0.8), (B, 0.7), (FAR, 0.6), (FAR, 0.5))))
    assert [tuple(row.values()) for row in told] == [
        ("a", 0.9, 0.5, 1.0),
        ("a", 0.7, 1.0, pytest.approx(2 / 3)),
        ("a", 0.5, 1.0, pytest.approx(2 / 5)),
    ]
    assert list(rows(evaluation())) == []


def test_the_area_below_the_line_is_the_average_precision() -> None:
    draws = np.random.default_rng(0)
    filled = BoxEvaluation(("a",))
    for number in range(30):
        corner = draws.uniform(0, 0.5, (6, 2))
        true = np.concatenate((corner, corner + draws.uniform(0.1, 0.3, corner.shape)), 1)
        noisy = true[:4] + draws.normal(0, 0.03, (4, 4))
        boxes, none = Boxes(noisy, np.zeros(4, np.int64), draws.random(4)), np.zeros(6, np.int64)
        filled.add(BoxScore(number, str(number), boxes, Truth(true, none, none.astype(bool))))
    curve = filled.matches.curve(0)
    line = best_precision(curve, (np.arange(100_000) + 0.5) / 100_000)
    assert line.mean() == pytest.approx(curve.area, abs=1e-4)
    assert (np.diff(line) <= 0).all()
    assert best_precision(curve, np.array([0, 1.0])).tolist() == [line[0], 0]


@pytest.mark.parametrize("classes", [1, 3, 20])
def test_pictures_of_few_and_many_classes(classes: int, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    filled = evaluation((A, 0.9), classes=tuple(f"$x_{i}" for i in range(classes)))
    numbers = np.arange(classes)
    filled.add(BoxScore(1, "2.png", Boxes(np.tile(A, (classes, 1)), numbers, numbers / 30), Truth(
        np.tile(A, (classes, 1)), numbers, np.zeros(classes, bool))))  # fmt: skip
    write_curves(filled, "net.bbg", tmp_path)
    assert (tmp_path / "curves.png").read_bytes()[:4] == b"\x89PNG"
    assert (tmp_path / "curves.csv").read_text().startswith("class,score,recall,precision\n")


def test_without_an_object_there_are_no_lines(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    empty = BoxEvaluation(("a",))
    write_curves(empty, "net.bbg", tmp_path)
    assert (tmp_path / "curves.png").is_file()
