"""A comparison trains each method as it would be trained alone, and survives interruptions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from support.paths import ROOT
from support.trainings import Stop, after, first, stop

from bbg.cli import main
from bbg.comparison import compare, row_of, table
from bbg.data import Split, open_data
from bbg.errors import BbgError
from bbg.methods import METHODS
from bbg.recipe import Recipe
from bbg.training.loop import train

torch.set_num_threads(1)

RECIPE = Recipe(dataset="digits", network="resnet8", width=4, epochs=2, batch_size=256, lr=5e-3, flip=False, seed=3)
UNTIMED = ("seconds",)


@pytest.fixture(scope="module")
def digits() -> Split:
    return open_data("digits", None)


def untimed(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if key not in UNTIMED} for row in rows]


@pytest.fixture(scope="module")
def report(digits: Split, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("compare")
    return compare(RECIPE, digits, ["bbg", "bbg-plain", "float"], 2, out, out / "result.json", progress=False)


def test_each_row_is_the_training_alone(report: dict[str, Any], digits: Split, tmp_path: Path) -> None:
    assert [(row["method"], row["seed"]) for row in report["rows"]] == [
        ("bbg", 3),
        ("bbg-plain", 3),
        ("float", 3),
        ("bbg", 4),
        ("bbg-plain", 4),
        ("float", 4),
    ]
    alone = train(RECIPE.changed({"method": "bbg-plain", "seed": 4}), digits, tmp_path, progress=False)
    assert untimed([row_of(alone)]) == untimed([report["rows"][4]])
    assert report["rows"][4]["accuracy"] == alone.history[-1]["test_accuracy"] == report["rows"][4]["curve"][-1]
    assert report["rows"][4]["epochs"] == len(report["rows"][4]["curve"]) == 2
    assert "method" not in report["recipe"]


def test_trainings_side_by_side_are_those_one_after_another(digits: Split, tmp_path: Path) -> None:
    """In processes of their own, with as many threads as here."""
    assert torch.get_num_threads() == 1
    methods = ["bbg", "float"]
    alone = compare(RECIPE, digits, methods, 1, tmp_path / "a", tmp_path / "a.json", progress=False)
    beside = compare(RECIPE, digits, methods, 1, tmp_path / "b", tmp_path / "b.json", parallel=2, progress=False)
    order = [untimed(sorted(report["rows"], key=lambda row: row["method"])) for report in (alone, beside)]
    assert order[0] == order[1]
    with pytest.raises(BbgError, match="parallel is 0"):
        compare(RECIPE, digits, methods, 1, tmp_path / "c", tmp_path / "c.json", parallel=0, progress=False)


def test_an_interrupted_comparison_goes_on_where_it_stopped(
    report: dict[str, Any], digits: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = -(-len(digits.train.labels) // RECIPE.batch_size) * RECIPE.epochs
    result = tmp_path / "result.json"
    arguments = (RECIPE, digits, ["bbg", "bbg-plain", "float"], 2, tmp_path, result)
    with monkeypatch.context() as patch:
        after(steps + steps // 2 + 1, stop, patch)  # in the second training
        with pytest.raises(Stop):
            compare(*arguments, progress=False)
    first = json.loads(result.read_text())["rows"]
    assert untimed(first) == untimed(report["rows"][:1])
    assert compare(*arguments, progress=False)["rows"][0]["seconds"] == first[0]["seconds"]  # not trained anew
    assert sorted(untimed(json.loads(result.read_text())["rows"]), key=str) == sorted(untimed(report["rows"]), key=str)


def test_the_curves_replace_no_picture_that_is_not_theirs(digits: Split, tmp_path: Path) -> None:
    (tmp_path / "result.png").write_bytes(b"a holiday")
    with pytest.raises(BbgError, match=r"would replace .*result.png'; move it"):
        compare(RECIPE, digits, ["bbg"], 1, tmp_path, tmp_path / "result.json", progress=False)
    assert (tmp_path / "result.png").read_bytes() == b"a holiday"


def test_rows_of_other_methods_are_kept(report: dict[str, Any], digits: Split, tmp_path: Path) -> None:
    result = tmp_path / "result.json"
    old = {key: value for key, value in report["recipe"].items() if key not in ("task", "factory")}
    result.write_text(json.dumps({**report, "recipe": old}))  # as a version before these keys wrote it
    more = compare(RECIPE, digits, ["xnor"], 1, tmp_path, result, progress=False)
    assert more["rows"][:6] == report["rows"]
    assert [(row["method"], row["seed"]) for row in more["rows"][6:]] == [("xnor", 3)]
    with Image.open(tmp_path / "result.png") as image:
        assert image.format == "PNG"
        assert len(image.convert("RGB").getcolors(10**6) or []) > 8  # a curve for each method


def test_the_table_is_mean_and_deviation_over_seeds(report: dict[str, Any]) -> None:
    rows = {row["method"]: row for row in table(report)}
    for name, row in rows.items():
        a, b = (r["accuracy"] for r in report["rows"] if r["method"] == name)
        assert row["accuracy"] == pytest.approx((a + b) / 2)
        assert row["spread"] == pytest.approx(abs(a - b) / 2**0.5)
        assert row["seeds"] == 2
    assert [row["accuracy"] for row in table(report)] == sorted((r["accuracy"] for r in rows.values()), reverse=True)
    assert rows["bbg"]["least_entropy_of_a_layer"] > 0.99
    assert rows["bbg"]["mean_gate"] == pytest.approx(1, abs=0.2)
    assert rows["bbg-plain"]["mean_gate"] is None
    assert rows["float"]["mean_entropy"] is None


def test_what_is_refused(report: dict[str, Any], digits: Split, tmp_path: Path) -> None:
    result = tmp_path / "result.json"
    for methods, words in (([], "methods are none"), (["bbg", "bbg"], "each once"), (["bgb"], "unknown method")):
        with pytest.raises(BbgError, match=words):
            compare(RECIPE, digits, methods, 1, tmp_path, result, progress=False)
    with pytest.raises(BbgError, match="seeds is 100000000, allowed are 1 to 1000"):
        compare(RECIPE, digits, ["bbg"], 10**8, tmp_path, tmp_path / "x.json")
    with pytest.raises(BbgError, match="seeds is 0"):
        compare(RECIPE, digits, ["bbg"], 0, tmp_path, result, progress=False)
    with pytest.raises(BbgError, match="a comparison builds its networks by method; give a recipe with a network"):
        compare(RECIPE.changed({"factory": "a.b:c"}), digits, ["bbg"], 1, tmp_path, result, progress=False)
    result.write_text(json.dumps(report))
    with pytest.raises(BbgError, match=r"compares with epochs = 2, this comparison has 3; give another file"):
        compare(RECIPE.changed({"epochs": 3}), digits, ["bbg"], 1, tmp_path, result, progress=False)
    fewer = digits._replace(test=first(digits.test, 50))
    with pytest.raises(BbgError, match="compares with test_set = "):
        compare(RECIPE, fewer, ["bbg"], 1, tmp_path, result, progress=False)
    for content in (
        "{",
        "[]",
        '{"rows": []}',
        '{"recipe": {}, "rows": 3}',
        '{"recipe": null, "test_set": "", "rows": []}',
        '{"recipe": {}, "test_set": "", "rows": [{}]}',
        "[" * 100_000,
    ):
        result.write_text(content)
        with pytest.raises(BbgError, match="is no result of a comparison"):
            compare(RECIPE, digits, ["bbg"], 1, tmp_path, result, progress=False)
        assert result.read_text() == content


def test_the_verb(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tmp_path / "r.toml"
    recipe.write_text('dataset = "digits"\nnetwork = "resnet8"\nwidth = 4\nbatch_size = 256\n')
    main(["compare", str(recipe), "--methods", "bbg, float", "--epochs", "1", "--out", str(tmp_path / "runs")])
    text = capsys.readouterr().out
    assert "accuracy" in text
    for method in ("bbg", "float"):  # each training says which one it is
        assert f"{method}, seed 0" in text
    rows = json.loads((tmp_path / "runs" / "compare.json").read_text())["rows"]
    assert [row["method"] for row in rows] == ["bbg", "float"]
    assert (tmp_path / "runs" / "compare.png").exists()
    for row in rows:
        assert f"{row['accuracy']:.4g}" in text


def test_the_comparison_that_is_quoted_has_every_method() -> None:
    """docs/results.md quotes docs/results/compare_cifar10_resnet20.json."""
    docs = ROOT / "docs"
    report = json.loads((docs / "results" / "compare_cifar10_resnet20.json").read_text(encoding="utf-8"))
    rows = {row["method"]: row for row in report["rows"]}
    assert set(rows) >= set(METHODS) - {"bbg-plus"}  # which is younger
    assert min(row["epochs"] for row in report["rows"]) >= 8
    for name in ("bbg", "bbg-balanced"):
        assert min(rows[name]["entropy"].values()) > 0.99
    page = (docs / "results.md").read_text(encoding="utf-8")
    for row in table(report):
        assert f"| `{row['method']}` | {100 * row['accuracy']:.2f} % |" in page
