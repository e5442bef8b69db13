"""`bbg predict --ray`: what does not go together is refused before anything is made."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from support.commands import refused

import bbg


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--ray"], "--ray writes Parquet files into a folder; say which one by --out DIR"),
        (["--workers", "2"], "--workers is for workers of Ray"),
        (["--address", "auto"], "--address is for workers of Ray"),
        (["--ray", "--out", "o", "--json", "-"], "--json has no place beside --ray"),
        (["--ray", "--out", "o", "--csv", "a.csv"], "--csv has no place beside --ray"),
        (["--ray", "--out", "o", "--xml", "a"], "--xml has no place beside --ray"),
        (["--ray", "--out", "o", "--coco", "a.json"], "--coco has no place beside --ray"),
        (["--ray", "--out", "o", "--threads", "1"], "--threads has no place beside --ray: a worker has one thread"),
        (["--ray", "--out", "o", "--allow-urls"], "--allow-urls has no place beside --ray"),
        (["--ray", "--out", "o", "--every", "2"], "--every has no place beside --ray"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, words: list[str], reason: str
) -> None:
    monkeypatch.chdir(tmp_path)
    refused(tmp_path, capsys, reason, "predict", bbg.zoo.sample(), *words)
    assert not Path("o").exists()


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["nothing"], "'nothing' does not exist"),
        (["camera:0"], "cannot be shared out"),
        (["film.mp4"], "is a video"),
        ([str(bbg.zoo.sample()), "--score", "0.5"], "makes no boxes, whose least score --score is"),
        ([str(bbg.zoo.sample()), "--model", "nothing"], "nothing"),
    ],
)
def test_what_workers_cannot_do_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, words: list[str], reason: str
) -> None:
    pytest.importorskip("ray")
    monkeypatch.chdir(tmp_path)
    Path("film.mp4").touch()
    refused(tmp_path, capsys, reason, "predict", "--ray", *words, "--out", "o")
    assert not Path("o").exists()


@pytest.mark.parametrize("module", ["ray", "pyarrow"])
def test_without_ray_the_advice_names_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, module: str
) -> None:
    pytest.importorskip("pyarrow")
    monkeypatch.setitem(sys.modules, module, None)
    reason = f"--ray needs {module}, which is not installed; run pip install ray pyarrow"
    refused(tmp_path, capsys, reason, "predict", "--ray", bbg.zoo.sample(), "--out", tmp_path / "o")
