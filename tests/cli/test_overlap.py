"""No file that a command reads, or has written, is lost to another one that it writes."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.commands import QUICK, RECIPE, refused, run
from support.files import model

from bbg.cli.parser import STDOUT, VERBS, new_file, new_folder, packed_file, text_file
from bbg.graph.file import write


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The present folder, with files of every kind."""
    monkeypatch.chdir(tmp_path)
    write("net.bbg", model())
    shutil.copy(RECIPE, "own.toml")
    (tmp_path / "photos" / "cat").mkdir(parents=True)
    for name in ("a.jpg", "photos/cat/b.png", "photos/c.png"):
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 30, 3), np.uint8)).save(name)
    for name in ("w.ckpt", "photos/batch_1"):
        (tmp_path / name).write_text("of the user")
    for name in ("ant", "bee", "cat", "🐕"):
        Image.new("RGB", (9, 9)).save(
            (tmp_path / "labelled" / "test" / name).mkdir(parents=True) or f"labelled/test/{name}/0.png"
        )
    (tmp_path / "link.json").symlink_to("a.jpg")
    return tmp_path


@pytest.mark.parametrize("form", ["pipe", "file"])
@pytest.mark.parametrize("line", ["a.jpg", "./photos/../a.jpg", "link.json", "*.jpg", "."])
@pytest.mark.parametrize("option", ["--json", "--csv"])
def test_no_image_of_a_list_is_lost(option: str, line: str, form: str, folder: Path) -> None:
    before = Path("a.jpg").read_bytes()
    command = [sys.executable, "-m", "bbg", "predict", "-", option, "a.jpg"]
    Path("list.txt").write_text(f"{line}\n")
    with open("list.txt", "rb") as file:
        given: dict[str, Any] = {"stdin": file} if form == "file" else {"input": file.read()}
        done = subprocess.run(command, capture_output=True, check=False, timeout=60, **given)
    assert done.returncode == 2
    assert b"is an image and is to be written, and would be lost" in done.stderr
    assert Path("a.jpg").read_bytes() == before


PREDICT, EVAL = "predict --model net.bbg", "eval net.bbg --data photos"
LOST = [
    f"{PREDICT} a.jpg --json a.jpg",
    f"{PREDICT} a.jpg --csv ./photos/../a.jpg",
    f"{PREDICT} a.jpg --json link.json",
    f"{PREDICT} a.jpg --json net.bbg",
    f"{PREDICT} photos --csv photos/cat/b.png",
    f"{PREDICT} *.jpg --csv a.jpg",
    f"{PREDICT} a.jpg --csv out --json out",
    f"{EVAL} --csv net.bbg",
    f"{EVAL} --json photos/batch_1",
    f"{EVAL} --json photos/cat/b.png",
    f"{EVAL} --json a --csv a",
    f"{EVAL} --out d --csv d/worst.csv",
    "bench net.bbg --json net.bbg",
    "inspect net.bbg --json net.bbg",
    "inspect --checkpoint w.ckpt --histograms w.ckpt",
    "inspect --checkpoint w.ckpt --histograms a --json a",
    "recipe own.toml -o own.toml",
    "recipe own.toml -o new --json new",
    "zoo --sample new --json new",
    "train own.toml --json own.toml",
    "train own.toml --init w.ckpt --json w.ckpt",
    "train own.toml --set weights=w.ckpt --json w.ckpt",
    "train own.toml --out d --json d/run.json",
    "compare own.toml --json own.toml",
    "compare own.toml --json a.png",
    "convert w.ckpt -o net.bbg --json net.bbg",
    "convert net.bbg -o net.bbg",
]


@pytest.mark.parametrize("command", LOST)
def test_a_file_that_would_be_lost_is_told(command: str, folder: Path, capsys: Any) -> None:
    if command.split(maxsplit=1)[0] in ("train", "compare"):
        pytest.importorskip("torch")
    (folder / "d").mkdir()
    refused(folder, capsys, ", and would be lost; give another path", *command.split())


@pytest.mark.parametrize("command", [f"{PREDICT} a.jpg --csv - --json -", f"{EVAL} --csv - --json -"])
def test_one_thing_goes_to_the_standard_output(command: str, folder: Path, capsys: Any) -> None:
    refused(folder, capsys, "--json and --csv both take the standard output", *command.split())


@pytest.mark.parametrize("command", ["zoo --sample -", "inspect --checkpoint w.ckpt --histograms -", "convert w -o -"])
def test_the_standard_output_takes_text(command: str, folder: Path, capsys: Any) -> None:
    refused(folder, capsys, "'-' is the standard output, which takes text only", *command.split())


def test_what_loses_nothing_is_done(folder: Path, capsys: Any) -> None:
    for command in (
        f"{PREDICT} photos --csv photos/result.csv",
        f"{PREDICT} photos --csv photos/result.csv",  # a result may be written anew
        f"{PREDICT} a.jpg --csv /dev/null --json /dev/null",
        "recipe digits_resnet8 -o digits_resnet8.toml",
        "zoo --sample test",
        "eval net.bbg --data labelled --json test",  # the name of a part, and no file that is read
        "recipe digits_resnet8 -o -",
    ):
        assert run(*command.split()) == 0, command
    assert capsys.readouterr().err == ""
    assert not STDOUT.exists()


def test_a_run_does_not_replace_what_it_starts_from(folder: Path, capsys: Any) -> None:
    pytest.importorskip("torch")
    assert run("train", "own.toml", *QUICK, "--out", "d") == 0
    again = ("train", "own.toml", *QUICK, "--out", "d", "--overwrite")
    for words in (("--init", "d/last.ckpt"), ("--set", "weights=d/last.ckpt"), ("--set", "teacher=d/last.ckpt")):
        refused(folder, capsys, "'d/last.ckpt' is both the ", *again, *words)
    assert run(*again, "--init", "w.ckpt") == 2


def test_every_file_that_is_written_is_declared() -> None:
    """An option whose value is a new FILE has one of the types that the check knows, and folders have theirs."""
    known = {"FILE": (new_file, text_file, packed_file), "FILE.png": (new_file,), "FILE.jpg": (new_file,)}
    for call, arguments in VERBS.items():
        for names, keywords in arguments:
            if names[-1] in ("--json", "--csv", "--output", "--sample", "--histograms"):
                assert keywords["type"] in known[keywords["metavar"]], (call, names)
            if names[-1] == "--out":
                assert keywords["type"] is new_folder, (call, names)
