"""Paths that are no files of a sane size: each verb says so at once, and waits for nobody."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.commands import run

import bbg
from bbg.errors import LONGEST, BbgError, visible
from bbg.reading import contents, regular_file

pytestmark = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names here")


def pipe(folder: Path) -> Path:
    os.mkfifo(folder / "pipe")
    return folder / "pipe"


PATHS: dict[str, Callable[[Path], Path]] = {
    "a pipe that nobody writes": pipe,
    "a device without an end": lambda folder: Path("/dev/zero"),
    "a folder": lambda folder: folder,
    "a name of 300 characters": lambda folder: folder / ("x" * 300),
    "a file below a file": lambda folder: Path(__file__) / "x",
    "a link to itself": lambda folder: _link(folder / "loop"),
}
VERBS = {
    "predict an image": ("predict", "{path}"),
    "predict with a model": ("predict", "photo.jpg", "--model", "{path}"),
    "bench": ("bench", "{path}"),
    "inspect": ("inspect", "{path}"),
    "inspect a checkpoint": ("inspect", "--checkpoint", "{path}"),
    "eval": ("eval", "{path}", "--data", "."),
    "convert": ("convert", "{path}", "-o", "out.bbg"),
    "train": ("train", "{path}"),
    "train from weights": ("train", "digits_resnet8", "--init", "{path}"),
    "recipe": ("recipe", "{path}"),
    "plan": ("plan", "{path}", "--budget", "1us", "-o", "out.toml"),
    "zoo add": ("zoo", "add", "{path}", "--name", "other"),
}


def _link(path: Path) -> Path:
    path.symlink_to(path)
    return path


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("case", PATHS)
def test_a_special_file_is_one_sentence(
    case: str, verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    pytest.importorskip("torch")
    place = tmp_path / "place"
    place.mkdir()
    monkeypatch.chdir(place)
    bbg.zoo.sample().read_bytes()
    (place / "photo.jpg").write_bytes(bbg.zoo.sample().read_bytes())
    given = PATHS[case](tmp_path if case != "a folder" else place / "empty")
    if case == "a folder":
        given.mkdir()
    status = run(*(word.format(path=given) for word in VERBS[verb]))
    told = capsys.readouterr().err.splitlines()
    assert status in (1, 2)
    assert len(told) == 1
    assert told[0].startswith("bbg: ")
    assert sorted(path.name for path in place.iterdir() if path != given) == ["photo.jpg"]


def test_a_file_is_read_up_to_what_it_may_have(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"12345")
    assert contents(file, 5) == b"12345"
    with pytest.raises(OSError, match="has 5 bytes, at most 4 are read"):
        contents(file, 4)
    with pytest.raises(OSError, match="is a pipe or a device"), regular_file("/dev/null"):
        pass
    with pytest.raises(OSError, match="has more than 10 bytes"):
        contents("/proc/self/maps", 10)  # whose size the system does not tell


def test_what_a_stranger_called_something_steers_no_terminal(tmp_path: Path, capsys: Any) -> None:
    evil = "\x1b]0;OWNED\x07\x1b[2J\u202e cat\n   99.9 %  dog"
    assert visible(evil) == r"\x1b]0;OWNED\x07\x1b[2J\u202e cat\n   99.9 %  dog"
    assert str(BbgError(f"no {evil}")) == f"no {visible(evil)}"
    long = str(BbgError("x" * 10**6))
    assert LONGEST < len(long) < LONGEST + 10
    name = evil.replace("/", "")
    assert run("predict", tmp_path / name) == 1
    photo = tmp_path / f"{name}.jpg"
    photo.write_bytes(bbg.zoo.sample().read_bytes())
    assert run("predict", photo, "--top", "1") == 0
    shown = capsys.readouterr()
    assert not any(c in shown.out + shown.err for c in "\x1b\x07\u202e")
    assert len(shown.err.splitlines()) == 1
    assert len(shown.out.splitlines()) == 2
    assert np.isfinite(bbg.load("resnet20-cifar10").predict(photo)[0].score)
