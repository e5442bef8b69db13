"""Figures of merit against plain loops over the images."""

from __future__ import annotations

import numpy as np
import pytest

from bbg import metrics

CLASSES = 7
RNG = np.random.default_rng(0)
LOGITS = RNG.integers(-3, 4, (300, CLASSES)).astype(np.float32)  # with many ties
LABELS = RNG.integers(0, CLASSES - 1, 300)  # the last class has no image
ANSWERS = LOGITS.argmax(1)


def test_a_place_counts_who_stands_before_the_label() -> None:
    order = [sorted(range(CLASSES), key=lambda i, row=row: (-row[i], i)) for row in LOGITS]  # type: ignore[misc]
    places = [ranked.index(label) for ranked, label in zip(order, LABELS, strict=True)]
    assert metrics.places_of(LOGITS, LABELS).tolist() == places
    for k in (1, 3, 5, CLASSES):
        assert metrics.top(np.array(places), k) == sum(place < k for place in places) / 300


def test_probabilities_are_a_softmax() -> None:
    shares = metrics.probabilities(LOGITS)
    assert shares == pytest.approx(np.exp(LOGITS.astype(float)) / np.exp(LOGITS.astype(float)).sum(1, keepdims=True))
    with np.errstate(all="raise"):
        assert metrics.probabilities(np.array([[1e4, -1e4]], np.float32)).tolist() == [[1, 0]]


def test_counts_of_classes_are_those_of_a_loop() -> None:
    table = np.zeros((CLASSES, CLASSES), int)
    for label, answer in zip(LABELS, ANSWERS, strict=True):
        table[label, answer] += 1
    assert metrics.confusion(LABELS, ANSWERS, CLASSES).tolist() == table.tolist()
    found = metrics.per_class(LABELS, ANSWERS, CLASSES)
    assert found.images.tolist() == table.sum(1).tolist()
    assert found.correct.tolist() == table.diagonal().tolist()
    for i in range(CLASSES - 1):
        assert found.recall[i] == table[i, i] / table[i].sum()
        assert found.precision[i] == table[i, i] / table[:, i].sum()
    assert np.isnan(found.recall[-1]), "no image of it"
    assert found.precision[-1] == 0


def test_the_calibration_error_is_the_mean_gap_over_bins() -> None:
    confidence = np.concatenate([RNG.random(500), [0.0, 1.0, 0.2, 0.4]])
    right = RNG.random(504) < confidence
    error = 0.0
    for b in range(10):
        inside = (confidence > b / 10) & (confidence <= (b + 1) / 10)
        if b == 0:
            inside |= confidence == 0
        if inside.any():
            error += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    assert metrics.calibration(confidence, right, 10).error == pytest.approx(error)
    assert metrics.calibration(np.full(4, 0.75), np.array([True, True, True, False])).error == 0


def test_an_empty_bin_is_not_a_number() -> None:
    found = metrics.calibration(np.array([0.9]), np.array([True]), 2)
    assert found.images.tolist() == [0, 1]
    assert np.isnan(found.accuracy[0])
    assert found.error == pytest.approx(0.1)
