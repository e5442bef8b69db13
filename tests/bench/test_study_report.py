"""The page of the study says what its records say, and what has none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bbg.files import write_json
from bbg.recipe import Recipe
from bench.study.report import draw, render
from bench.study.rows import Row

ROWS = [
    Row(f"{method}-s{seed}", "A", Recipe(dataset="cifar10", network="resnet20", method=method, seed=seed, epochs=2))
    for method in ("bbg", "float")
    for seed in (0, 1)
]


def result(accuracy: float, finished: bool = True) -> dict[str, Any]:
    history = [{"epoch": 1, "test_accuracy": 0.25}, {"epoch": 2, "test_accuracy": accuracy}]
    if not finished:
        return {"finished": False, "epochs": 1, "history": history[:1]}
    packed = {"edges": "fp32", "accuracy": accuracy - 0.001, "bytes": 56_000}
    facts = {"threads": 2, "commits": ["1234567"], "seconds": 360.0, "epochs": 2}
    return {"finished": True, "accuracy": accuracy, "packed": packed, "history": history, **facts}


def test_the_page_holds_what_was_found(tmp_path: Path) -> None:
    records = tmp_path / "records"
    records.mkdir()
    for name, found in {"bbg-s0": result(0.5), "bbg-s1": result(0.6), "float-s0": result(0.7, finished=False)}.items():
        write_json(found, records / f"{name}.json")
    page = render(ROWS, records)
    assert "Tier A: 2 of 4 trainings are done." in page
    assert "| resnet20 | bbg |  | 2 | 0 | 50.00 % | 49.90 % | 56 | 0.10 | 2 threads | 1234567 |" in page
    assert "| resnet20 | bbg |  | 2 | 2 | 55.00 % | 7.07 points |" in page
    assert "| A | float-s0 | 1 of 2 |" in page
    assert "|  | float-s1 | 0 of 2 |" in page
    draw(ROWS, records, tmp_path / "plot.svg")
    again = (tmp_path / "plot.svg").read_bytes()
    draw(ROWS, records, tmp_path / "plot.svg")
    assert (tmp_path / "plot.svg").read_bytes() == again


def test_seeds_are_of_trainings_that_differ_in_nothing_else(tmp_path: Path) -> None:
    recipe = Recipe(dataset="cifar10", network="resnet20", epochs=2)
    rows = [
        Row("plain", "A", recipe),
        Row("relu", "A", recipe.changed({"act": "relu"})),
        Row("on", "A", recipe, "plain"),
    ]
    for row in rows:
        write_json({**result(0.5), "device": "cuda:0, NVIDIA H200"}, tmp_path / f"{row.name}.json")
    page = render(rows, tmp_path)
    assert "Over seeds" not in page
    assert "|  |  | relu | 2 | 0 | 50.00 % | 49.90 % | 56 | 0.10 | GPU | 1234567 |" in page


def test_a_study_that_has_not_begun_has_a_page_too(tmp_path: Path) -> None:
    page = render(ROWS, tmp_path)
    assert "Tier A: 0 of 4 trainings are done." in page
    draw(ROWS, tmp_path, tmp_path / "plot.svg")
    assert not (tmp_path / "plot.svg").exists()
