"""Boxes by plain loops: overlap, offsets, suppression, and what a detector's outputs say."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch

from bbg.boxes import Level, chosen, corners, count, decode, encode, iou, kept, priors
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


def test_offsets_lead_from_priors_to_boxes_and_back() -> None:
    boxes = random_boxes(13, 2)
    offsets = encode(boxes, priors(LEVELS))
    np.testing.assert_allclose(decode(offsets, priors(LEVELS)), boxes, atol=1e-6)
    theirs = encode(torch.from_numpy(boxes), torch.from_numpy(priors(LEVELS).copy()), torch)
    np.testing.assert_allclose(theirs.numpy(), offsets, atol=1e-5)
    # By hand: a prior of 0.2 x 0.1 in the middle; moved by 0.1 * 1 * 0.2, twice as high.
    found = decode(np.array([1.0, 0, 0, np.log(2) / 0.2]), np.array([0.5, 0.5, 0.2, 0.1]))
    np.testing.assert_allclose(found, [0.42, 0.4, 0.62, 0.6])
    assert np.isfinite(decode(np.full((13, 4), 3e4, np.float32), priors(LEVELS))).all()


def plainly_kept(boxes: np.ndarray, scores: np.ndarray, most: float) -> list[int]:
    left = sorted(range(len(boxes)), key=lambda i: (-scores[i], i))
    found: list[int] = []
    for i in left:
        if all(overlap_of(boxes[i], boxes[j]) <= most for j in found):
            found.append(i)
    return found


@pytest.mark.parametrize("number", [0, 1, 2, 9, 60, 300])
def test_suppression_is_that_of_a_loop(number: int) -> None:
    boxes = random_boxes(number, number)
    scores = np.random.default_rng(1).integers(0, 20, number) / 20  # with many ties
    for most in (0.0, 0.3, 0.45, 1.0):
        assert kept(boxes, scores, most).tolist() == plainly_kept(boxes, scores, most)


def test_suppression_takes_far_less_than_a_millisecond() -> None:
    boxes, scores = random_boxes(200).astype(np.float32), np.random.default_rng(0).random(200)
    best = 1.0
    for _ in range(30):
        begin = time.perf_counter()
        kept(boxes, scores, 0.45)
        best = min(best, time.perf_counter() - begin)
    assert best < 1e-3


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


def plainly_chosen(
    boxes: np.ndarray, shares: np.ndarray, score: float, overlap: float, each: int, most: int
) -> list[tuple[int, int]]:
    """Class by class, then the best of all."""
    found = []
    for number in range(shares.shape[1]):
        own = [i for i in np.argsort(-shares[:, number], kind="stable") if shares[i, number] >= score][:each]
        found += [(int(own[i]), number) for i in kept(boxes[own], shares[own, number], overlap)]
    return sorted(found, key=lambda one: -shares[one])[:most]


@pytest.mark.parametrize("number", [0, 1, 3, 70, 900])
@pytest.mark.parametrize("spread", [0.02, 1.0])  # most boxes on each other, or hardly any
@pytest.mark.parametrize(("each", "most"), [(400, 200), (30, 200), (50, 7)])
def test_boxes_of_all_classes_are_those_chosen_class_by_class(number: int, spread: float, each: int, most: int) -> None:
    draws = np.random.default_rng(number)
    boxes = (random_boxes(number, number) * [spread, spread, 1, 1]).astype(np.float32)
    shares = draws.integers(0, 40, (number, 5)) / 40  # with many ties
    for score, overlap in ((0.0, 0.45), (0.3, 0.0), (0.9, 0.7), (0.3, 1.0)):
        places, classes = chosen(boxes, shares, score, overlap, each, most)
        wanted = plainly_chosen(boxes, shares, score, overlap, each, most)
        assert list(zip(places.tolist(), classes.tolist(), strict=True)) == wanted


def test_boxes_on_one_place_are_one_of_each_class() -> None:
    """Thousands of candidates that all fall to the first."""
    boxes = np.tile(np.float32([0.1, 0.1, 0.6, 0.6]), (3000, 1))
    shares = np.random.default_rng(0).uniform(0.1, 1, (3000, 3))
    places, classes = chosen(boxes, shares, 0.05, 0.45, 400, 200)
    assert sorted(classes.tolist()) == [0, 1, 2]
    assert (places == shares.argmax(0)[classes]).all()
