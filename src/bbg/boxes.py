"""Boxes: overlap, the priors that a detector starts from, offsets from them, and which boxes it saw.

A box is `(left, top, right, bottom)`. Its sides lie at the edges of pixels: the first pixel of a picture is
`(0, 0, 1, 1)`. A prior is `(x, y, width, height)` with its middle at (x, y), in shares of the sides of the input.

    encode(boxes, priors)                                            # offsets, which training learns
    detect(offsets, logits, priors(levels), 0.5, 0.45, 400, 200)     # Boxes, no two of which are of one object

`iou` and `encode` take numpy arrays, or the tensors of another library, which is then given as `lib`: training and
engine share one formula.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from bbg import _native

VARIANCES = (0.1, 0.2)  # an offset of 1 moves a box by this share of its prior's side, and scales it by exp(this)


class Level(NamedTuple):
    """The priors of one map: at the middle of each of its `map` = (H, W) cells one box of each of `sizes`.

    A size is (width, height), in shares of the sides of the input.
    """

    map: tuple[int, int]
    sizes: tuple[tuple[float, float], ...]


class Boxes(NamedTuple):
    """Boxes of one picture: `boxes` float `[K, 4]`, `classes` int64 `[K]`, `scores` float `[K]`, the best first."""

    boxes: np.ndarray
    classes: np.ndarray
    scores: np.ndarray


def count(levels: tuple[Level, ...]) -> int:
    """The number of priors."""
    return sum(level.map[0] * level.map[1] * len(level.sizes) for level in levels)


@lru_cache(16)
def priors(levels: tuple[Level, ...]) -> np.ndarray:
    """The priors, float32 `[P, 4]`, read-only: level by level, of each its rows, columns and sizes in their order.

    Cell (i, j) of a map of H x W has its middle at `x = (j + 1/2) / W`, `y = (i + 1/2) / H`.
    """
    found = []
    for (high, wide), sizes in levels:
        part = np.empty((high, wide, len(sizes), 4))
        part[..., 0] = ((np.arange(wide) + 0.5) / wide)[None, :, None]
        part[..., 1] = ((np.arange(high) + 0.5) / high)[:, None, None]
        part[..., 2:] = np.asarray(sizes)
        found.append(part.reshape(-1, 4))
    whole = np.concatenate(found).astype(np.float32)
    whole.flags.writeable = False
    return whole


def corners(priors: Any, lib: Any = np) -> Any:
    """The priors `[..., 4]` as boxes."""
    x, y, w, h = (priors[..., i] for i in range(4))
    return lib.stack((x - w / 2, y - h / 2, x + w / 2, y + h / 2), -1)


def iou(a: Any, b: Any, lib: Any = np) -> Any:
    """Intersection over union of each of `a` `[..., A, 4]` with each of `b` `[..., B, 4]`: `[..., A, B]`.

    An inverted box has no area, and 0 with all others.
    """
    a, b = a[..., :, None, :], b[..., None, :, :]
    across = lib.minimum(a[..., 2], b[..., 2]) - lib.maximum(a[..., 0], b[..., 0])
    down = lib.minimum(a[..., 3], b[..., 3]) - lib.maximum(a[..., 1], b[..., 1])
    both = across * down * (across > 0) * (down > 0)
    union = area(a) + area(b) - both
    return both / (union + (union <= 0))


def area(boxes: Any) -> Any:
    """The area of each box, 0 of an inverted one."""
    wide, high = boxes[..., 2] - boxes[..., 0], boxes[..., 3] - boxes[..., 1]
    return wide * high * (wide > 0) * (high > 0)


def encode(boxes: Any, priors: Any, lib: Any = np) -> Any:
    """The offsets `[..., 4]` of boxes from priors, of which each belongs to the box in its place.

    `((x_b - x) / w / 0.1, (y_b - y) / h / 0.1, log(w_b / w) / 0.2, log(h_b / h) / 0.2)`, with the middle and the sides
    of box and prior (SSD, arXiv 1512.02325, with the variances of its code). Boxes have an area.
    """
    left, top, right, bottom = (boxes[..., i] for i in range(4))
    x, y, w, h = (priors[..., i] for i in range(4))
    move, scale = VARIANCES
    return lib.stack(
        (
            ((left + right) / 2 - x) / w / move,
            ((top + bottom) / 2 - y) / h / move,
            lib.log((right - left) / w) / scale,
            lib.log((bottom - top) / h) / scale,
        ),
        -1,
    )


def detect(
    offsets: np.ndarray,
    logits: np.ndarray,
    priors: np.ndarray,
    score: float,
    overlap: float,
    each: int,
    most: int,
) -> Boxes:
    """The boxes that a detector saw in one image, in shares of its sides, cut at its edges, the best first.

    float32 `offsets` `[P, 4]` from the `priors` `[P, 4]`, the inverse of `encode`, where a side is at most exp(10)
    times its prior's; `logits` `[P, 1 + classes]`, the background first, whose softmax are the probabilities. A box
    outside of the image is none.

    Of each class, the `each` best boxes with a probability of at least `score` are looked at; one is dropped where its
    IoU with a better one that is kept is above `overlap` (non-maximum suppression). Of all these the `most` best are
    kept. Of equal probabilities the lower class is the better one, then the first prior.

    Raises ValueError where a number is not finite.
    """
    given, seen, start = (np.ascontiguousarray(numbers, np.float32) for numbers in (offsets, logits, priors))
    move, scale = VARIANCES
    return Boxes(*_native.detect(given, seen, start, move, scale, score, overlap, each, most))
