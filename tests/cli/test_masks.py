"""`bbg predict` with a network that segments: shares, masks, overlays."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from support.commands import refused, run
from torch import nn

import bbg


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The present folder, with a network that says which of three colours a pixel has, and pictures."""
    monkeypatch.chdir(tmp_path)
    net = nn.Conv2d(3, 3, 1, bias=False)
    with torch.no_grad():
        net.weight.copy_(torch.eye(3)[:, :, None, None])
    labels = ["red", "green", "blue"]
    bbg.convert(net, "net.bbg", torch.rand(2, 3, 8, 8), preprocess=bbg.Preprocess(8), labels=labels, edges="fp32")
    for name, side in (("a/1.png", 16), ("b/1.png", 24), ("b/2.png", 8)):
        picture = np.zeros((side, 2 * side, 3), np.uint8)
        picture[..., 1] = 100
        picture[: side // 4, :, 0] = 200
        Path(name).parent.mkdir(exist_ok=True)
        Image.fromarray(picture).save(name)
    Path("b/3.png").write_bytes(b"no image")
    return tmp_path


def test_masks_and_overlays_are_written(folder: Path, capsys: Any) -> None:
    words = ["a", "b", "--model", "net.bbg", "--json", "out.json", "--csv", "out.csv", "--out", "masks"]
    assert run("predict", *words) == 1  # one of them is no image
    names = ["1.png", "1-overlay.png", "1-2.png", "1-2-overlay.png", "2.png", "2-overlay.png"]
    assert sorted(path.name for path in Path("masks").iterdir()) == sorted(names)
    engine = bbg.load("net.bbg")
    for source, name in (("a/1.png", "1"), ("b/1.png", "1-2"), ("b/2.png", "2")):
        mask = engine.segment(source)
        assert np.array_equal(np.asarray(Image.open(f"masks/{name}.png")), mask.classes)
        assert np.array_equal(np.asarray(Image.open(f"masks/{name}-overlay.png")), np.asarray(mask.overlay(source)))
    found = [json.loads(line) for line in Path("out.json").read_text().splitlines()]
    assert [line["image"] for line in found] == ["a/1.png", "b/1.png", "b/2.png", "b/3.png"]
    assert found[0] == {
        "image": "a/1.png",
        "size": [16, 32],
        "shares": {"green": 0.75, "red": 0.25},
        "mask": "masks/1.png",
    }
    assert "no image" in found[3]["error"]
    with open("out.csv") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 3 + 1
    assert rows[1] == {
        "image": "a/1.png", "place": "2", "label": "red", "share": "0.25", "mask": "masks/1.png", "error": ""
    }  # fmt: skip
    said = capsys.readouterr()
    assert said.out.splitlines()[:4] == ["a/1.png", "   75.0 %  green", "   25.0 %  red", "  masks/1.png"]
    assert "b/3.png" in said.err


def test_without_a_folder_only_shares_are_told(folder: Path, capsys: Any) -> None:
    assert run("predict", "a/1.png", "--model", "net.bbg", "--top", 1) == 0
    assert capsys.readouterr().out.splitlines() == ["a/1.png", "   75.0 %  green"]


@pytest.mark.parametrize(
    ("image", "out"), [("b", "b"), ("b", "b/masks"), (".", "masks"), ("a/1.png", "a"), ("b/*.png", "b"), ("*/*", "b")]
)
def test_no_image_is_written_over(image: str, out: str, folder: Path, capsys: Any) -> None:
    refused(folder, capsys, "is read from the folder of --out", "predict", image, "--model", "net.bbg", "--out", out)


def test_no_file_that_is_there_is_written_over(folder: Path, capsys: Any) -> None:
    drawn = np.full((24, 48), 2, np.uint8)  # a mask that somebody drew, in the folder beside that of the images
    Path("masks").mkdir()
    Image.fromarray(drawn).save("masks/1.png")
    refused(
        folder, capsys, "'masks/1.png' is there already, with other contents; give a new --out folder",
        "predict", "b", "--model", "net.bbg", "--out", "masks",
    )  # fmt: skip
    Path("masks/1.png").unlink()
    Path("masks/1-overlay.png").write_bytes(b"")
    refused(folder, capsys, "'masks/1-overlay.png' is there", "predict", "a", "--model", "net.bbg", "--out", "masks")
    assert not Path("masks/1.png").exists()


def test_a_run_that_was_ended_is_made_again(folder: Path) -> None:
    words = ["predict", "a", "b/2.png", "--model", "net.bbg", "--out", "masks"]
    assert run(*words) == 0
    before = {path.name: path.read_bytes() for path in Path("masks").iterdir()}
    Path("masks/2.png").unlink()
    assert run(*words) == 0
    assert {path.name: path.read_bytes() for path in Path("masks").iterdir()} == before


def test_a_picture_in_the_standard_input_has_a_name_too(folder: Path) -> None:
    data = Path("a/1.png").read_bytes()
    words = [sys.executable, "-m", "bbg", "predict", "-", "--model", "net.bbg", "--out", "masks"]
    subprocess.run(words, input=data, check=True, capture_output=True)
    assert sorted(path.name for path in Path("masks").iterdir()) == ["image-overlay.png", "image.png"]


def test_masks_are_of_networks_that_segment(folder: Path, capsys: Any) -> None:
    refused(
        folder, capsys, "makes no masks and no boxes", "predict", "a", "--model", "resnet20-cifar10", "--out", "masks"
    )
