"""`bbg eval` and `bbg convert` of a network that detects: average precision, a table by class, the worst images."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.commands import refused, run
from support.detectors import picture, write_spots
from support.layouts import WRITERS
from support.voc import annotation, write_image, write_list, write_voc


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The present folder, with a network that finds red and green cells, and a set of such: one of five is not told."""
    monkeypatch.chdir(tmp_path)
    write_spots("net.bbg")
    cells: list[dict[tuple[int, int], str]] = [{(0, 1): "red", (3, 2): "green"}, {(2, 2): "red"}, {(1, 1): "green"}, {}]
    for name, of_image in enumerate(cells):
        objects = [(label, 16 * x + 1, 16 * y + 1, 16 * x + 16, 16 * y + 16) for (y, x), label in of_image.items()]
        write_image(Path("data"), str(name), picture(of_image), annotation([] if name == 1 else objects))
    write_image(Path("data"), "4", picture({}), annotation([("red", 1, 1, 16, 16)]))
    write_list(Path("data"), "test", ["0", "1", "2", "3", "4", "5"])
    return tmp_path


def test_average_precision_of_a_packed_file(folder: Path, capsys: Any) -> None:
    """Of red: one right, one wrong, one missed; of green two right."""
    words = ["--data", "data", "--json", "out.json", "--csv", "out.csv", "--out", "drawn"]
    assert run("eval", "net.bbg", *words) == 0
    told = json.loads(Path("out.json").read_text())
    by_class = {row["class"]: row for row in told["per_class"]}
    assert (by_class["red"]["objects"], by_class["red"]["boxes"]) == (2, 2)
    assert by_class["red"]["ap"] in (0.5, 0.25)  # of equal scores the earlier image comes first
    assert by_class["green"] | {"boxes": 0} == {
        "class": "green", "objects": 2, "boxes": 0, "ap": 1.0, "ap_11": 1.0, "ap_50_95": 1.0,
    }  # fmt: skip
    assert told["map"] == (by_class["red"]["ap"] + 1) / 2
    assert told["map_50_95"] == pytest.approx((by_class["red"]["ap_50_95"] + 1) / 2)
    assert (told["test_images"], told["skipped"]) == (5, 0)
    assert "no image '5' lies in" in told["skipped_files"][0]["why"]
    assert [row["image"][-5] for row in told["worst"]][:2] == ["1", "4"]
    with open("out.csv") as file:
        rows = [tuple(row[key] for key in ("objects", "right", "wrong", "missed")) for row in csv.DictReader(file)]
    assert rows == [("2", "2", "0", "0"), ("0", "0", "1", "0"), ("1", "1", "0", "0"), ("0",) * 4, ("1", "0", "0", "1")]
    assert sorted(path.name for path in Path("drawn").iterdir()) == [
        "curves.csv", "curves.png", "worst.csv", "worst.png",
    ]  # fmt: skip
    assert np.asarray(Image.open("drawn/worst.png")).shape[2] == 3
    said = capsys.readouterr().out
    assert "map" in said
    assert "green" in said


def test_without_matplotlib_the_curves_are_a_table(folder: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert run("eval", "net.bbg", "--data", "data", "--out", "drawn") == 0
    assert sorted(path.name for path in Path("drawn").iterdir()) == ["curves.csv", "worst.csv", "worst.png"]
    assert "curves.png is not drawn: that needs matplotlib" in capsys.readouterr().err


def test_images_that_do_not_fit_are_refused(folder: Path, capsys: Any) -> None:
    write_voc(Path("other"), 2, 2)
    Path("empty").mkdir()
    refused(folder, capsys, "the boxes have the class 'blue'", "eval", "net.bbg", "--data", "other")
    refused(folder, capsys, "no folders 'Annotations'", "eval", "net.bbg", "--data", "empty", "--part", "train")
    refused(folder, capsys, "say which with --data", "eval", "net.bbg")


@pytest.mark.parametrize("layout", WRITERS)
def test_a_checkpoint_is_trained_scored_and_converted(
    layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    WRITERS[layout](Path("data"), 4, 3)
    keys = {
        "dataset": layout,
        "size": "72x96",
        "width": 2,
        "batch_size": 4,
        "epochs": 1,
        "bn_batches": 0,
        "crop": "none",
    }
    keys |= {"crop": "none"}
    changes = [word for key, value in keys.items() for word in ("--set", f"{key}={value}")]
    assert run("train", "voc_ssd_light", "--data", "data", *changes, "--out", "run") == 0
    checkpoint = "run/last.ckpt"
    assert run("convert", checkpoint, "--data", "data", "-o", "n.bbg", "--edges", "fp32", "--json", "c.json") == 0
    converted = json.loads(Path("c.json").read_text())
    found = []
    for model in (checkpoint, "n.bbg"):
        assert run("eval", model, "--data", "data", "--json", "e.json") == 0
        found.append(json.loads(Path("e.json").read_text()))
    for side, figures in zip(("torch", "engine"), found, strict=True):
        assert figures["map"] == pytest.approx(converted[f"map_{side}"], abs=1e-9)
        assert figures["map_50_95"] == pytest.approx(converted[f"map_50_95_{side}"], abs=1e-9)
        assert figures["test_images"] == 3
    assert abs(found[0]["map"] - found[1]["map"]) < 0.05
