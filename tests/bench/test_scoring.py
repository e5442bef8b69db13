"""The benchmark of very many images: its folder of links, what it sees of memory, and its table."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

pytest.importorskip("torch")

from bench import memory, scoring, scoring_peers
from bench.scoring_peers import Setting


def test_photographs_are_repeated_under_other_names(tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    found = scoring.make(tmp_path / "made")
    many = scoring.repeated(found, tmp_path / "many", 1003)
    links = sorted(many.rglob("*.jpg"))
    assert len(links) == 1003
    assert [path.resolve() for path in links[:17]] == [*found, found[0]]
    assert {path.parent.name for path in links} == {"0000", "0001"}


def test_memory_is_that_of_a_process_and_what_comes_from_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "EVERY", 0.05)
    code = (
        "import subprocess, sys; b = bytearray(b'1' * 60_000_000); subprocess.run([sys.executable, '-c', sys.argv[1]])"
    )
    child = "import time; b = bytearray(b'1' * 60_000_000); time.sleep(2)"
    assert 120_000_000 < memory.watched("-c", code, child) < 240_000_000
    assert os.getpid() in memory.descendants(os.getppid())
    with pytest.raises(RuntimeError, match="too much"):
        memory.watched("-c", "raise RuntimeError('too much')")


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
    assert "| predict | share of the best possible (85 % asked for) | Ray |" in text
    assert "| share of the best possible (75 % asked for) | start" in text
    assert "DataLoader" not in text
    assert "| net | 2 | 1,000 | 3,000 | 1,000 | 500 | 450 | 90 % | 400 | 80 % | 5 | 60 | 700 |" in text


def test_the_table_of_the_peers_has_what_was_the_best_for_each() -> None:
    row = {"network": "net", "images": 1000, "runtime": "OpenVINO", "precision": "int8", "per_second": 250.0}
    more = {"loaders": 2, "threads": 1, "batch": 32, "predict_ratio": 1.8, "ray_ratio": 1.6, "bytes": 700_000_000}
    absent = {"runtime": "ONNX Runtime", "precision": "int8", "network": "net", "reason": "not here"}
    text = scoring.render({"scoring": [], "peers": [{**row, **more}], "absent": [absent]})
    assert "| 1,000 | OpenVINO | int8 | 2 | 1 | 32 | 250 | 1.8 | 1.6 | 700 |" in text
    assert text.endswith("Not measured: ONNX Runtime, int8 on net: not here")


def test_what_is_tried_uses_all_cores_and_the_fastest_is_taken() -> None:
    assert scoring_peers.settings(1) == [Setting(1, 1, 1), Setting(1, 1, 32)]
    two = scoring_peers.settings(2)
    assert [one[:2] for one in two[::2]] == [(1, 1), (2, 1), (2, 2)]
    assert [one.batch for one in two] == [1, 32] * 3
    assert all(one.loaders + one.threads >= cores for cores in (2, 3, 8) for one in scoring_peers.settings(cores))
    assert scoring_peers.best_of(dict(zip(two, [3.0, 9.0, 1.0, 9.0, 2.0, 8.0], strict=True))) == two[1]


def test_a_runtime_that_fails_is_left_out_and_the_best_setting_of_the_others_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = []

    def watched(*words: object) -> int:
        runtime, _, loaders, threads, batch, images, *_, report = words[2:]
        if runtime == "OpenVINO":
            raise RuntimeError("no such package")
        ran.append((Setting(*map(int, map(str, (loaders, threads, batch)))), images))
        seconds = 1 if (loaders, batch) == (2, 1) else 2
        Path(str(report)).write_text(json.dumps({"seconds": seconds, "images": images, "correlation": 0.99}))
        return 10 * len(ran)

    monkeypatch.setattr(scoring_peers, "watched", watched)
    peers = scoring_peers.Peers("net", tmp_path, tmp_path, 1000, [0, 1])
    assert [one["reason"] for one in peers.absent] == ["no such package"]
    peers.turn()
    assert ran == [*((one, 400) for one in scoring_peers.settings(2)), (Setting(2, 1, 1), 1000)]
    (row,) = peers.rows({"predict_per_second": 2000.0, "ray_per_second": 1500.0})
    assert (row["loaders"], row["threads"], row["batch"], row["bytes"]) == (2, 1, 1, 70)
    assert (row["per_second"], row["predict_ratio"], row["ray_ratio"]) == (1000.0, 2.0, 1.5)
