"""How good a network's boxes are on images with true ones: average precision by class, the images that go worst.

evaluation = BoxEvaluation(classes)
for score in box_scores(images, run):    # `run`: pixels -> boxes, by the engine or by torch
evaluation.add(score)
evaluation.matches.mean_area, evaluation.per_class(), evaluation.worst()
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from bbg.average_precision import Matches, Truth
from bbg.boxes import Boxes
from bbg.coco_precision import CocoMatches
from bbg.data import BoxSet
from bbg.errors import BbgError
from bbg.image import reason_of
from bbg.scoring.evaluation import WORST
from bbg.scoring.stream import through

BOX_COLUMNS = ("image", "objects", "right", "wrong", "missed", "error")
SURE, OVERLAP = 0.01, 0.45  # of the boxes that are judged: their least score, and the IoU above which one is dropped
SHOWN = 0.5  # the least score of a box that counts as right or wrong in a table
PIXELS = 2**20  # of the images that are computed at a time

Run = Callable[[np.ndarray], list[Boxes]]


class BoxScore(NamedTuple):
    """What a network says of image `number`, called `name`: its boxes and the true ones, in shares of the sides.

    `error`: why the image cannot be read; then there are none.
    """

    number: int
    name: str
    found: Boxes
    truth: Truth
    error: str = ""

    def counts(self, classes: int) -> tuple[int, int, int]:
        """Of the boxes with a score of at least SHOWN how many are right and wrong, and the objects that are missed."""
        sure = self.found.scores >= SHOWN
        own = Matches(classes)
        own.add(Boxes(*(values[sure] for values in self.found)), self.truth)
        curves = [own.curve(number) for number in range(classes)]
        right = sum(int(curve.right[-1]) for curve in curves if len(curve.right))
        wrong = sum(int(curve.wrong[-1]) for curve in curves if len(curve.wrong))
        return right, wrong, int(own.objects.sum()) - right


def truth_of(rows: np.ndarray) -> Truth:
    """The true boxes of a target `[M, 6]` (`bbg.data.boxed`), in shares of the sides of the input."""
    rows = rows[rows[:, 0] >= 0]
    return Truth(rows[:, 1:5], rows[:, 0].astype(np.int64), rows[:, 5] > 0)


def box_scores(images: BoxSet, run: Run, batch: int | None = None) -> Iterator[BoxScore]:
    """The score of each image, in their order; `run` makes boxes of uint8 pixels `[N, H, W, C]`, a `Boxes` for each."""
    high, wide = images.preprocess.size
    targets, nothing = images.labels, Boxes(np.empty((0, 4)), np.empty(0, np.int64), np.empty(0))
    some = batch or max(1, min(32, PIXELS // (high * wide)))
    for index, found in through(lambda i: images.read(i)[0], run, range(len(images)), some):
        name, truth = str(images.items[index].image), truth_of(targets[index])
        if isinstance(found, BbgError):
            yield BoxScore(index, name, nothing, truth_of(targets[index][:0]), str(found))
        else:
            yield BoxScore(index, name, found, truth)


class BoxEvaluation:
    """What the scores of many images come to. `skipped`: the images that could not be read, each with the reason."""

    def __init__(self, classes: Sequence[str], keep: int = WORST) -> None:
        self.classes, self.keep, self.images = tuple(classes), keep, 0
        self.matches, self.coco = Matches(len(classes)), CocoMatches(len(classes))
        self.skipped: list[tuple[str, str]] = []
        self._worst: list[tuple[int, int, BoxScore]] = []

    def add(self, score: BoxScore) -> None:
        """Count one image."""
        if score.error:
            self.skipped.append((score.name, score.error))
            return
        self.images += 1
        self.matches.add(score.found, score.truth)
        self.coco.add(score.found, score.truth)
        _, wrong, missed = score.counts(len(self.classes))
        entry = (wrong + missed, -score.number, score)  # numbers differ, so scores are not compared
        (heapq.heappush if len(self._worst) < self.keep else heapq.heappushpop)(self._worst, entry)

    def __len__(self) -> int:
        """Images that were scored."""
        return self.images

    def worst(self) -> list[BoxScore]:
        """The images with the most wrong and missed boxes, the most first; at most `keep` of them."""
        return [score for _, _, score in sorted(self._worst, key=lambda one: one[:2], reverse=True)]

    def per_class(self) -> list[dict[str, Any]]:
        """A row per class: its objects, the boxes found, and its average precision (None without an object)."""
        rows = []
        for number, name in enumerate(self.classes):
            curve = self.matches.curve(number)
            figures = {"ap": curve.area, "ap_11": curve.eleven, "ap_50_95": self.coco.average(number)}
            known = {key: None if math.isnan(value) else value for key, value in figures.items()}
            found = int((curve.scores >= SHOWN).sum())
            rows.append({"class": name, "objects": curve.objects, "boxes": found, **known})
        return rows

    def as_dict(self) -> dict[str, Any]:
        """All of this for JSON; BbgError where no image could be read."""
        if not len(self):
            reason = f" ({self.skipped[0][1]})" if self.skipped else ""
            raise BbgError(f"none of the images could be read{reason}; give images with boxes")
        return {
            "per_class": self.per_class(),
            "worst": [row_of_boxes(score, len(self.classes)) for score in self.worst()],
            "skipped_files": [{"file": name, "why": reason_of(name, why)} for name, why in self.skipped],
            "test_images": len(self),
            "skipped": len(self.skipped),
            "map": self.matches.mean_area,
            "map_11": self.matches.mean_eleven,
            "map_50_95": self.coco.mean,
        }


def row_of_boxes(score: BoxScore, classes: int) -> dict[str, Any]:
    """A score as a row of BOX_COLUMNS, for people and programs."""
    if score.error:
        return dict(zip(BOX_COLUMNS, (score.name, None, None, None, None, score.error), strict=True))
    right, wrong, missed = score.counts(classes)
    return dict(zip(BOX_COLUMNS, (score.name, right + missed, right, wrong, missed, None), strict=True))
