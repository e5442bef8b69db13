"""Boxes by plain loops: overlap, offsets, suppression, and what a detector's outputs say."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch

from bbg.boxes import Level, corners, count, detect, encode, iou, priors
from bbg.errors import BbgError
from bbg.heads import Detection, head_from_json

LEVELS = (Level((2, 3), ((0.2, 0.3), (0.4, 0.1))), Level((1, 1), ((0.9, 0.8),)))


def random_boxes(number: int, seed: int = 0, side: float = 1.0) -> np.ndarray:
    draws = np.random.default_rng(seed)
    corner = draws.uniform(0, 0.7, (number, 2))
    return np.concatenate((corner, corner + draws.uniform(0.02, 0.3, (number, 2))), 1) * side


def overlap_of(a: np.ndarray, b: np.ndarray) -> float:
    wide = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    high = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    total = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - wide * high
    return wide * high / total


def test_overlap_is_that_of_a_loop() -> None:
    a, b = random_boxes(20), random_boxes(15, 1)
    wanted = np.array([[overlap_of(one, other) for other in b] for one in a])
    np.testing.assert_allclose(iou(a, b), wanted, rtol=1e-12)
    assert (np.diag(iou(a, a)) == 1).all()
    ours = iou(torch.from_numpy(a), torch.from_numpy(b), torch).numpy()
    np.testing.assert_allclose(ours, wanted, rtol=1e-12)


def test_a_box_without_an_area_overlaps_with_none() -> None:
    odd = np.array([[0.5, 0.5, 0.5, 0.9], [0.6, 0.1, 0.2, 0.4], [0.6, 0.6, 0.2, 0.2]])
    assert not iou(odd, odd).any()
    assert not iou(odd, np.array([[0.0, 0, 1, 1]])).any()


def test_priors_lie_row_by_row_at_the_middles_of_cells() -> None:
    found = priors(LEVELS)
    assert len(found) == count(LEVELS) == 13
    np.testing.assert_allclose(found[:3], [[1 / 6, 0.25, 0.2, 0.3], [1 / 6, 0.25, 0.4, 0.1], [0.5, 0.25, 0.2, 0.3]])
    np.testing.assert_allclose(found[6:8], [[1 / 6, 0.75, 0.2, 0.3], [1 / 6, 0.75, 0.4, 0.1]])
    np.testing.assert_allclose(found[12], [0.5, 0.5, 0.9, 0.8])
    np.testing.assert_allclose(corners(found[12]), [0.05, 0.1, 0.95, 0.9], atol=1e-6)


def decoded(offsets: np.ndarray, start: np.ndarray) -> np.ndarray:
    """The inverse of `encode`, written down once more."""
    middle = start[:, :2] + 0.1 * offsets[:, :2] * start[:, 2:]
    half = np.exp(0.2 * offsets[:, 2:]) * start[:, 2:] / 2
    return np.concatenate((middle - half, middle + half), 1)


def test_offsets_lead_from_priors_to_boxes_and_back() -> None:
    boxes = random_boxes(13, 2)
    offsets = encode(boxes, priors(LEVELS))
    np.testing.assert_allclose(decoded(offsets, priors(LEVELS)), boxes, atol=1e-6)
    theirs = encode(torch.from_numpy(boxes), torch.from_numpy(priors(LEVELS).copy()), torch)
    np.testing.assert_allclose(theirs.numpy(), offsets, atol=1e-5)
    logits = np.tile(np.float32([0, 3]), (13, 1))
    found = detect(offsets, logits, priors(LEVELS), 0.5, 1, 400, 200)
    np.testing.assert_allclose(found.boxes, boxes, atol=1e-6)
    # By hand: a prior of 0.2 x 0.1 in the middle; moved by 0.1 * 1 * 0.2, twice as high.
    found = detect(np.array([[1.0, 0, 0, np.log(2) / 0.2]]), logits[:1], np.array([[0.5, 0.5, 0.2, 0.1]]), 0.5, 1, 1, 1)
    np.testing.assert_allclose(found.boxes, [[0.42, 0.4, 0.62, 0.6]], rtol=1e-6)
    far = detect(np.full((13, 4), 3e4, np.float32) * [0, 0, 1, 1], logits, priors(LEVELS), 0.5, 1, 400, 200)
    assert far.boxes.tolist() == [[0, 0, 1, 1]] * 13


def plainly(
    offsets: np.ndarray, logits: np.ndarray, start: np.ndarray, score: float, most_overlap: float, each: int, most: int
) -> list[tuple[int, int]]:
    """(prior, class) of what is kept: class by class, by loops, then the best of all."""
    odds = np.exp((logits - logits.max(1, keepdims=True)).astype(np.float64))
    shares = (odds / odds.sum(1, keepdims=True))[:, 1:]
    boxes = np.clip(decoded(offsets, start), 0, 1)
    inside = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    found = []
    for number in range(shares.shape[1]):
        own = [i for i in np.argsort(-shares[:, number], kind="stable") if shares[i, number] >= score and inside[i]]
        kept: list[int] = []
        for i in own[:each]:
            if all(overlap_of(boxes[i], boxes[j]) <= most_overlap for j in kept):
                kept.append(i)
        found += [(int(i), number) for i in kept]
    return sorted(found, key=lambda one: (-shares[one], one[1], one[0]))[:most]


@pytest.mark.parametrize("number", [0, 1, 3, 70, 700])
@pytest.mark.parametrize("spread", [0.02, 1.0])  # most boxes on each other, or hardly any
@pytest.mark.parametrize(("each", "most"), [(400, 200), (30, 200), (50, 7)])
def test_boxes_of_all_classes_are_those_of_a_loop(number: int, spread: float, each: int, most: int) -> None:
    draws = np.random.default_rng(number)
    boxes = (random_boxes(number, number) * [spread, spread, 1, 1]).astype(np.float32)
    start = draws.uniform(0.1, 0.4, (number, 4)).astype(np.float32)
    offsets = encode(boxes, start).astype(np.float32)
    logits = draws.integers(-4, 5, (number, 6)).astype(np.float32)  # with many ties
    for score, overlap in ((0.0, 0.45), (0.1, 0.0), (0.6, 0.7), (0.1, 1.0)):
        found = detect(offsets, logits, start, score, overlap, each, most)
        wanted = plainly(offsets, logits, start, score, overlap, each, most)
        assert found.classes.tolist() == [number for _, number in wanted]
        np.testing.assert_allclose(
            found.boxes,
            np.clip(decoded(offsets[[i for i, _ in wanted]], start[[i for i, _ in wanted]]), 0, 1),
            atol=1e-6,
        )
        assert (np.diff(found.scores) <= 0).all()


def test_boxes_on_one_place_are_one_of_each_class() -> None:
    """Thousands of candidates that all fall to the first."""
    draws = np.random.default_rng(0)
    start, logits = np.tile(np.float32([0.3, 0.3, 0.5, 0.5]), (3000, 1)), draws.normal(0, 1, (3000, 4))
    found = detect(np.zeros((3000, 4)), logits, start, 0.05, 0.45, 400, 200)
    assert sorted(found.classes.tolist()) == [0, 1, 2]


def wide_detector() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What SSD300 says: 8,732 priors, 20 classes, of which 1,500 boxes are likely to be something."""
    draws = np.random.default_rng(0)
    start = draws.uniform(0.05, 0.4, (8732, 4)).astype(np.float32)
    logits = draws.normal(0, 1, (8732, 21)).astype(np.float32)
    logits[:, 0] += 8
    logits[:1500, 5] += 12
    return draws.normal(0, 1, (8732, 4)).astype(np.float32), logits, start


def test_deciding_takes_far_less_than_a_millisecond() -> None:
    arguments = wide_detector()
    best = 1.0
    for _ in range(30):
        begin = time.perf_counter()
        detect(*arguments, 0.5, 0.45, 400, 200)
        best = min(best, time.perf_counter() - begin)
    assert best < 1e-3


def test_arrays_of_other_shapes_are_refused() -> None:
    offsets, logits, start = wide_detector()
    for given in ((offsets[1:], logits, start), (offsets, logits[1:], start), (offsets[:, :3], logits, start)):
        with pytest.raises(ValueError, match="must be"):
            detect(*given, 0.5, 0.45, 400, 200)


def outputs_of(rows: list[tuple[int, list[float], list[float]]], classes: int = 2) -> dict[str, np.ndarray]:
    """Outputs that are background but for the priors of `rows`: (prior, logits, box)."""
    scores = np.zeros((1, 13, 1 + classes), np.float32)
    scores[:, :, 0] = 20
    boxes = np.zeros((1, 13, 4), np.float32)
    for prior, logits, box in rows:
        scores[0, prior] = logits
        boxes[0, prior] = encode(np.array(box), priors(LEVELS)[prior])
    return {"boxes": boxes, "scores": scores}


def test_a_detection_decides_by_softmax_threshold_and_suppression() -> None:
    head = Detection(LEVELS)
    one, near, far = [0.1, 0.1, 0.5, 0.5], [0.1, 0.1, 0.5, 0.52], [0.6, 0.6, 0.9, 0.9]
    outputs = outputs_of([(0, [0, 4, 0], one), (1, [0, 3, 0], near), (2, [0, 0, 5], near), (8, [0, 1, 0], far)])
    (found,) = head.decide(outputs)
    assert found.classes.tolist() == [1, 0, 0]
    np.testing.assert_allclose(found.boxes, [near, one, far], atol=1e-5)
    np.testing.assert_allclose(found.scores, np.exp([5, 4, 1]) / (2 + np.exp([5, 4, 1])))
    (all_of,) = head.decide(outputs, 0.5, iou=1)
    assert all_of.classes.tolist() == [1, 0, 0, 0]
    (best,) = head.decide(outputs, 0.98)
    assert best.classes.tolist() == [1]


@pytest.mark.parametrize("score", [0.0, 0.01, 0.3, 0.5, 0.9])
def test_no_prior_above_the_threshold_is_passed_over(score: float) -> None:
    draws = np.random.default_rng(3)
    outputs = {"boxes": np.zeros((1, 13, 4), np.float32), "scores": draws.normal(0, 3, (1, 13, 4)).astype(np.float32)}
    (found,) = Detection(LEVELS).decide(outputs, score, iou=1)
    odds = np.exp(outputs["scores"][0].astype(np.float64))
    shares = (odds / odds.sum(1, keepdims=True))[:, 1:]
    assert sorted(found.scores) == pytest.approx(sorted(shares[shares >= score]))


def test_a_box_is_cut_at_the_edges_and_one_outside_is_none() -> None:
    inside, outside = [-0.2, 0.2, 0.5, 1.5], [1.1, 0.2, 1.4, 0.4]
    (found,) = Detection(LEVELS).decide(outputs_of([(0, [0, 5, 0], inside), (4, [0, 5, 0], outside)]))
    np.testing.assert_allclose(found.boxes, [[0, 0.2, 0.5, 1]], atol=1e-5)
    (none,) = Detection(LEVELS).decide(outputs_of([]))
    assert none.boxes.shape == (0, 4)


def test_outputs_that_are_not_finite_are_refused() -> None:
    for name in ("boxes", "scores"):
        outputs = outputs_of([])
        outputs[name][0, 3, 1] = np.nan
        with pytest.raises(BbgError, match="scores of 1 of 1 images are not finite"):
            Detection(LEVELS).decide(outputs)


def test_a_detection_goes_through_json() -> None:
    assert head_from_json(Detection(LEVELS).to_json()) == Detection(LEVELS)


@pytest.mark.parametrize(
    ("levels", "message"),
    [
        ("x", "must be a list"),
        ([], "they must be bbg.boxes.Level"),
        ([[]], "must be an object of 'map' and 'sizes'"),
        ([{"map": [1, 1]}], "must be an object of 'map' and 'sizes'"),
        ([{"map": [1, 0], "sizes": [[1, 1]]}], r"must have a map \(H, W\)"),
        ([{"map": [1, True], "sizes": [[1, 1]]}], r"must have a map \(H, W\)"),
        ([{"map": [1, 1, 1], "sizes": [[1, 1]]}], r"must have a map \(H, W\)"),
        ([{"map": [1, 1], "sizes": []}], r"must have a map \(H, W\)"),
        ([{"map": [1, 1], "sizes": [[1]]}], r"must have a map \(H, W\)"),
        ([{"map": [1, 1], "sizes": [[0, 1]]}], r"must have a map \(H, W\)"),
        ([{"map": [1, 1], "sizes": [["1", 1]]}], r"must have a map \(H, W\)"),
        ([{"map": [1, 1], "sizes": [[1, 1e9]]}], r"must have a map \(H, W\)"),
    ],
    ids=str,
)
def test_levels_that_are_none_are_refused(levels: object, message: str) -> None:
    with pytest.raises(BbgError, match=message):
        head_from_json({"kind": "detection", "levels": levels})


def test_a_network_of_other_outputs_is_refused() -> None:
    head = Detection(LEVELS)
    good = {"boxes": (13, 4), "scores": (13, 3)}
    head.check("dict", good)
    assert head.classes(good) == 2
    for structure, shapes in (
        ("tuple", good),
        ("dict", {"boxes": (12, 4), "scores": (12, 3)}),
        ("dict", {"boxes": (13, 4), "scores": (13, 1)}),
        ("dict", {"boxes": (13, 4)}),
        ("dict", {**good, "masks": (13, 4)}),
        ("tensor", {"": (13, 4)}),
    ):
        with pytest.raises(BbgError, match="a detection with 13 priors"):
            head.check(structure, shapes)
