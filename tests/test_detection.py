"""A detection in the engine: boxes lie where they do in the picture, whatever the preprocessing makes of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from support.detectors import Spots, head, picture, write_spots

import bbg
from bbg import drawing
from bbg.errors import BbgError
from bbg.graph.file import read


def test_boxes_are_in_pixels_of_the_picture(tmp_path: Path) -> None:
    write_spots(tmp_path / "n.bbg")
    engine = bbg.load(tmp_path / "n.bbg", threads=1)
    assert engine.head == read(tmp_path / "n.bbg").head == head()
    found = engine.detect(picture({(0, 1): "red", (3, 2): "green"}, side=20))
    assert sorted(found) == [
        bbg.Box("green", pytest.approx(found[0].score), (40, 60, 60, 80)),  # type: ignore[arg-type]
        bbg.Box("red", pytest.approx(found[0].score), (20, 0, 40, 20)),  # type: ignore[arg-type]
    ]
    assert 0.9 < found[0].score < 1
    wide = picture({(0, 1): "red"}, side=20).repeat(3, 1)
    by_predict: object = engine.predict([wide])
    assert by_predict == [engine.detect(wide)]
    assert [box.box for box in engine.detect(wide)] == [(60, 0, 120, 20)]
    assert engine.detect(np.zeros((1, 1, 3), np.uint8)) == []


def test_a_crop_moves_boxes(tmp_path: Path) -> None:
    write_spots(tmp_path / "n.bbg", resize=32, labels=None)
    whole = np.zeros((64, 128, 3), np.uint8)  # of which the middle, 64 x 64, is seen
    whole[:, 32:96] = picture({(1, 0): "green"}, side=16)
    (found,) = bbg.load(tmp_path / "n.bbg").detect(whole)
    assert (found.label, found.box) == ("1", (32, 16, 48, 32))


@pytest.mark.parametrize(("size", "resize"), [((32, 32), None), ((20, 30), 33), ((16, 16), 16)])
def test_located_is_the_inverse_of_the_preprocessing(size: tuple[int, int], resize: int | None) -> None:
    """A white rectangle is found by its pixels in what the network sees."""
    preprocess = bbg.Preprocess(size, resize)
    image = np.zeros((240, 320, 3), np.uint8)
    image[80:160, 100:180] = 255
    seen = preprocess.apply(image)[..., 0] > 127
    rows, columns = np.flatnonzero(seen.any(1)), np.flatnonzero(seen.any(0))
    box = np.array([[columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]]) / (size[::-1] * 2)
    np.testing.assert_allclose(preprocess.located(box, (240, 320)), [[100, 80, 180, 160]], atol=12)


def test_what_is_no_detection_is_refused(tmp_path: Path) -> None:
    write_spots(tmp_path / "n.bbg")
    engine = bbg.load(tmp_path / "n.bbg")
    for wrong in ({"score": 2}, {"score": None}, {"iou": -1}, {"iou": float("nan")}):
        with pytest.raises(BbgError, match="it must be a number from 0 to 1"):
            engine.detect(picture({}), **wrong)  # type: ignore[arg-type]
    with pytest.raises(BbgError, match=r"takes the head bbg.heads.Detection, it is a classification"):
        bbg.load("resnet20-cifar10").detect(picture({}))
    example = torch.rand(1, 3, 32, 32)
    with pytest.raises(
        BbgError, match="head is 'detection', allowed are 'auto', 'classification', 'segmentation', None and a head of"
    ):
        bbg.convert(Spots(), tmp_path / "m.bbg", example, head="detection")
    with pytest.raises(BbgError, match="a detection with 16 priors, which needs the dict"):
        bbg.convert(Spots(16), tmp_path / "m.bbg", example, head=head())
    with pytest.raises(BbgError, match="3 labels for 2 classes"):
        bbg.convert(Spots(), tmp_path / "m.bbg", example, head=head(), labels=["a", "b", "c"])


@pytest.mark.parametrize("size", [(1, 1), (3, 400), (50, 20_000), (480, 640), (2000, 1500)], ids=str)
def test_boxes_are_drawn_on_pictures_of_any_size(size: tuple[int, int]) -> None:
    height, width = size
    found = [
        bbg.Box("a long name of a class that does not fit " * 3, 0.93, (0, 0, width, height)),
        bbg.Box("b", 0.5, (width - 1, height - 1, width, height)),
        bbg.Box("\uffff", 1.0, (width / 3, height / 3, width / 2, height / 2)),
    ]
    sheet = drawing.boxes(np.full((height, width, 3), 128, np.uint8), found, ("b",))
    times = sheet.width // width
    assert sheet.size == (width * times, height * times)
    assert max(sheet.size) >= 320
    assert (np.asarray(sheet) != 128).any()
    assert drawing.boxes(np.zeros((400, 400, 3), np.uint8), []).getextrema() == ((0, 0),) * 3


def test_a_label_is_read_beside_its_box() -> None:
    """Its letters are dark on the bright colour of the class, above the box, and inside where there is no room."""
    for top in (200, 0):
        sheet = drawing.boxes(np.zeros((480, 640, 3), np.uint8), [bbg.Box("cat", 0.9, (100, top, 400, 400))])
        pixels = np.asarray(sheet).astype(int)
        line = pixels[300, 100]
        assert line.max() > 200
        band = pixels[top - 17 : top - 1, 102:150] if top else pixels[2:17, 102:150]
        same = (band == line).all(2)
        assert 0.3 < same.mean() < 0.98  # the rest are letters
        assert (pixels[300, 150:390] == 0).all()  # what is in the box stays
