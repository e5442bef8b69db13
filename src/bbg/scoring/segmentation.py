"""How good a network's maps are on images with masks: figures, a table by class, the images that it finds hardest.

    evaluation = MaskEvaluation(classes)
    for score in mask_scores(images, run):    # `run`: pixels -> classes, by the engine or by torch
        evaluation.add(score)
    evaluation.overlap.mean, evaluation.per_class(), evaluation.worst()

Images go through one after the other, and of each but a few numbers are kept; how many there are does not matter.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from bbg import metrics
from bbg.data.masks import MaskedImages
from bbg.errors import BbgError
from bbg.image import reason_of
from bbg.maps import IGNORED
from bbg.scoring.evaluation import WORST
from bbg.scoring.stream import BATCH, through

MASK_COLUMNS = ("image", "miou", "pixel_accuracy", "pixels", "error")
PIXELS = 2**20  # of the images that are computed at a time, at most


class MaskScore(NamedTuple):
    """What a network says of image `number`, called `name`: `counts`, its pixels by class (row) and answer (column).

    `error`: why the image cannot be read; then `counts` is empty.
    """

    number: int
    name: str
    counts: np.ndarray
    error: str = ""

    @property
    def overlap(self) -> metrics.Overlap:
        """That of this image alone."""
        return metrics.overlap(self.counts)


def batch_of(height: int, width: int) -> int:
    """How many images of this size are computed at a time, where nothing is said of it."""
    return max(1, min(BATCH, PIXELS // (height * width)))


def counts_of(truth: np.ndarray, answers: np.ndarray, classes: int) -> np.ndarray:
    """Pixels by class (row) and answer (column), int64 `[classes, classes]`; those whose true class is 255 not counted.

    `truth`, `answers`: uint8 of one shape.
    """
    seen = truth != IGNORED
    return metrics.confusion(truth[seen], answers[seen], classes)


def mask_scores(
    images: MaskedImages, run: Callable[[np.ndarray], np.ndarray], batch: int | None = None
) -> Iterator[MaskScore]:
    """The score of each image, in their order; `run` makes classes `[N, H, W]` of uint8 pixels `[N, H, W, C]`.

    Masks are compared at the size of the network's input. An image that cannot be read is a score with an error; a mask
    that is damaged or does not fit raises BbgError, which names its file.
    """
    count = len(images.classes)
    for index, found in through(images.read, run, range(len(images)), batch or batch_of(*images.preprocess.size)):
        name = images.names[index]
        if isinstance(found, BbgError):
            yield MaskScore(index, name, np.zeros((count, count), np.int64), str(found))
        else:
            yield MaskScore(index, name, counts_of(images.mask(index), found, count))


class MaskEvaluation:
    """What the scores of many images come to. `skipped`: the images that could not be read, each with the reason."""

    def __init__(self, classes: Sequence[str], keep: int = WORST) -> None:
        self.classes, self.keep, self.images = tuple(classes), keep, 0
        self.counts = np.zeros((len(classes), len(classes)), np.int64)
        self.skipped: list[tuple[str, str]] = []
        self._worst: list[tuple[float, int, MaskScore]] = []  # a heap whose first is the best of them

    def add(self, score: MaskScore) -> None:
        """Count one image."""
        if score.error:
            self.skipped.append((score.name, score.error))
            return
        self.images += 1
        self.counts += score.counts
        own = score.overlap.mean
        entry = (-(1.0 if math.isnan(own) else own), -score.number, score)  # numbers differ, so scores are not compared
        if len(self._worst) < self.keep:
            heapq.heappush(self._worst, entry)
        else:
            heapq.heappushpop(self._worst, entry)

    def __len__(self) -> int:
        """Images that were scored."""
        return self.images

    @property
    def overlap(self) -> metrics.Overlap:
        """The pixels of each class over all images: intersection over union, its mean, and pixel accuracy."""
        return metrics.overlap(self.counts)

    def worst(self) -> list[MaskScore]:
        """The images with the least mIoU of their own, the least first; at most `keep` of them."""
        return [score for _, _, score in sorted(self._worst, key=lambda one: one[:2], reverse=True)]

    def per_class(self) -> list[dict[str, Any]]:
        """A row per class: its pixels, the answers that name it, and their intersection over union (None for none)."""
        found = self.overlap
        return [
            {"class": name, "pixels": int(truth), "answers": int(answers), "iou": None if np.isnan(iou) else float(iou)}
            for name, truth, answers, iou in zip(self.classes, found.truth, found.answers, found.iou, strict=True)
        ]

    def as_dict(self) -> dict[str, Any]:
        """All of this for JSON; BbgError where no image could be read."""
        if not len(self):
            reason = f" ({self.skipped[0][1]})" if self.skipped else ""
            raise BbgError(f"none of the images could be read{reason}; give a folder of images and masks")
        return {
            "per_class": self.per_class(),
            "worst": [row_of_mask(score) for score in self.worst()],
            "confusion_matrix": self.counts.tolist(),
            "skipped_files": [{"file": name, "why": reason_of(name, why)} for name, why in self.skipped],
            "test_images": len(self),
            "skipped": len(self.skipped),
            "pixel_accuracy": self.overlap.accuracy,
            "miou": self.overlap.mean,
        }


def row_of_mask(score: MaskScore) -> dict[str, Any]:
    """A score as a row of MASK_COLUMNS, for people and programs."""
    if score.error:
        return dict(zip(MASK_COLUMNS, (score.name, None, None, None, score.error), strict=True))
    found = score.overlap
    figures = (None if math.isnan(value) else value for value in (found.mean, found.accuracy))
    return dict(zip(MASK_COLUMNS, (score.name, *figures, int(found.truth.sum()), None), strict=True))
