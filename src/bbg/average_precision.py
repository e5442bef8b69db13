"""Average precision of boxes, as the development kit of Pascal VOC computes it, in plain numpy.

    matches = Matches(classes=20)
    for found, truth in pictures:
        matches.add(found, truth)
    matches.curve(3).area        # VOC 2010 and later; .eleven: VOC 2007
    matches.mean_area, matches.mean_eleven    # mAP

A box is found where it has an IoU of at least 0.5 with a true one of its class. Each true box is found once, by the box
with the best score; others are wrong. True boxes that are `difficult` need not be found, and what finds them counts
neither as right nor as wrong.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from bbg.boxes import Boxes, iou

LEAST = 0.5  # the IoU from which on a box is found


class Truth(NamedTuple):
    """The true boxes of a picture: `boxes` `[G, 4]` (left, top, right, bottom), `classes` and `difficult` `[G]`."""

    boxes: np.ndarray
    classes: np.ndarray
    difficult: np.ndarray


class Curve(NamedTuple):
    """Precision by recall of one class: for each box from the best score down, `right` so far and `wrong` so far.

    `scores` `[D]`; `objects`: true boxes that are not difficult. Boxes on difficult ones are left out.
    """

    scores: np.ndarray
    right: np.ndarray
    wrong: np.ndarray
    objects: int

    @property
    def recall(self) -> np.ndarray:
        """The share of the objects that is found down to each score."""
        found: np.ndarray = self.right / max(self.objects, 1)
        return found

    @property
    def precision(self) -> np.ndarray:
        """The share of the boxes down to each score that is right."""
        found: np.ndarray = self.right / (self.right + self.wrong)
        return found

    @property
    def area(self) -> float:
        """The area below the curve, its precision made falling from the right (VOC 2010); NaN without an object."""
        if not self.objects:
            return math.nan
        best = np.maximum.accumulate(self.precision[::-1])[::-1]
        return float((np.diff(self.recall, prepend=0) * best).sum())

    @property
    def eleven(self) -> float:
        """The mean, over recalls of 0, 0.1, ..., 1, of the best precision from there on (VOC 2007); NaN as above."""
        if not self.objects:
            return math.nan
        precision, total = self.precision, 0.0
        for tenths in range(11):  # in integers: 0.1 and its multiples are no numbers of floating point
            reached = 10 * self.right >= tenths * self.objects
            total += float(precision[reached].max(initial=0))
        return total / 11


class Matches:
    """The boxes found in many pictures, each compared with the true ones; of a picture but a number per box is kept."""

    def __init__(self, classes: int, least: float = LEAST) -> None:
        self.classes, self.least = classes, least
        self.objects = np.zeros(classes, np.int64)
        self._found: list[list[tuple[np.ndarray, np.ndarray]]] = [[] for _ in range(classes)]

    def add(self, found: Boxes, truth: Truth) -> None:
        """Compare the boxes of one picture, in any order, with the true ones."""
        for number in np.union1d(found.classes, truth.classes).tolist():
            ours, theirs = found.classes == number, truth.classes == number
            scores, difficult = found.scores[ours], truth.difficult[theirs].astype(bool)
            self.objects[number] += int((~difficult).sum())
            order = np.argsort(-scores, kind="stable")
            states = self._compare(found.boxes[ours][order], truth.boxes[theirs], difficult)
            counts = states >= 0
            self._found[number].append((scores[order][counts], states[counts]))

    @staticmethod
    def joined(parts: Sequence[Matches]) -> Matches:
        """The pictures of all `parts`, one after the other, as if one had seen them all."""
        whole = Matches(parts[0].classes, parts[0].least)
        for part in parts:
            whole.objects += part.objects
            for number in range(whole.classes):
                whole._found[number] += part._found[number]
        return whole

    def _compare(self, boxes: np.ndarray, true: np.ndarray, difficult: np.ndarray) -> np.ndarray:
        """Of each box, from the best score down: 1 it is right, 0 it is wrong, -1 it does not count."""
        states = np.zeros(len(boxes), np.int64)
        if not len(true):
            return states
        overlaps = iou(boxes.astype(np.float64), true.astype(np.float64))
        taken = np.zeros(len(true), bool)
        for place, best in enumerate(overlaps.argmax(1)):
            if overlaps[place, best] < self.least:
                continue
            if difficult[best]:
                states[place] = -1
            elif not taken[best]:
                states[place], taken[best] = 1, True
        return states

    def curve(self, number: int) -> Curve:
        """The curve of class `number`. Of equal scores the box of the earlier picture comes first."""
        parts = self._found[number]
        scores = np.concatenate([part[0] for part in parts]) if parts else np.empty(0)
        states = np.concatenate([part[1] for part in parts]) if parts else np.empty(0, np.int64)
        order = np.argsort(-scores, kind="stable")
        right = states[order].cumsum()
        return Curve(scores[order], right, np.arange(1, len(order) + 1) - right, int(self.objects[number]))

    @property
    def mean_area(self) -> float:
        """mAP: the mean of `Curve.area` over the classes that have objects; NaN where none has."""
        return self._mean([self.curve(i).area for i in range(self.classes)])

    @property
    def mean_eleven(self) -> float:
        """The same of `Curve.eleven`."""
        return self._mean([self.curve(i).eleven for i in range(self.classes)])

    def _mean(self, figures: list[float]) -> float:
        known = [figure for figure in figures if not math.isnan(figure)]
        return sum(known) / len(known) if known else math.nan
