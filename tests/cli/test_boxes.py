"""`bbg predict` with a network that detects: boxes as text, JSON and CSV, and drawn."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.commands import refused, run
from support.detectors import LABELS, picture, write_spots

import bbg
from bbg import drawing


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The present folder, with a network that finds red and green cells, and pictures."""
    monkeypatch.chdir(tmp_path)
    write_spots("net.bbg")
    for name, cells in (("a/1.png", {(0, 1): "red", (3, 2): "green"}), ("a/2.png", {})):
        Path(name).parent.mkdir(exist_ok=True)
        Image.fromarray(picture(cells)).save(name)
    Path("a/3.png").write_bytes(b"no image")
    return tmp_path


def test_boxes_are_told_and_drawn(folder: Path, capsys: Any) -> None:
    words = ["a", "--model", "net.bbg", "--json", "out.json", "--csv", "out.csv", "--out", "drawn"]
    assert run("predict", *words) == 1  # one of them is no image
    assert sorted(path.name for path in Path("drawn").iterdir()) == ["1-boxes.png", "2-boxes.png"]
    boxes = bbg.load("net.bbg").detect("a/1.png")
    shown = drawing.boxes(picture({(0, 1): "red", (3, 2): "green"}), boxes, LABELS)
    assert np.array_equal(np.asarray(Image.open("drawn/1-boxes.png")), np.asarray(shown))
    found = [json.loads(line) for line in Path("out.json").read_text().splitlines()]
    assert found[0] == {
        "image": "a/1.png",
        "size": [64, 64],
        "boxes": [{"label": b.label, "score": b.score, "box": list(b.box)} for b in boxes],
        "picture": "drawn/1-boxes.png",
    }
    assert found[1]["boxes"] == []
    assert "no image" in found[2]["error"]
    with open("out.csv") as file:
        rows = list(csv.DictReader(file))
    assert [row["label"] for row in rows] == [boxes[0].label, boxes[1].label, ""]
    assert rows[0] | {"score": ""} == {
        "image": "a/1.png", "place": "1", "label": "red", "score": "", "left": "16.0", "top": "0.0", "right": "32.0",
        "bottom": "16.0", "picture": "drawn/1-boxes.png", "error": "",
    }  # fmt: skip
    said = capsys.readouterr().out.splitlines()
    share = f"{100 * boxes[0].score:5.1f} %"
    assert said[:4] == [
        "a/1.png",
        f"  {share}  red  16 0 32 16",
        f"  {share}  green  32 48 48 64",
        "  drawn/1-boxes.png",
    ]
    assert said[4:6] == ["a/2.png", "  nothing"]


def test_fewer_boxes_are_told_where_that_is_asked(folder: Path, capsys: Any) -> None:
    assert run("predict", "a/1.png", "--model", "net.bbg", "--top", 1) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2
    assert run("predict", "a/1.png", "--model", "net.bbg", "--score", 0.9999) == 0
    assert capsys.readouterr().out.splitlines() == ["a/1.png", "  nothing"]


def test_no_image_is_written_over(folder: Path, capsys: Any) -> None:
    refused(folder, capsys, "is read from the folder of --out", "predict", "a", "--model", "net.bbg", "--out", "a")


def test_scores_are_of_networks_that_detect(folder: Path, capsys: Any) -> None:
    refused(folder, capsys, "makes no boxes", "predict", "a", "--model", "resnet20-cifar10", "--score", "0.5")
    refused(folder, capsys, "'2' is no number from 0 to 1", "predict", "a", "--model", "net.bbg", "--score", "2")


def test_the_time_of_each_stage_is_told_where_more_is_asked(folder: Path, capsys: Any) -> None:
    assert run("predict", "a/1.png", "a/2.png", "--model", "net.bbg", "--out", "drawn", "--verbose") == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("2 images in ")]
    stages = re.findall(r"(\w+) ([\d.]+) ms \(([\d.]+) on a core\)", line)
    assert [name for name, _, _ in stages] == ["decoding", "network", "answer", "drawing", "writing"]
    assert run("predict", "a/1.png", "a/2.png", "--model", "net.bbg") == 0
    assert "on a core" not in capsys.readouterr().out
