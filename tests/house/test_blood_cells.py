"""The example of blood cells: an ellipse in each box, small cells over large ones."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from support.paths import ROOT

from bbg.data import open_data

OBJECT = "<object><name>{}</name><bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox></object>"


def example() -> Any:
    spec = importlib.util.spec_from_file_location("blood_cells", ROOT / "examples" / "blood_cells.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_masks_are_drawn_from_boxes(tmp_path: Path) -> None:
    cells, bccd = example(), tmp_path / "BCCD"
    for name in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (bccd / name).mkdir(parents=True)
    for half, names in (("trainval", "a\nb\n"), ("test", "c\n")):
        (bccd / "ImageSets/Main" / f"{half}.txt").write_text(names)
    for name in "abc":
        Image.new("RGB", (64, 48), (200, 180, 190)).save(bccd / "JPEGImages" / f"{name}.jpg")
        boxes = OBJECT.format("Platelets", 20, 20, 26, 26) + OBJECT.format("RBC", 10, 10, 40, 40)
        (bccd / "Annotations" / f"{name}.xml").write_text(f"<annotation>{boxes}</annotation>")
    root = cells.make_masks(bccd, tmp_path / "cells")
    split = open_data("masks", root, (48, 64))
    assert (len(split.train), len(split.test), split.classes) == (2, 1, cells.CLASSES)
    mask = split.test.read(0)[1]
    assert mask[23, 23] == 3  # the platelet, over the red cell
    assert mask[25, 12] == 1
    assert mask[11, 11] == 0  # the corner of the box
    assert np.unique(mask).tolist() == [0, 1, 3]
    assert cells.UNet().eval()(torch.zeros(1, 3, 72, 96)).shape == (1, 4, 36, 48)
