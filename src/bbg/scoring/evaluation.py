"""How good a network's answers are on labelled images: figures, a table by class, and where it goes wrong.

    evaluation = Evaluation(classes)
    for score in image_scores(images, run):    # `run`: pixels -> logits, by the engine or by torch
        evaluation.add(score)
    evaluation.accuracy, evaluation.per_class(), evaluation.worst()

Images go through one after the other, and a few numbers of each are kept; how many there are does not matter.
"""

from __future__ import annotations

import heapq
from array import array
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from bbg import metrics
from bbg.data.labelled import Labelled, some
from bbg.errors import BbgError
from bbg.heads import Classification
from bbg.image import reason_of
from bbg.scoring.stream import BATCH, through

WORST = 40  # images of which all is kept: those whose class got the least probability
COLUMNS = ("image", "truth", "answer", "score", "truth_score", "place", "error")
LARGEST = 200  # classes up to which the report holds the whole matrix; it lists all confusions whatever their number


class ImageScore(NamedTuple):
    """What a network says of image `number`, called `name`: classes are indices, scores are probabilities.

    `place`: that of the true class, 1 for the best. `error`: why the image cannot be read; then the other fields from
    `answer` on mean nothing.
    """

    number: int
    name: str
    truth: int
    answer: int = -1
    score: float = 0.0
    truth_score: float = 0.0
    place: int = 0
    error: str = ""


def image_scores(images: Labelled, run: Callable[[np.ndarray], np.ndarray], batch: int = BATCH) -> Iterator[ImageScore]:
    """The score of each image, in their order; `run` makes logits `[N, classes]` of uint8 pixels `[N, H, W, C]`.

    Raises BbgError where the network has another number of classes.
    """

    def scored(pixels: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        logits = run(pixels)
        logits = logits.reshape(len(logits), -1)
        if logits.shape[1] != len(images.classes):
            raise BbgError(
                f"the network has {logits.shape[1]} classes, and its file does not name them; the images have "
                f"{len(images.classes)}, {some(images.classes)}: give images of all its classes"
            )
        return zip(logits, Classification().scores(logits), strict=True)

    for index, found in through(images.read, scored, range(len(images)), batch):
        name, truth = images.names[index], int(images.labels[index])
        if isinstance(found, BbgError):
            yield ImageScore(index, name, truth, error=str(found))
            continue
        logits, shares = found
        answer = int(logits.argmax())
        place = int(metrics.places_of(logits[None], np.array([truth]))[0]) + 1
        yield ImageScore(index, name, truth, answer, float(shares[answer]), float(shares[truth]), place)


class Evaluation:
    """What the scores of many images come to. `skipped`: the images that could not be read, each with the reason."""

    def __init__(self, classes: Sequence[str], keep: int = WORST) -> None:
        self.classes = tuple(classes)
        self.keep = keep
        self.skipped: list[tuple[str, str]] = []
        self._truth, self._answer, self._place = array("l"), array("l"), array("l")
        self._score = array("d")
        self._worst: list[tuple[float, int, ImageScore]] = []  # a heap whose first is the best of them

    def add(self, score: ImageScore) -> None:
        """Count one image."""
        if score.error:
            self.skipped.append((score.name, score.error))
            return
        self._truth.append(score.truth)
        self._answer.append(score.answer)
        self._place.append(score.place)
        self._score.append(score.score)
        entry = (-score.truth_score, -score.number, score)
        if len(self._worst) < self.keep:
            heapq.heappush(self._worst, entry)
        elif self._worst:
            heapq.heappushpop(self._worst, entry)

    def __len__(self) -> int:
        """Images that were scored."""
        return len(self._truth)

    @property
    def accuracy(self) -> float:
        """Top-1 accuracy."""
        return metrics.top(np.asarray(self._place) - 1, 1)

    @property
    def top5(self) -> float | None:
        """Top-5 accuracy; None where there are no more than five classes."""
        return metrics.top(np.asarray(self._place) - 1, 5) if len(self.classes) > 5 else None

    @property
    def calibration(self) -> metrics.Calibration:
        """The probabilities of the answers against how many are right."""
        return metrics.calibration(np.asarray(self._score), np.asarray(self._place) == 1)

    @property
    def absent(self) -> list[str]:
        """Classes of which there is no image."""
        seen = set(self._truth)
        return [name for i, name in enumerate(self.classes) if i not in seen]

    def per_class(self) -> list[dict[str, Any]]:
        """A row per class: its images, those named rightly, recall and precision (None where nothing was counted)."""
        counts = metrics.per_class(np.asarray(self._truth), np.asarray(self._answer), len(self.classes))
        recall, precision = _numbers(counts.recall), _numbers(counts.precision)
        return [
            {"class": name, "images": int(n), "correct": int(right), "recall": r, "precision": p}
            for name, n, right, r, p in zip(self.classes, counts.images, counts.correct, recall, precision, strict=True)
        ]

    def confused(self) -> list[dict[str, Any]]:
        """A row per class and wrong answer that came together, with the number of images, most first."""
        truth, answer = np.asarray(self._truth), np.asarray(self._answer)
        wrong = truth != answer
        pairs, counts = np.unique(np.stack([truth[wrong], answer[wrong]], 1), axis=0, return_counts=True)
        order = np.argsort(-counts, kind="stable")
        return [
            {"truth": self.classes[t], "answer": self.classes[a], "images": int(n)}
            for (t, a), n in zip(pairs[order], counts[order], strict=True)
        ]

    def matrix(self, most: int | None = None) -> tuple[np.ndarray, list[str]]:
        """Images of each class (row) by answer (column), and the names of rows and columns.

        `most`: where there are more classes, the last row and column hold all others together; those with a place of
        their own are the ones with the most wrong answers, in the order of the classes.
        """
        truth, answer = np.asarray(self._truth), np.asarray(self._answer)
        names = list(self.classes)
        if most is not None and len(names) > most:
            wrong = truth != answer
            errors = np.bincount(truth[wrong], minlength=len(names)) + np.bincount(answer[wrong], minlength=len(names))
            own = np.sort(np.argsort(-errors, kind="stable")[: most - 1])
            place = np.full(len(names), most - 1)
            place[own] = np.arange(most - 1)
            truth, answer = place[truth], place[answer]
            names = [*(names[i] for i in own), f"{len(names) - most + 1:,} others"]
        return metrics.confusion(truth, answer, len(names)), names

    def worst(self) -> list[ImageScore]:
        """The images whose true class got the least probability, the least first; at most `keep` of them."""
        return [score for _, _, score in sorted(self._worst, reverse=True)]

    def as_dict(self) -> dict[str, Any]:
        """All of this for JSON; `confusion_matrix` is None where there are more than LARGEST classes."""
        if not len(self):
            reason = f" ({self.skipped[0][1]})" if self.skipped else ""
            raise BbgError(
                f"none of the images could be read{reason}; give a folder with one folder of images per class"
            )
        of_bins = self.calibration
        edges = np.linspace(0, 1, len(of_bins.images) + 1).tolist()
        bins = zip(
            edges[:-1], edges[1:], of_bins.images, _numbers(of_bins.confidence), _numbers(of_bins.accuracy), strict=True
        )
        names = self.classes
        return {
            "per_class": self.per_class(),
            "confused": self.confused(),
            "worst": [row_of(score, names) for score in self.worst()],
            "calibration": [
                {"from": low, "to": high, "images": int(n), "confidence": confidence, "accuracy": accuracy}
                for low, high, n, confidence, accuracy in bins
            ],
            "confusion_matrix": self.matrix()[0].tolist() if len(names) <= LARGEST else None,
            "skipped_files": [{"file": name, "why": reason_of(name, why)} for name, why in self.skipped],
            "classes_without_images": self.absent,
            "test_images": len(self),
            "skipped": len(self.skipped),
            "accuracy": self.accuracy,
            "top_5": self.top5,
            "calibration_error": of_bins.error,
        }


def row_of(score: ImageScore, classes: Sequence[str]) -> dict[str, Any]:
    """A score as a row of COLUMNS for people and programs, with the names of the classes."""
    truth = classes[score.truth]
    if score.error:
        return dict(zip(COLUMNS, (score.name, truth, None, None, None, None, score.error), strict=True))
    found = (score.name, truth, classes[score.answer], score.score, score.truth_score, score.place, None)
    return dict(zip(COLUMNS, found, strict=True))


def _numbers(values: np.ndarray) -> list[float | None]:
    """NaN as None, which JSON has."""
    return [None if np.isnan(value) else float(value) for value in values]
