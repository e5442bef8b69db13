"""Heads: what a network's outputs mean, and how to turn them into predictions and figures, without torch.

A task states its head (`bbg.training.tasks`), and conversion stores it in the packed file.

head = Classification()
head.predict(logits, labels, top=5)     # [[Prediction(label='cat', score=0.93), ...], ...], a list per image
Segmentation().decide(logits, (H, W))   # uint8 [N, H, W]: the class of each pixel
Detection(levels).decide(outputs)       # the boxes of each image
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from bbg import metrics
from bbg.boxes import Boxes, Level, count, detect, priors
from bbg.errors import BbgError
from bbg.maps import IGNORED, best_classes

MOST_CANDIDATES = 400  # boxes of a class, the best ones, that are compared with each other
MOST_BOXES = 200  # of an image
ONE_MAP = "in the place of a sigmoid of one map give the background a map of its own, without a sigmoid"


class Prediction(NamedTuple):
    """A class and its softmax probability."""

    label: str
    score: float


class Box(NamedTuple):
    """A class, its softmax probability, and where it is: `box` is (left, top, right, bottom) in pixels of the picture.

    The sides lie at the edges of pixels, so the whole of a picture is (0, 0, width, height).
    """

    label: str
    score: float
    box: tuple[float, float, float, float]


@dataclass(frozen=True)
class Classification:
    """The network returns one score (logit) per class; the softmax of the scores are the probabilities."""

    kind = "classification"

    def check(self, structure: str, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Raise BbgError unless a network that returns outputs of these `shapes`, by name, has scores to rank."""
        if structure != "tensor":
            raise BbgError(f"the head is a classification, which needs one output of class scores, not a {structure}")

    def classes(self, shapes: Mapping[str, tuple[int, ...]]) -> int:
        """The number of classes of a network whose outputs have these `shapes`, without the axis of images."""
        return math.prod(shapes[""])

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

    def check(self, structure: str, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Raise BbgError unless a network with outputs of these `shapes` has a map for each class, 2 to 255."""
        shape = shapes.get("", ())
        if structure != "tensor" or len(shape) != 3:
            came = f"a {structure}" if structure != "tensor" else f"[N, {', '.join(map(str, shape))}]"
            raise BbgError(f"the head is a segmentation, which needs one output [N, classes, H, W], not {came}")
        if not 2 <= shape[0] <= IGNORED:
            came = f"{shape[0]} maps" if shape[0] != 1 else f"one map: {ONE_MAP}"
            raise BbgError(
                f"the head is a segmentation, which takes one map for each of 2 to {IGNORED} classes, of which the "
                f"background is one; the output has {came}"
            )

    def classes(self, shapes: Mapping[str, tuple[int, ...]]) -> int:
        """The number of classes of a network whose outputs have these `shapes`, without the axis of images."""
        return shapes[""][0]

    def decide(self, logits: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """The class of each pixel of the input, whose `size` is (H, W): uint8 `[N, H, W]`; of equal scores the first.

        Raises BbgError where a score is not finite.
        """
        _finite_rows(logits)
        return best_classes(logits, size)

    def to_json(self) -> dict[str, Any]:
        """A JSON object with the fields of this head."""
        return {"kind": self.kind}


@dataclass(frozen=True)
class Detection:
    """The network returns `{"boxes": [N, P, 4], "scores": [N, P, 1 + classes]}`: offsets from P priors, and logits.

    Class 0 of the scores is the background; the softmax over a row are the probabilities. `levels`: the maps that the
    priors belong to (`bbg.boxes.priors`), in the order of P. Offsets are those of `bbg.boxes.encode`.

    Raises BbgError for levels that are none: a map and the sizes of its priors each, sizes above 0 and at most 1000.
    """

    levels: tuple[Level, ...]

    kind = "detection"

    def __post_init__(self) -> None:
        def good(level: object) -> bool:
            if not isinstance(level, tuple) or len(level) != 2 or not all(isinstance(v, tuple) and v for v in level):
                return False
            sides, sizes = level
            pairs = all(isinstance(size, tuple) and len(size) == 2 for size in sizes) and len(sides) == 2
            if not pairs or not all(type(n) is int and 1 <= n < 2**16 for n in sides):
                return False
            return all(type(n) in (int, float) and 1e-6 <= n <= 1000 for size in sizes for n in size)

        if not isinstance(self.levels, tuple) or not self.levels:
            raise BbgError(f"the levels of a detection are {self.levels!r:.80}, they must be bbg.boxes.Level, a tuple")
        for level in self.levels:
            if not good(level):
                raise BbgError(
                    f"a level of the detection is {level!r:.80}, it must have a map (H, W) of integers from 1 to 65535 "
                    "and sizes (width, height) of priors, numbers from 1e-6 to 1000"
                )
        object.__setattr__(self, "levels", tuple(Level(*level) for level in self.levels))

    def check(self, structure: str, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Raise BbgError unless a network with outputs of these `shapes` has boxes and scores for each prior."""
        wanted = count(self.levels)
        boxes, scores = shapes.get("boxes", ()), shapes.get("scores", ())
        fits = boxes == (wanted, 4) and len(scores) == 2 and scores[0] == wanted and scores[1] >= 2
        if structure != "dict" or len(shapes) != 2 or not fits:
            came = ", ".join(f"{name!r}: [N, {', '.join(map(str, shape))}]" for name, shape in shapes.items())
            raise BbgError(
                f"the head is a detection with {wanted} priors, which needs the dict {{'boxes': [N, {wanted}, 4], "
                f"'scores': [N, {wanted}, 1 + classes]}}, not a {structure} of {came}"
            )

    def classes(self, shapes: Mapping[str, tuple[int, ...]]) -> int:
        """The number of classes of a network whose outputs have these `shapes`; the background is none."""
        return shapes["scores"][1] - 1

    def decide(self, outputs: Mapping[str, np.ndarray], score: float = 0.5, iou: float = 0.45) -> list[Boxes]:
        """The boxes of each image, in shares of the sides of the input, cut at its edges; classes count from 0.

        Those whose probability is at least `score`. Of two boxes of one class whose IoU is above `iou`, the better one
        stays. At most 400 of a class are compared, and 200 of an image are kept. Raises BbgError where an output is not
        finite.
        """
        scores, boxes, own = outputs["scores"], outputs["boxes"], priors(self.levels)
        try:
            return [
                detect(offsets, logits, own, score, iou, MOST_CANDIDATES, MOST_BOXES)
                for offsets, logits in zip(boxes, scores, strict=True)
            ]
        except ValueError:
            _finite_rows(scores)
            _finite_rows(boxes)
            raise

    def to_json(self) -> dict[str, Any]:
        """A JSON object with the fields of this head."""
        levels = [{"map": list(level.map), "sizes": [list(size) for size in level.sizes]} for level in self.levels]
        return {"kind": self.kind, "levels": levels}

    @classmethod
    def from_levels(cls, value: Any) -> Detection:
        """The head of the `levels` of a JSON object; BbgError where they are none."""

        def tuples(value: Any) -> Any:
            return tuple(map(tuples, value)) if isinstance(value, list) else value

        if not isinstance(value, list):
            raise BbgError(f"the levels of a detection are {value!r:.60}, they must be a list")
        for level in value:
            if not isinstance(level, dict) or set(level) != {"map", "sizes"}:
                raise BbgError(f"a level of a detection is {level!r:.60}, it must be an object of 'map' and 'sizes'")
        return cls(tuple(Level(tuples(level["map"]), tuples(level["sizes"])) for level in value))


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


Head = Classification | Segmentation | Detection
HEADS: dict[str, type[Classification] | type[Segmentation] | type[Detection]] = {
    Classification.kind: Classification,
    Segmentation.kind: Segmentation,
    Detection.kind: Detection,
}
KEYS = {Detection.kind: ("kind", "levels")}  # of the JSON objects of heads that have more than "kind"


def head_from_json(value: Any) -> Head:
    """The inverse of `to_json`; BbgError for anything else."""
    if not isinstance(value, dict) or not isinstance(value.get("kind"), str) or value["kind"] not in HEADS:
        raise BbgError(f"head is {value!r:.60}, it must be null or an object whose 'kind' is {' or '.join(HEADS)}")
    keys = KEYS.get(value["kind"], ("kind",))
    if set(value) != set(keys):
        raise BbgError(f"head has the keys {sorted(value)}, allowed is {' and '.join(map(repr, keys))}")
    kind = HEADS[value["kind"]]
    return Detection.from_levels(value["levels"]) if kind is Detection else kind()  # type: ignore[call-arg]
