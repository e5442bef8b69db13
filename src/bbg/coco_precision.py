"""Average precision of boxes as COCO computes it: the mean over overlaps from 0.5 to 0.95, in plain numpy.

    matches = CocoMatches(classes=80)
    for found, truth in pictures:
        matches.add(found, truth)
    matches.average(3)    # of a class
    matches.mean          # mAP@[0.5:0.95]

It differs from that of Pascal VOC (`bbg.average_precision`) in more than the overlaps. Of a picture the 100 best boxes
of a class count. A box takes the true one that it overlaps most among those that are not yet taken. True boxes that are
`difficult` are as COCO's crowds: they need not be found, any number of boxes may lie on one, and the overlap with one
is the share of the found box that lies inside. The curve is read at 101 recalls.
"""

from __future__ import annotations

import math

import numpy as np

from bbg.average_precision import Truth
from bbg.boxes import Boxes, area, iou

# As COCO's own code has them: the numbers of floating point decide about ties.
OVERLAPS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0, 1, 101)
MOST = 100  # boxes of a class in a picture
ROUNDING = 1e-10  # an overlap of 1 less this is enough where 1 is asked for


class CocoMatches:
    """The boxes found in many pictures, each compared with the true ones; ten small numbers per box are kept."""

    def __init__(self, classes: int) -> None:
        self.classes = classes
        self.objects = np.zeros(classes, np.int64)
        self._found: list[list[tuple[np.ndarray, np.ndarray]]] = [[] for _ in range(classes)]

    def add(self, found: Boxes, truth: Truth) -> None:
        """Compare the boxes of one picture, in any order, with the true ones; both in the same unit."""
        for number in np.union1d(found.classes, truth.classes).tolist():
            ours, theirs = found.classes == number, truth.classes == number
            crowds = truth.difficult[theirs].astype(bool)
            self.objects[number] += int((~crowds).sum())
            order = np.argsort(-found.scores[ours], kind="stable")[:MOST]
            states = _compare(found.boxes[ours][order], truth.boxes[theirs], crowds)
            self._found[number].append((found.scores[ours][order], states))

    def by_overlap(self, number: int) -> np.ndarray:
        """The average precision of a class at each of OVERLAPS, `[10]`; NaN without an object."""
        objects, parts = int(self.objects[number]), self._found[number]
        if not objects:
            return np.full(len(OVERLAPS), math.nan)
        scores = np.concatenate([part[0] for part in parts])
        states = np.concatenate([part[1] for part in parts], 1)[:, np.argsort(-scores, kind="stable")]
        return np.array([_area(row[row >= 0], objects) for row in states])

    def average(self, number: int) -> float:
        """The mean of `by_overlap`."""
        return float(self.by_overlap(number).mean())

    @property
    def mean(self) -> float:
        """mAP@[0.5:0.95]: the mean of `average` over the classes that have objects; NaN where none has."""
        known = [value for value in map(self.average, range(self.classes)) if not math.isnan(value)]
        return sum(known) / len(known) if known else math.nan


def _area(right: np.ndarray, objects: int) -> float:
    """The mean over RECALLS of the best precision from there on; `right` is 1 or 0, from the best score down."""
    if not len(right):
        return 0.0
    hits = right.astype(np.int64).cumsum()
    best = np.maximum.accumulate((hits / np.arange(1, len(hits) + 1))[::-1])[::-1]
    place = np.searchsorted(hits / objects, RECALLS, side="left")
    return float(np.where(place < len(best), best[np.minimum(place, len(best) - 1)], 0).mean())


def _compare(boxes: np.ndarray, true: np.ndarray, crowds: np.ndarray) -> np.ndarray:
    """At each of OVERLAPS, and of each box from the best score down: 1 it is right, 0 it is wrong, -1 it is neither."""
    states = np.zeros((len(OVERLAPS), len(boxes)), np.int8)
    if not len(true) or not len(boxes):
        return states
    boxes, true = boxes.astype(np.float64), true.astype(np.float64)
    overlaps = iou(boxes, true)
    if crowds.any():
        overlaps[:, crowds] = _inside(boxes, true[crowds])
    least = np.minimum(OVERLAPS, 1 - ROUNDING)
    free = np.ones((len(OVERLAPS), len(true)), bool)
    rows = np.arange(len(OVERLAPS))
    for place in np.flatnonzero(overlaps.max(1) >= least[0]):
        enough = (overlaps[place] >= least[:, None]) & free
        for some, state in ((~crowds, 1), (crowds, -1)):
            fits = enough & some
            best = _last_best(np.where(fits, overlaps[place], -1))
            taken = fits.any(1) & (states[:, place] == 0)
            states[taken, place] = state
            if state == 1:
                free[rows[taken], best[taken]] = False
    return states


def _last_best(values: np.ndarray) -> np.ndarray:
    """The place of the largest value of each row; of equal ones the last."""
    last: np.ndarray = values.shape[1] - 1 - values[:, ::-1].argmax(1)
    return last


def _inside(boxes: np.ndarray, true: np.ndarray) -> np.ndarray:
    """The share of each of `boxes` `[A, 4]` that lies in each of `true` `[B, 4]`."""
    low, high = np.maximum(boxes[:, None, :2], true[:, :2]), np.minimum(boxes[:, None, 2:], true[:, 2:])
    both = np.prod(np.maximum(high - low, 0), 2)
    own = area(boxes)[:, None]
    share: np.ndarray = both / (own + (own <= 0))
    return share
