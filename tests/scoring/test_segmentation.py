"""The scorer of masks counts what a plain loop over all pixels counts, and refuses a mask that does not fit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.masks import CLASSES, write_scenes

from bbg import metrics
from bbg.data import open_masked
from bbg.errors import BbgError
from bbg.image import Preprocess
from bbg.scoring import MaskEvaluation, mask_scores, row_of_mask
from bbg.scoring.segmentation import counts_of


def run(pixels: np.ndarray) -> np.ndarray:
    """An answer that is right here and there."""
    return (pixels[..., 0] > 180) + 2 * (pixels[..., 2] > 150).astype(np.uint8)


def test_figures_are_those_of_a_loop(tmp_path: Path) -> None:
    write_scenes(tmp_path, 1, 12)
    (tmp_path / "test/images/1003.jpg").write_bytes(b"no image")
    images = open_masked(tmp_path, Preprocess((20, 24)))
    evaluation = MaskEvaluation(CLASSES, keep=3)
    scores = list(mask_scores(images, run, batch=5))
    for score in scores:
        evaluation.add(score)
    good = [i for i in range(12) if "1003" not in images.names[i]]
    truth = np.stack([images.mask(i) for i in good])
    answers = run(np.stack([images.read(i) for i in good]))
    seen = truth != 255
    report = evaluation.as_dict()
    assert (report["test_images"], report["skipped"]) == (len(evaluation), 1) == (11, 1)
    assert report["pixel_accuracy"] == (truth == answers)[seen].mean()
    for c, row in enumerate(report["per_class"]):
        both, either = (seen & f(truth == c, answers == c) for f in (np.logical_and, np.logical_or))
        assert row["iou"] == both.sum() / either.sum()
        assert row["pixels"] == (truth == c).sum()
    assert report["miou"] == np.mean([row["iou"] for row in report["per_class"]])
    ranked = sorted((s for s in scores if not s.error), key=lambda s: (s.overlap.mean, s.number))
    assert [score.number for score in evaluation.worst()] == [score.number for score in ranked[:3]]
    bad = next(score for score in scores if score.error)
    assert row_of_mask(bad)["miou"] is None
    assert report["skipped_files"][0]["file"].endswith("1003.jpg")


def test_a_mask_that_does_not_fit_is_an_error(tmp_path: Path) -> None:
    write_scenes(tmp_path, 1, 3)
    Image.new("L", (5, 5)).save(tmp_path / "test/masks/1001.png")
    with pytest.raises(BbgError, match=r"1001\.png: is 5 x 5 pixels"):
        list(mask_scores(open_masked(tmp_path, Preprocess(16)), run))


def test_classes_that_nobody_has_do_not_count() -> None:
    truth = np.array([[0, 0, 1, 255]], np.uint8)
    answers = np.array([[0, 1, 1, 2]], np.uint8)
    found = metrics.overlap(counts_of(truth, answers, 4))
    assert found.iou.tolist()[:2] == [0.5, 0.5]
    assert np.isnan(found.iou[2:]).all()
    assert found.mean == 0.5
    assert found.accuracy == pytest.approx(2 / 3)
    none = metrics.overlap(np.zeros((2, 2), np.int64))
    assert np.isnan(none.mean)
    assert np.isnan(none.accuracy)
    with pytest.raises(BbgError, match="none of the images could be read"):
        MaskEvaluation(CLASSES).as_dict()
