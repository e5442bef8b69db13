"""Average precision by hand, and beside a plain writing of the development kit's loop."""

from __future__ import annotations

import math

import numpy as np
import pytest

from bbg.average_precision import Matches, Truth
from bbg.boxes import Boxes

A, B, FAR = [0, 0, 10, 10], [20, 20, 40, 40], [70, 70, 80, 80]


def found(*rows: tuple[list[int], int, float]) -> Boxes:
    boxes, classes, scores = zip(*rows, strict=True) if rows else ((), (), ())
    return Boxes(np.array(boxes, float).reshape(-1, 4), np.array(classes, np.int64), np.array(scores, float))


def truth(*rows: tuple[list[int], int, bool]) -> Truth:
    boxes, classes, difficult = zip(*rows, strict=True) if rows else ((), (), ())
    return Truth(np.array(boxes, float).reshape(-1, 4), np.array(classes, np.int64), np.array(difficult, bool))


def matches(*pictures: tuple[Boxes, Truth], classes: int = 1) -> Matches:
    filled = Matches(classes)
    for picture in pictures:
        filled.add(*picture)
    return filled


def test_by_hand() -> None:
    """Right, wrong, right: precision 1, 1/2, 2/3 at recall 1/2, 1/2, 1."""
    both = truth((A, 0, False), (B, 0, False))
    curve = matches((found((A, 0, 0.9), (FAR, 0, 0.8), (B, 0, 0.7)), both)).curve(0)
    assert curve.recall.tolist() == [0.5, 0.5, 1]
    assert curve.precision.tolist() == [1, 0.5, 2 / 3]
    assert curve.area == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)
    assert curve.eleven == pytest.approx((6 * 1 + 5 * 2 / 3) / 11)


def test_a_second_box_on_one_object_is_wrong() -> None:
    curve = matches((found((A, 0, 0.6), ([0, 0, 10, 9], 0, 0.9)), truth((A, 0, False)))).curve(0)
    assert (curve.right.tolist(), curve.wrong.tolist()) == ([1, 1], [0, 1])
    assert curve.area == curve.eleven == 1


def test_what_is_difficult_counts_neither_way() -> None:
    twice = found((A, 0, 0.9), (A, 0, 0.8), (B, 0, 0.7))
    curve = matches((twice, truth((A, 0, True), (B, 0, False)))).curve(0)
    assert (curve.right.tolist(), curve.wrong.tolist(), curve.objects) == ([1], [0], 1)
    alone = matches((twice, truth((A, 0, True))))
    assert math.isnan(alone.curve(0).area)
    assert math.isnan(alone.mean_area)


def test_the_nearest_object_decides_even_where_it_is_difficult() -> None:
    """The development kit compares with the object of the largest overlap, and with no other."""
    near = [0, 0, 10, 11]
    curve = matches((found((A, 0, 0.9)), truth((A, 0, True), (near, 0, False)))).curve(0)
    assert (len(curve.scores), curve.objects, curve.area) == (0, 1, 0.0)


def test_an_overlap_of_a_half_is_enough() -> None:
    half, less = [0, 0, 10, 20], [0, 0, 10, 21]
    assert matches((found((half, 0, 0.9)), truth((A, 0, False)))).mean_area == 1
    assert matches((found((less, 0, 0.9)), truth((A, 0, False)))).mean_area == 0


def test_classes_and_pictures_are_apart() -> None:
    one = (found((A, 1, 0.9)), truth((A, 0, False)))
    other = (found((A, 1, 0.8)), truth((B, 1, False)))
    filled = matches(one, other, (found(), truth()), classes=3)
    assert [filled.curve(i).area for i in range(2)] == [0, 0]
    assert math.isnan(filled.curve(2).area)
    assert filled.mean_area == filled.mean_eleven == 0


def test_three_tenths_are_three_tenths() -> None:
    """A recall of 3/10 reaches the step at 0.3, which 0.1 + 0.1 + 0.1 does not."""
    objects = truth(*(([20 * i, 0, 20 * i + 10, 10], 0, False) for i in range(10)))
    curve = matches((found(*(([20 * i, 0, 20 * i + 10, 10], 0, 0.9) for i in range(3))), objects)).curve(0)
    assert curve.eleven == pytest.approx(4 / 11)


def development_kit(pictures: list[tuple[Boxes, Truth]], number: int) -> tuple[float, float]:
    """VOCevaldet and VOCap, as loops over one list of all boxes: (11 points, area)."""
    rows = [
        (float(f.scores[i]), place, f.boxes[i])
        for place, (f, _) in enumerate(pictures)
        for i in range(len(f.scores))
        if f.classes[i] == number
    ]
    rows.sort(key=lambda row: -row[0])
    objects = {
        place: [[t.boxes[i], bool(t.difficult[i]), False] for i in range(len(t.classes)) if t.classes[i] == number]
        for place, (_, t) in enumerate(pictures)
    }
    total = sum(not one[1] for some in objects.values() for one in some)
    right, wrong = [], []
    for _, place, box in rows:
        best, nearest = -1.0, None
        for one in objects[place]:
            true = one[0]
            wide = min(box[2], true[2]) - max(box[0], true[0])
            high = min(box[3], true[3]) - max(box[1], true[1])
            if wide > 0 and high > 0:
                union = (box[2] - box[0]) * (box[3] - box[1]) + (true[2] - true[0]) * (true[3] - true[1]) - wide * high
                if wide * high / union > best:
                    best, nearest = wide * high / union, one
        good, bad = 0, 0
        if nearest is not None and best >= 0.5:
            if not nearest[1]:
                good, bad, nearest[2] = (0, 1, True) if nearest[2] else (1, 0, True)
        else:
            bad = 1
        right.append(good)
        wrong.append(bad)
    tp, fp = np.cumsum(right), np.cumsum(wrong)
    with np.errstate(invalid="ignore"):
        recall, precision = tp / total, np.nan_to_num(tp / (tp + fp))
    eleven = sum(
        max([p for r, p in zip(recall, precision, strict=True) if r >= i / 10], default=0.0) for i in range(11)
    )
    places, heights = [0.0, *recall, 1.0], [0.0, *precision, 0.0]
    for i in range(len(heights) - 2, -1, -1):
        heights[i] = max(heights[i], heights[i + 1])
    area = sum((places[i] - places[i - 1]) * heights[i] for i in range(1, len(places)))
    return eleven / 11, area


@pytest.mark.parametrize("seed", range(6))
def test_beside_the_development_kit(seed: int) -> None:
    draws = np.random.default_rng(seed)
    pictures = []
    for _ in range(25):
        corner = draws.uniform(0, 60, (draws.integers(0, 7), 2))
        true = np.concatenate((corner, corner + draws.uniform(8, 40, corner.shape)), 1)
        numbers = draws.integers(0, 3, len(true))
        place = draws.integers(0, max(len(true), 1), 12 if len(true) else 0)
        boxes = true[place] + draws.normal(0, 3, (len(place), 4))
        guessed = np.where(draws.random(len(place)) < 0.8, numbers[place], draws.integers(0, 3, len(place)))
        scores = draws.random(len(place))
        pictures.append((Boxes(boxes, guessed, scores), Truth(true, numbers, draws.random(len(true)) < 0.3)))
    filled = matches(*pictures, classes=3)
    wanted = [development_kit(pictures, number) for number in range(3)]
    for number, (eleven, area) in enumerate(wanted):
        assert filled.curve(number).eleven == pytest.approx(eleven, abs=1e-12)
        assert filled.curve(number).area == pytest.approx(area, abs=1e-12)
    assert filled.mean_eleven == pytest.approx(sum(one[0] for one in wanted) / 3)
    assert filled.mean_area == pytest.approx(sum(one[1] for one in wanted) / 3)
