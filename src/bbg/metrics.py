"""How good scores are: places, accuracy, the confusion of classes, and calibration, in plain numpy.

places = places_of(logits, labels)                  # 0: the true class has the best score
(places == 0).mean(), (places < 5).mean()           # top-1 and top-5 accuracy
per_class(labels, answers, classes).recall          # and images, correct, precision of each class
calibration(confidence, right).error                # how far confidence is from accuracy
overlap(confusion(labels, answers, classes)).mean   # the mean intersection over union, of pixels
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

BINS = 15  # of the calibration error


def probabilities(logits: np.ndarray) -> np.ndarray:
    """The softmax of each row of `logits` `[N, classes]`, in float64."""
    with np.errstate(under="ignore"):  # far below the best, a probability is 0
        odds = np.exp(logits - logits.max(1, keepdims=True), dtype=np.float64)
    shares: np.ndarray = odds / odds.sum(1, keepdims=True)
    return shares


def places_of(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The place of each image's label by its score, int64 `[N]`, the best is 0. Equal scores keep the order of classes.

    `scores` `[N, classes]`: logits or probabilities; `labels` `[N]`.
    """
    of_label = np.take_along_axis(scores, labels[:, None], 1)
    earlier = np.arange(scores.shape[1]) < labels[:, None]
    before: np.ndarray = (scores > of_label) | ((scores == of_label) & earlier)
    places: np.ndarray = before.sum(1, dtype=np.int64)
    return places


def top(places: np.ndarray, k: int) -> float:
    """Top-k accuracy: the share of the images whose label is among the `k` best classes."""
    return float((places < k).mean())


def confusion(labels: np.ndarray, answers: np.ndarray, classes: int) -> np.ndarray:
    """Images of each class (row) by the answer that they got (column), int64 `[classes, classes]`."""
    counts: np.ndarray = np.bincount(labels.astype(np.int64) * classes + answers, minlength=classes * classes)
    return counts.reshape(classes, classes)


class PerClass(NamedTuple):
    """Of each class: its images, those named rightly, and all answers that named it, int64 `[classes]` each."""

    images: np.ndarray
    correct: np.ndarray
    answers: np.ndarray

    @property
    def recall(self) -> np.ndarray:
        """The share of the class's images that is named rightly; NaN where it has none."""
        return _share(self.correct, self.images)

    @property
    def precision(self) -> np.ndarray:
        """The share of the answers of this class that is right; NaN where it never was the answer."""
        return _share(self.correct, self.answers)


def per_class(labels: np.ndarray, answers: np.ndarray, classes: int) -> PerClass:
    """The counts of each class. They need no confusion matrix, which thousands of classes would make large."""
    count = [np.bincount(which, minlength=classes) for which in (labels, labels[labels == answers], answers)]
    return PerClass(*count)


class Overlap(NamedTuple):
    """Pixels of each class: `truth` has it, `answers` has it, `both` have it, int64 `[classes]` each."""

    truth: np.ndarray
    answers: np.ndarray
    both: np.ndarray

    @property
    def iou(self) -> np.ndarray:
        """Intersection over union of each class, `TP / (TP + FP + FN)`; NaN where neither side has it."""
        return _share(self.both, self.truth + self.answers - self.both)

    @property
    def mean(self) -> float:
        """mIoU: the mean of `iou` over the classes that occur in the truth or in the answers; NaN without a pixel."""
        seen = self.truth + self.answers > 0
        return float(self.iou[seen].mean()) if seen.any() else math.nan

    @property
    def accuracy(self) -> float:
        """The share of the pixels whose class is right; NaN without a pixel."""
        total = int(self.truth.sum())
        return int(self.both.sum()) / total if total else math.nan


def overlap(counts: np.ndarray) -> Overlap:
    """The overlap of pixels by class (row) and answer (column), as `confusion` counts them."""
    return Overlap(counts.sum(1), counts.sum(0), np.diagonal(counts).copy())


class Calibration(NamedTuple):
    """Images by the probability of their answer, in bins of equal width from 0 to 1; NaN where a bin is empty.

    `images`: how many, `confidence`: the mean probability, `accuracy`: the share of right answers, `[bins]` each.
    """

    images: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray

    @property
    def error(self) -> float:
        """The expected calibration error, `sum_b images_b / N * |accuracy_b - confidence_b|` (arXiv 1706.04599)."""
        full = self.images > 0
        gaps = np.abs(self.accuracy[full] - self.confidence[full])
        return float((self.images[full] * gaps).sum() / self.images.sum())


def calibration(confidence: np.ndarray, right: np.ndarray, bins: int = BINS) -> Calibration:
    """The calibration of answers with the probabilities `confidence` `[N]`, of which those of `right` `[N]` are right.

    Bin `b` of `bins` holds the probabilities in `(b / bins, (b + 1) / bins]`.
    """
    where = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    images = np.bincount(where, minlength=bins)
    sums = (np.bincount(where, weights=values, minlength=bins) for values in (confidence, right.astype(np.float64)))
    return Calibration(images, *(_share(total, images) for total in sums))


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    shares: np.ndarray = np.divide(part, whole, out=np.full(len(whole), np.nan), where=whole > 0)
    return shares
