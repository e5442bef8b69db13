"""Heads: what a network's outputs mean, and how to turn them into predictions and figures, without torch.

A task states its head (`bbg.training.tasks`), and conversion stores it in the packed file.

head = Classification()
head.predict(logits, labels, top=5)     # [[Prediction(label='cat', score=0.93), ...], ...], a list per image
Segmentation().decide(logits, (H, W))   # uint8 [N, H, W]: the class of each pixel
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from bbg import metrics
from bbg.errors import BbgError
from bbg.maps import IGNORED, best_classes

ONE_MAP = "in the place of a sigmoid of one map give the background a map of its own, without a sigmoid"


class Prediction(NamedTuple):
    """A class and its softmax probability."""

    label: str
    score: float


@dataclass(frozen=True)
class Classification:
    """The network returns one score (logit) per class; the softmax of the scores are the probabilities."""

    kind = "classification"

    def check(self, structure: str, shapes: Sequence[tuple[int, ...]]) -> None:
        """Raise BbgError unless a network that returns outputs of these `shapes` has scores to rank."""
        if structure != "tensor":
            raise BbgError(f"the head is a classification, which needs one output of class scores, not a {structure}")

    def classes(self, shape: tuple[int, ...]) -> int:
        """The number of classes of a network whose output has this `shape`, without the axis of images."""
        return math.prod(shape)

    def predict(self, logits: np.ndarray, labels: Sequence[str] | None, top: int) -> list[list[Prediction]]:
        """The `top` classes of each image, best first. Equal scores keep the order of the classes.

        Here and below: BbgError where a score is not finite.
        """
        logits = _finite_rows(logits)
        scores = metrics.probabilities(logits)
        best = np.argsort(-logits, axis=1, kind="stable")[:, :top]

        def prediction(i: int, row: np.ndarray) -> Prediction:
            return Prediction(labels[i] if labels else str(i), float(row[i]))

        return [[prediction(i, row) for i in order] for row, order in zip(scores, best, strict=True)]

    def scores(self, logits: np.ndarray) -> np.ndarray:
        """The probability of each class, float64 `[N, classes]`."""
        return metrics.probabilities(_finite_rows(logits))

    def decide(self, logits: np.ndarray) -> np.ndarray:
        """The index of the best class of each image, `[N]`; of equal scores the first."""
        best: np.ndarray = _finite_rows(logits).argmax(1)
        return best

    def score(self, logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        """Top-1 accuracy: the share of the images whose best class is their label, an integer below the classes."""
        rows = _finite_rows(logits)
        try:
            truth = np.asarray(labels)
        except ValueError:  # lists of several lengths
            truth = np.empty(0)
        whole = truth.shape == (len(rows),) and truth.dtype.kind in "iu"
        if not (whole and ((truth >= 0) & (truth < rows.shape[1])).all()):
            came = f"{truth.dtype} {list(truth.shape)}"
            raise BbgError(f"labels are {came}; give integers [{len(rows)}] from 0 to {rows.shape[1] - 1}")
        return {"accuracy": metrics.top(metrics.places_of(rows, truth), 1)}

    def to_json(self) -> dict[str, Any]:
        """A JSON object with the fields of this head."""
        return {"kind": self.kind}


@dataclass(frozen=True)
class Segmentation:
    """The network returns one map of scores (logits) per class, `[N, C, H, W]`; the largest decides at each pixel.

    Maps of another size than the input's are brought to it bilinearly, with half-pixel centres, before that.
    """

    kind = "segmentation"

    def check(self, structure: str, shapes: Sequence[tuple[int, ...]]) -> None:
        """Raise BbgError unless a network that returns outputs of these `shapes` has a map for each class, 2 to 255."""
        if structure != "tensor" or len(shapes[0]) != 3:
            came = f"a {structure}" if structure != "tensor" else f"[N, {', '.join(map(str, shapes[0]))}]"
            raise BbgError(f"the head is a segmentation, which needs one output [N, classes, H, W], not {came}")
        if not 2 <= shapes[0][0] <= IGNORED:
            came = f"{shapes[0][0]} maps" if shapes[0][0] != 1 else f"one map: {ONE_MAP}"
            raise BbgError(
                f"the head is a segmentation, which takes one map for each of 2 to {IGNORED} classes, of which the "
                f"background is one; the output has {came}"
            )

    def classes(self, shape: tuple[int, ...]) -> int:
        """The number of classes of a network whose output has this `shape`, without the axis of images."""
        return shape[0]

    def decide(self, logits: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """The class of each pixel of the input, whose `size` is (H, W): uint8 `[N, H, W]`; of equal scores the first.

        Raises BbgError where a score is not finite.
        """
        _finite_rows(logits)
        return best_classes(logits, size)

    def to_json(self) -> dict[str, Any]:
        """A JSON object with the fields of this head."""
        return {"kind": self.kind}


def _finite_rows(logits: np.ndarray) -> np.ndarray:
    """The scores as `[N, classes]`; BbgError where one is not finite, since no class is then the best."""
    rows = logits.reshape(len(logits), math.prod(logits.shape[1:]))
    bad = int((~np.isfinite(rows).all(1)).sum())
    if bad:
        raise BbgError(
            f"the network's scores of {bad} of {len(rows)} images are not finite numbers: it computes beyond float32, "
            "so its answers mean nothing; get or convert the model anew"
        )
    return rows


Head = Classification | Segmentation
HEADS: dict[str, type[Classification] | type[Segmentation]] = {
    Classification.kind: Classification,
    Segmentation.kind: Segmentation,
}


def head_from_json(value: Any) -> Head:
    """The inverse of `to_json`; BbgError for anything else."""
    if not isinstance(value, dict) or not isinstance(value.get("kind"), str) or value["kind"] not in HEADS:
        raise BbgError(f"head is {value!r:.60}, it must be null or an object whose 'kind' is {' or '.join(HEADS)}")
    if set(value) != {"kind"}:
        raise BbgError(f"head has the keys {sorted(value)}, allowed is 'kind'")
    return HEADS[value["kind"]]()
