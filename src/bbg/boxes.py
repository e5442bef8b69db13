"""Boxes in plain numpy: overlap, the priors that a detector starts from, offsets from them, and which boxes are kept.

A box is `(left, top, right, bottom)`. Its sides lie at the edges of pixels: the first pixel of a picture is
`(0, 0, 1, 1)`. A prior is `(x, y, width, height)` with its middle at (x, y), in shares of the sides of the input.

    found = decode(offsets, priors(levels))    # boxes in shares of the sides
    found[kept(found, scores, 0.45)]           # the best ones, no two of which are of one object

`iou` and `encode` take numpy arrays, or the tensors of another library, which is then given as `lib`: training and
engine share one formula.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

VARIANCES = (0.1, 0.2)  # an offset of 1 moves a box by this share of its prior's side, and scales it by exp(this)
FEW, MANY = 64, 1024  # boxes that are compared with each other, and that are sorted, at a time
FARTHEST = 10.0  # the logarithm of a side over its prior's is held below this, where exp stays finite


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


def decode(offsets: np.ndarray, priors: np.ndarray) -> np.ndarray:
    """The boxes `[..., 4]` that lie at these offsets from the priors: the inverse of `encode`.

    A side is at most exp(10) times its prior's, so that no offset makes it infinite.
    """
    move, scale = VARIANCES
    middle = priors[..., :2] + move * offsets[..., :2] * priors[..., 2:]
    half = np.exp(np.minimum(scale * offsets[..., 2:], FARTHEST)) * priors[..., 2:] / 2
    return np.concatenate((middle - half, middle + half), -1)


def kept(boxes: np.ndarray, scores: np.ndarray, overlap: float) -> np.ndarray:
    """Which of `boxes` `[K, 4]` are kept, their indices from the best score down: non-maximum suppression.

    A box is dropped where its IoU with a better one that is kept is above `overlap`; of equal scores the first is the
    better one.
    """
    order = np.argsort(-scores, kind="stable")
    return order[_standing(_overlaps(boxes[order], boxes[order], overlap))]


def chosen(
    boxes: np.ndarray, shares: np.ndarray, score: float, overlap: float, each: int, most: int
) -> tuple[np.ndarray, np.ndarray]:
    """Which boxes of which classes are kept, int64 `[K]` each, the best first.

    `boxes` `[P, 4]`, `shares` `[P, classes]`. Of each class those that are `kept` among its `each` best boxes with a
    share of at least `score`; of all these the `most` best. Of equal shares the lower class is the better one, then the
    first box.

    All classes are worked off together from the best share down, a few boxes at a time, and no further than needed: a
    network that is sure of nothing has 100,000 candidates.
    """
    classes, places = np.nonzero(np.ascontiguousarray((shares >= score).T))
    values, whole = shares[places, classes], len(places)
    done = np.zeros(shares.shape[1], np.int64)  # candidates so far, of each class
    found = np.empty(0, np.int64)
    for candidates in _best_first(values):
        part = candidates
        if whole > each:
            part = part[_ranks(classes[part], done) < each]
            done += np.bincount(classes[candidates], minlength=len(done))
        at, size = 0, FEW
        while at < len(part) and len(found) < most:
            block = part[at : at + size]
            if len(found):
                drops = _overlaps(boxes[places[found]], boxes[places[block]], overlap)
                alive = np.flatnonzero(~(drops & (classes[found][:, None] == classes[block])).any(0))
            else:
                alive = np.arange(len(block))
            if len(alive) > FEW:  # those behind are compared once more, with what is kept of these
                at, alive, size = at + int(alive[FEW]), alive[:FEW], 2 * FEW
            else:
                at, size = at + size, 2 * size
            block = block[alive]
            own, kinds = boxes[places[block]], classes[block]
            drops = _overlaps(own, own, overlap) & (kinds[:, None] == kinds)
            found = np.concatenate((found, block[_standing(drops)]))
        if len(found) >= most:
            break
    return places[found[:most]], classes[found[:most]]


def _best_first(values: np.ndarray) -> Iterator[np.ndarray]:
    """The indices from the largest value down, of equal ones the first, in two parts: few sort faster than all."""
    left = len(values) - MANY
    if left <= 0:
        yield np.argsort(-values, kind="stable")
        return
    least = np.partition(values, left)[left]
    for some in (values >= least, values < least):
        part = np.flatnonzero(some)
        yield part[np.argsort(-values[part], kind="stable")]


def _ranks(classes: np.ndarray, done: np.ndarray) -> np.ndarray:
    """How many of its class come before each, with the `done` ones `[classes]`."""
    order = np.argsort(classes, kind="stable")
    ordered = classes[order]
    ranks = np.empty(len(classes), np.int64)
    ranks[order] = np.arange(len(classes)) - np.searchsorted(ordered, ordered) + done[ordered]
    return ranks


def _overlaps(a: np.ndarray, b: np.ndarray, overlap: float) -> np.ndarray:
    """Whether the IoU of each of `a` `[A, 4]` with each of `b` `[B, 4]` is above `overlap`, bool `[A, B]`."""
    left, top, right, bottom = a.T[:, :, None]
    across = np.minimum(right, b[:, 2]) - np.maximum(left, b[:, 0])
    np.maximum(across, 0, out=across)
    down = np.minimum(bottom, b[:, 3]) - np.maximum(top, b[:, 1])
    np.maximum(down, 0, out=down)
    both = np.multiply(across, down, out=across)
    areas = (right - left) * (bottom - top) + (b[:, 2] - b[:, 0]) * (b[:, 3] - b[:, 1])
    # IoU > overlap, without a division: both > overlap (a + b - both).
    found: np.ndarray = (1 + overlap) * both > overlap * areas
    return found


def _standing(drops: np.ndarray) -> list[int]:
    """Which of K boxes stand, the best first, where each that stands drops those behind it that `drops` `[K, K]` has.

    Row by row as the bits of one integer of Python: its operations take a tenth of numpy's on so few bits.
    """
    dropped, found = 0, []
    for i, row in enumerate(np.packbits(drops, axis=1, bitorder="little")):
        if not dropped >> i & 1:
            found.append(i)
            dropped |= int.from_bytes(row.tobytes(), "little")
    return found
