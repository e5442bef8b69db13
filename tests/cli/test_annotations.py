"""Boxes of `bbg predict` as files of Pascal VOC and of COCO, read back by our own data sets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.commands import refused, run
from support.detectors import LABELS, picture, write_spots

from bbg import Preprocess
from bbg.cli.annotations import voc_xml
from bbg.cli.boxes import Found
from bbg.data import BoxSet, open_boxed
from bbg.data.annotation import read_annotation
from bbg.data.layout import judged
from bbg.heads import Box

CELLS: list[dict[tuple[int, int], str]] = [{(0, 1): "red", (3, 2): "green"}, {(2, 2): "red"}, {}]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The present folder, with a network that finds red and green cells, and pictures."""
    monkeypatch.chdir(tmp_path)
    write_spots("net.bbg")
    Path("set/JPEGImages").mkdir(parents=True)
    for name, cells in enumerate(CELLS):
        Image.fromarray(picture(cells)).save(f"set/JPEGImages/{name}.png")
    return tmp_path


def as_drawn(images: BoxSet) -> None:
    """Assert that the boxes are those of the pictures."""
    assert images.classes == LABELS
    assert not images.skipped
    assert len(images) == len(CELLS)
    for item in images.items:
        cells = CELLS[int(item.image.stem)]
        wanted = sorted(
            (LABELS.index(label), 16.0 * x, 16.0 * y, 16.0 * x + 16, 16.0 * y + 16) for (y, x), label in cells.items()
        )
        found = zip(item.truth.classes.tolist(), item.truth.boxes.tolist(), strict=True)
        np.testing.assert_allclose(sorted((number, *box) for number, box in found), wanted, atol=1e-3)


def test_files_of_voc_are_read_back(folder: Path) -> None:
    words = ["set/JPEGImages", "--model", "net.bbg"]
    assert run("predict", *words, "--xml", "set/Annotations") == 0
    assert sorted(path.name for path in Path("set/Annotations").iterdir()) == ["0.xml", "1.xml", "2.xml"]
    as_drawn(open_boxed(Path("set"), Preprocess(32), "all", LABELS))
    text = Path("set/Annotations/0.xml").read_text()
    assert "<folder>JPEGImages</folder>" in text
    assert "<filename>0.png</filename>" in text
    assert "<size><width>64</width><height>64</height><depth>3</depth></size>" in text
    assert "<bndbox><xmin>17</xmin><ymin>1</ymin><xmax>32</xmax><ymax>16</ymax></bndbox>" in text
    assert run("predict", *words, "--xml", "set/Annotations") == 0  # the same again


def test_a_file_of_voc_is_not_written_over(folder: Path, capsys: Any) -> None:
    Path("set/Annotations").mkdir()
    Path("set/Annotations/0.xml").write_text("drawn by hand")
    words = ["set/JPEGImages", "--model", "net.bbg", "--xml", "set/Annotations"]
    refused(folder, capsys, "is there already, with other contents", "predict", *words)


@pytest.mark.parametrize(
    ("file", "name"), [("set/found.json", "JPEGImages/0.png"), ("found.json", "set/JPEGImages/0.png")]
)
def test_a_set_of_coco_is_read_back(file: str, name: str, folder: Path) -> None:
    Path("set/JPEGImages/3.png").write_bytes(b"nothing")
    assert run("predict", "set/JPEGImages", "--model", "net.bbg", "--coco", file) == 1  # one of them is no image
    as_drawn(open_boxed(Path(file).parent, Preprocess(32), "all", LABELS, "coco"))
    told = json.loads(Path(file).read_text())
    assert told["images"][0] == {"id": 1, "file_name": name, "width": 64, "height": 64}
    assert told["categories"] == [{"id": 1, "name": "red"}, {"id": 2, "name": "green"}]
    assert [one["id"] for one in told["images"]] == [1, 2, 3]
    first = told["annotations"][0]
    assert (first["image_id"], first["category_id"], first["iscrowd"]) == (1, 1, 0)
    assert 0.5 < first["score"] <= 1


def test_a_set_of_coco_is_what_its_own_code_reads(folder: Path, capsys: Any) -> None:
    coco = pytest.importorskip("pycocotools.coco")
    assert run("predict", "set/JPEGImages", "--model", "net.bbg", "--coco", "-") == 0
    Path("found.json").write_text(capsys.readouterr().out)
    known = coco.COCO("found.json")
    assert len(known.getImgIds()) == 3
    assert len(known.loadRes(json.loads(Path("found.json").read_text())["annotations"]).getAnnIds()) == 3


def test_without_boxes_the_set_is_whole(folder: Path) -> None:
    assert run("predict", "set/JPEGImages/2.png", "--model", "net.bbg", "--coco", "found.json") == 0
    told = json.loads(Path("found.json").read_text())
    assert (len(told["images"]), len(told["categories"]), told["annotations"]) == (1, 2, [])


def test_names_are_no_markup(tmp_path: Path) -> None:
    found = Found((40, 60), [Box("<a> & b", 0.5, (1.4, 2.6, 9.5, 20.2))])
    file = tmp_path / "1.xml"
    file.write_text(voc_xml("x<y>\x00&\udce9.png", found), encoding="utf-8")
    (one,) = read_annotation(file)
    assert (one.name, one.sides) == ("<a> & b", (2, 4, 10, 20))


@pytest.mark.parametrize(
    "box", [(0, 0, 0.2, 0.2), (59.7, 39.7, 60, 40), (0, 0, 60, 40), (-3, -3, 99, 99), (5, 5, 5, 5)]
)
def test_every_box_that_is_written_is_one(box: tuple[float, float, float, float], tmp_path: Path) -> None:
    file = tmp_path / "1.xml"
    file.write_text(voc_xml("1.png", Found((40, 60), [Box("a", 0.5, box)])))
    (one,) = read_annotation(file)
    sides, problem = judged(one, (40, 60), ("a",))
    assert not problem
    assert all(abs(side - own) <= 2 for side, own in zip(sides, np.clip(box, 0, (60, 40, 60, 40)), strict=True))


def test_they_are_of_networks_that_detect(folder: Path, capsys: Any) -> None:
    words = ["predict", "set", "--model", "resnet20-cifar10"]
    refused(folder, capsys, "makes no boxes, which --xml writes", *words, "--xml", "x")
    refused(folder, capsys, "makes no boxes, which --coco writes", *words, "--coco", "x.json")
    refused(folder, capsys, "both take the standard output", *words, "--coco", "-", "--json", "-")
