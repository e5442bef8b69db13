"""COCO's average precision by hand, and beside its own code where that is installed."""

from __future__ import annotations

import contextlib
import io
import math

import numpy as np
import pytest

from bbg.average_precision import Truth
from bbg.boxes import Boxes
from bbg.coco_precision import CocoMatches

A, B, FAR = [0, 0, 10, 10], [20, 20, 40, 40], [70, 70, 80, 80]


def found(*rows: tuple[list[float], int, float]) -> Boxes:
    boxes, classes, scores = zip(*rows, strict=True) if rows else ((), (), ())
    return Boxes(np.array(boxes, float).reshape(-1, 4), np.array(classes, np.int64), np.array(scores, float))


def truth(*rows: tuple[list[float], int, bool]) -> Truth:
    boxes, classes, difficult = zip(*rows, strict=True) if rows else ((), (), ())
    return Truth(np.array(boxes, float).reshape(-1, 4), np.array(classes, np.int64), np.array(difficult, bool))


def matches(*pictures: tuple[Boxes, Truth], classes: int = 1) -> CocoMatches:
    filled = CocoMatches(classes)
    for picture in pictures:
        filled.add(*picture)
    return filled


def test_an_overlap_counts_up_to_what_it_reaches() -> None:
    """IoU 0.72 is enough for 0.5, 0.55, 0.6, 0.65 and 0.7."""
    filled = matches((found(([0, 0, 10, 7.2], 0, 0.9)), truth((A, 0, False))))  # type: ignore[arg-type]
    assert filled.by_overlap(0).tolist() == [1] * 5 + [0] * 5
    assert filled.mean == filled.average(0) == 0.5


def test_the_curve_is_read_at_101_recalls() -> None:
    """Right, wrong, right of two objects: precision 1 up to recall 1/2, which are 51 of 101, then 2/3."""
    filled = matches((found((A, 0, 0.9), (FAR, 0, 0.8), (B, 0, 0.7)), truth((A, 0, False), (B, 0, False))))
    assert filled.mean == pytest.approx((51 + 50 * 2 / 3) / 101)
    half = matches((found((A, 0, 0.9)), truth((A, 0, False), (B, 0, False))))
    assert half.mean == pytest.approx(51 / 101)


def test_a_box_takes_the_nearest_that_is_free() -> None:
    """Where VOC calls the second box wrong, COCO lets it take the other object."""
    near = [0, 0, 10, 9]
    filled = matches((found((A, 0, 0.9), ([0, 0, 10, 9.9], 0, 0.8)), truth((A, 0, False), (near, 0, False))))  # type: ignore[arg-type]
    assert filled.by_overlap(0)[:9].tolist() == [1] * 9
    assert filled.by_overlap(0)[9] == pytest.approx(51 / 101)


def test_crowds_count_neither_way_and_take_any_number() -> None:
    inside = found(([1, 1, 3, 3], 0, 0.9), ([5, 5, 8, 8], 0, 0.8), (B, 0, 0.7))
    assert matches((inside, truth((A, 0, True), (B, 0, False)))).mean == 1
    assert math.isnan(matches((inside, truth((A, 0, True)))).mean)
    assert matches((inside, truth((A, 0, False), (B, 0, False)))).mean == pytest.approx(51 / 101 / 3)


def test_of_a_picture_a_hundred_boxes_of_a_class_count() -> None:
    wrong = [(FAR, 0, 0.9)] * 100
    assert matches((found(*wrong, (A, 0, 0.1)), truth((A, 0, False)))).mean == 0
    assert matches((found(*wrong[1:], (A, 0, 0.1)), truth((A, 0, False)))).mean == pytest.approx(0.01)


def test_classes_without_objects_do_not_count() -> None:
    filled = matches((found((A, 1, 0.9), (A, 0, 0.9)), truth((A, 0, False))), (found(), truth()), classes=3)
    assert math.isnan(filled.average(1))
    assert filled.mean == 1
    assert math.isnan(matches((found(), truth())).mean)


def test_the_unit_does_not_matter() -> None:
    boxes, true = found(([0, 0, 9, 9], 0, 0.9)), truth((A, 0, False))  # type: ignore[arg-type]
    scale = np.array([1 / 60, 1 / 40] * 2)
    scaled = Boxes(boxes.boxes * scale, *boxes[1:]), Truth(true.boxes * scale, *true[1:])
    assert matches(scaled).mean == matches((boxes, true)).mean == 0.7


def pictures(seed: int) -> list[tuple[Boxes, Truth]]:
    """Boxes near true ones, some of which are crowds."""
    draws = np.random.default_rng(seed)
    some = []
    for _ in range(25):
        corner = draws.uniform(0, 60, (draws.integers(0, 9), 2))
        true = np.concatenate((corner, corner + draws.uniform(8, 40, corner.shape)), 1)
        numbers = draws.integers(0, 3, len(true))
        place = draws.integers(0, max(len(true), 1), draws.choice([5, 30, 500]) if len(true) else 0)
        boxes = true[place] + draws.normal(0, 2, (len(place), 4))
        boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 1)
        guessed = np.where(draws.random(len(place)) < 0.8, numbers[place], draws.integers(0, 3, len(place)))
        scores = draws.random(len(place)).round(2)  # some are equal
        some.append((Boxes(boxes, guessed, scores), Truth(true, numbers, draws.random(len(true)) < 0.2)))
    return some


@pytest.mark.parametrize("seed", range(5))
def test_beside_the_code_of_coco(seed: int) -> None:
    coco = pytest.importorskip("pycocotools.coco")
    cocoeval = pytest.importorskip("pycocotools.cocoeval")
    some = pictures(seed)
    true, ours = [], []
    for place, (boxes, own) in enumerate(some, 1):
        for (left, top, right, bottom), number, crowd in zip(*own, strict=True):
            box = [left, top, right - left, bottom - top]
            row = {"id": len(true) + 1, "image_id": place, "category_id": int(number) + 1, "bbox": box}
            true.append({**row, "area": box[2] * box[3], "iscrowd": int(crowd)})
        for (left, top, right, bottom), number, score in zip(*boxes, strict=True):
            box = [left, top, right - left, bottom - top]
            ours.append({"image_id": place, "category_id": int(number) + 1, "bbox": box, "score": float(score)})
    with contextlib.redirect_stdout(io.StringIO()):
        known = coco.COCO()
        known.dataset = {
            "images": [{"id": place} for place in range(1, len(some) + 1)],
            "categories": [{"id": number, "name": str(number)} for number in range(1, 4)],
            "annotations": true,
            "info": {},
        }
        known.createIndex()
        theirs = cocoeval.COCOeval(known, known.loadRes(ours), "bbox")
        theirs.evaluate()
        theirs.accumulate()
        theirs.summarize()
    filled = matches(*some, classes=3)
    for number in range(3):  # [overlaps, recalls, classes, areas, most boxes]
        wanted = theirs.eval["precision"][:, :, number, 0, 2].mean(1)
        np.testing.assert_allclose(filled.by_overlap(number), wanted, atol=1e-9)
    assert filled.mean == pytest.approx(theirs.stats[0], abs=1e-9)
    assert filled.mean > 0.05
