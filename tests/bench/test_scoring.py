"""The benchmark of very many images: its folder of links, what it sees of memory, and its table."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

pytest.importorskip("torch")

from bench import scoring


def test_photographs_are_repeated_under_other_names(tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    found = scoring.make(tmp_path / "made")
    many = scoring.repeated(found, tmp_path / "many", 1003)
    links = sorted(many.rglob("*.jpg"))
    assert len(links) == 1003
    assert [path.resolve() for path in links[:17]] == [*found, found[0]]
    assert {path.parent.name for path in links} == {"0000", "0001"}


def test_memory_is_that_of_a_process_and_what_comes_from_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "EVERY", 0.05)
    code = (
        "import subprocess, sys; b = bytearray(b'1' * 60_000_000); subprocess.run([sys.executable, '-c', sys.argv[1]])"
    )
    child = "import time; b = bytearray(b'1' * 60_000_000); time.sleep(2)"
    assert 120_000_000 < scoring.watched(code, child) < 240_000_000
    assert os.getpid() in scoring.descendants(os.getppid())


def test_the_table_has_a_row_for_each_number_of_images() -> None:
    row = {
        "network": "net",
        "workers": 2,
        "images": 1000,
        "decode_us": 3000.0,
        "network_us": 1000.0,
        "ray_start_s": 5.0,
    }
    speeds = {"best_per_second": 500.0, "predict_per_second": 450.0, "ray_per_second": 400.0}
    more = {"predict_share": 0.9, "ray_share": 0.8, "predict_bytes": 60_000_000, "ray_bytes": 700_000_000}
    text = scoring.render({"scoring": [{**row, **speeds, **more}]})
    assert "| net | 2 | 1,000 | 3,000 | 1,000 | 500 | 450 | 90 % | 400 | 80 % | 5 | 60 | 700 |" in text
