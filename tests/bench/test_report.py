"""The page of results: every benchmark renders what it has recorded, and the rest of the page stays as it is."""

from __future__ import annotations

import json
import sys
from importlib import import_module
from pathlib import Path

import pytest
from support.paths import ROOT

from bench import BENCHMARKS, report
from bench.markdown import figure, number, part, plain, table
from bench.record import RESULTS, read

FACTS = {
    "date": "2026-01-01",
    "cpu": "A",
    "cpu_family_model": "1/2",
    "cores": 2,
    "load": 0.1,
    "commit": "abc",
    "versions": {"numpy": "2"},
}
ROW = {
    "product": "1 x 2",
    "threads": 1,
    "runtime": "bbg",
    "min_us": 1.5,
    "median_us": 2.0,
    "best_GMACs": 1234.5,
    "ratio_of_min": 1.0,
    "ratio_of_median": 1.0,
}


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    page = tmp_path / "page.md"
    page.write_text(f"# Before\n\n{report.BEGIN}\nold\n{report.END}\n\n## After\n")
    monkeypatch.setattr(sys, "argv", ["report", "--results", str(tmp_path), "--page", str(page)])
    return page


def test_every_benchmark_owns_its_rows_and_its_section() -> None:
    files = {path.stem for path in RESULTS.parent.glob("*.py")}
    assert set(BENCHMARKS) <= files
    pytest.importorskip("torch")
    for name in BENCHMARKS:
        benchmark = import_module(f"bench.{name}")
        assert callable(benchmark.rows)
        assert benchmark.TITLE
        assert benchmark.render(read(RESULTS / f"{name}.json"))


def test_the_page_is_made_of_the_records() -> None:
    """Up to its plots, which may differ by the version of matplotlib."""
    pytest.importorskip("torch")
    text = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    for name in BENCHMARKS:
        result = read(RESULTS / f"{name}.json")
        assert report.source(result, name) in text
        assert import_module(f"bench.{name}").render(result) in text


def test_the_report_keeps_the_rest_of_the_page(tmp_path: Path, page: Path) -> None:
    (tmp_path / "bnn_lab.json").write_text(json.dumps({**FACTS, "bnn_lab": [ROW, ROW]}))
    for _ in range(2):
        report.main()
        text = page.read_text()
        assert text.startswith("# Before\n\n")
        assert text.endswith("\n\n## After\n")
        assert "old" not in text
        assert text.count("| 1 x 2 | 1 | bbg | 1.5 | 2 | 1,234 | 1 | 1 |\n|  |  | bbg |") == 1


def test_what_could_not_be_measured_says_why(tmp_path: Path, page: Path) -> None:
    (tmp_path / "bnn_lab.json").write_text(json.dumps({**FACTS, "absent": "no such package"}))
    report.main()
    assert "Not measured: no such package" in page.read_text()


def test_a_table_leaves_out_what_stands_above() -> None:
    rows = [{"a": 1, "b": 2, "c": 0.5, "d": None}, {"a": 1, "b": 3, "c": 0.25, "d": 1234.5}]
    assert table(rows, plain("a"), plain("b", "bee"), part("c"), figure("d")) == (
        "| a | bee | c | d |\n| --- | --- | --- | --- |\n| 1 | 2 | 50 % |  |\n|  | 3 | 25 % | 1,234 |"
    )


def test_numbers_have_three_digits() -> None:
    assert [number(x) for x in (None, 0.0123456, 99.94, 100.4, 999.6, 12345.6)] == [
        "", "0.0123", "99.9", "100", "1000", "12,346",
    ]  # fmt: skip
