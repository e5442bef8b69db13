"""A segmentation in the engine: the mask has the picture's size, whatever the preprocessing makes of the picture."""

from __future__ import annotations

import tracemalloc
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import bbg
from bbg import drawing
from bbg.errors import BbgError
from bbg.graph.file import read
from bbg.heads import Classification, Segmentation

LABELS = ["red", "green", "blue"]


class Colours(nn.Module):
    """At each pixel, or each square of `stride` pixels, the logit of a channel is its mean: the class is its colour."""

    def __init__(self, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, stride, stride, bias=False)
        with torch.no_grad():
            self.conv.weight.copy_((torch.eye(3) / stride**2)[:, :, None, None].expand(3, 3, stride, stride))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.conv(x)
        return found


def packed(
    path: Path,
    preprocess: bbg.Preprocess,
    stride: int = 1,
    labels: Sequence[str] | None = LABELS,
    head: object = "auto",
) -> bbg.Engine:
    example = torch.rand(4, 3, *preprocess.size)
    bbg.convert(Colours(stride), path, example, preprocess=preprocess, labels=labels, edges="fp32", head=head)
    return bbg.load(path, threads=1)


def stripes(height: int, width: int) -> np.ndarray:
    """Red above, then green, then blue on the right half."""
    picture = np.zeros((height, width, 3), np.uint8)
    picture[: height // 2, :, 0] = 200
    picture[height // 2 :, : width // 2, 1] = 200
    picture[height // 2 :, width // 2 :, 2] = 200
    return picture


def test_the_mask_of_a_picture_of_another_size(tmp_path: Path) -> None:
    engine = packed(tmp_path / "n.bbg", bbg.Preprocess((16, 24)))
    assert engine.head == Segmentation()
    picture = stripes(40, 60)
    mask = engine.segment(picture)
    assert mask.classes.dtype == np.uint8
    assert np.array_equal(mask.classes, picture.argmax(2))
    assert mask.shares == {"red": 0.5, "green": 0.25, "blue": 0.25}
    (same,) = engine.segment([picture])
    assert np.array_equal(same.classes, mask.classes)
    by_predict: object = engine.predict(picture)
    assert isinstance(by_predict, bbg.Mask)
    assert np.array_equal(by_predict.classes, mask.classes)


def test_small_maps_are_brought_to_the_input_bilinearly(tmp_path: Path) -> None:
    preprocess = bbg.Preprocess(32)
    engine = packed(tmp_path / "n.bbg", preprocess, stride=4)
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    maps = Colours(4)(torch.from_numpy(preprocess.normalize(pixels[None])))
    wanted = nn.functional.interpolate(maps, (32, 32), mode="bilinear").argmax(1)[0].numpy()
    assert (engine.segment(pixels).classes == wanted).mean() > 0.99


def test_what_the_crop_left_out_has_no_class(tmp_path: Path) -> None:
    engine = packed(tmp_path / "n.bbg", bbg.Preprocess(16, 16))
    picture = stripes(32, 64)
    mask = engine.segment(picture)
    assert (mask.classes[:, :16] == 255).all()
    assert (mask.classes[:, 48:] == 255).all()
    assert np.array_equal(mask.classes[:, 16:48], picture.argmax(2)[:, 16:48])
    assert mask.shares["red"] == 0.5


@pytest.mark.parametrize("size", [(20, 20), (40, 23), (17, 50)])
def test_a_mask_goes_the_way_of_its_picture(size: tuple[int, int]) -> None:
    """Classes as colours: preprocessing the picture and preprocessing the mask agree but at the edges."""
    picture = stripes(*size)
    preprocess = bbg.Preprocess(16, 18)
    ours = preprocess.mask(picture.argmax(2).astype(np.uint8))
    assert ours.shape == (16, 16)
    assert (ours == preprocess.apply(picture).argmax(2)).mean() > 0.85
    back = preprocess.restored(ours, size)
    seen = back != 255
    assert back.shape == size
    assert (back[seen] == picture.argmax(2)[seen]).mean() > 0.85


def test_files_of_a_mask(tmp_path: Path) -> None:
    engine = packed(tmp_path / "n.bbg", bbg.Preprocess(16))
    picture = stripes(20, 30)
    mask = engine.segment(picture)
    mask.save(tmp_path / "mask.png")
    with Image.open(tmp_path / "mask.png") as stored:
        assert stored.mode == "P"
        assert np.array_equal(np.asarray(stored), mask.classes)
        assert stored.convert("RGB").getpixel((0, 19)) == (128, 0, 0)  # VOC's colour of class 1
    seen = np.asarray(mask.overlay(picture))
    assert np.array_equal(seen[:9], picture[:9])  # class 0 leaves the picture as it is
    assert seen[19, 0].tolist() == [64, 100, 0]  # half of its own, half of the class
    assert seen[10, 0].tolist() == [128, 0, 0]  # an edge
    with pytest.raises(BbgError, match="picture is 21 x 30, the mask 20 x 30"):
        mask.overlay(stripes(21, 30))
    for strength in (2, "half"):
        with pytest.raises(BbgError, match=f"strength is {strength!r}"):
            mask.overlay(picture, strength)  # type: ignore[arg-type]
    for name in ("mask.jpg", "mask"):
        with pytest.raises(BbgError, match=rf"{name}'; give one that ends with \.png"):
            mask.save(tmp_path / name)
        assert not (tmp_path / name).exists()


def test_an_overlay_takes_little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    draws = np.random.default_rng(0)
    picture, classes = draws.integers(0, 256, (900, 1100, 3)).astype(np.uint8), np.ones((900, 1100), np.uint8)
    classes[:40], classes[60:300] = 255, draws.integers(0, 4, (240, 1100))
    tracemalloc.start()
    seen = np.asarray(drawing.overlay(picture, classes, 0.3))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 30 * classes.size, "bytes; a photograph has twelve million pixels"
    monkeypatch.setattr(drawing, "STRIP", 10**9)  # all at once
    assert np.array_equal(seen, np.asarray(drawing.overlay(picture, classes, 0.3)))


def test_classes_of_one_name_share() -> None:
    classes = np.array([[0, 1], [2, 255]], np.uint8)
    assert bbg.Mask(classes, ("sky", "tree", "tree")).shares == pytest.approx({"sky": 1 / 3, "tree": 2 / 3})


def test_the_palette_is_that_of_voc() -> None:
    assert drawing.palette()[[0, 1, 2, 15, 20, 255]].tolist() == [
        [0, 0, 0],
        [128, 0, 0],
        [0, 128, 0],
        [192, 128, 128],
        [0, 64, 128],
        [224, 224, 192],
    ]


def test_the_head_is_chosen_by_labels_or_by_name(tmp_path: Path) -> None:
    preprocess = bbg.Preprocess(8)
    assert packed(tmp_path / "a", preprocess, labels=None).head is None
    assert packed(tmp_path / "b", preprocess, labels=None, head="segmentation").head == Segmentation()
    assert read(tmp_path / "b").head == Segmentation()
    assert packed(tmp_path / "c", preprocess, 8, labels=LABELS).head == Classification()  # one number per class
    engine = packed(tmp_path / "b", preprocess, labels=None, head="segmentation")
    assert engine.segment(stripes(8, 8)).labels == ("0", "1", "2")
    with pytest.raises(BbgError, match="2 labels for 3 classes"):
        packed(tmp_path / "d", preprocess, labels=["a", "b"], head=Segmentation())


def test_what_is_no_segmentation_is_refused(tmp_path: Path) -> None:
    flat = nn.Sequential(nn.Conv2d(3, 4, 8), nn.Flatten())
    with pytest.raises(BbgError, match=r"needs one output \[N, classes, H, W\], not \[N, 4\]"):
        bbg.convert(flat, tmp_path / "n", torch.rand(1, 3, 8, 8), head="segmentation")
    with pytest.raises(
        BbgError, match="the output has one map: in the place of a sigmoid of one map give the background a map"
    ):
        bbg.convert(nn.Conv2d(3, 1, 3), tmp_path / "n", torch.rand(1, 3, 8, 8), head="segmentation")
    with pytest.raises(BbgError, match="'mask', allowed are 'auto', 'classification', 'segmentation'"):
        bbg.convert(flat, tmp_path / "n", torch.rand(1, 3, 8, 8), head="mask")
    bbg.convert(flat, tmp_path / "n", torch.rand(1, 3, 8, 8), preprocess=bbg.Preprocess(8))
    with pytest.raises(BbgError, match="the head is a classification; to segment an image takes a network that was"):
        bbg.load(tmp_path / "n").segment(stripes(8, 8))


def test_scores_that_are_not_finite_have_no_class() -> None:
    logits = np.zeros((2, 3, 4, 4), np.float32)
    logits[1, 0, 0, 0] = np.nan
    with pytest.raises(BbgError, match="scores of 1 of 2 images are not finite"):
        Segmentation().decide(logits, (4, 4))
