"""Images with boxes, decoded when they are read."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from bbg.average_precision import Truth
from bbg.image import Preprocess

if TYPE_CHECKING:
    from bbg.data.sets import Skipped

READ = 100  # images of a set whose contents tell it from others
COLUMNS = 6  # of a target: class, left, top, right, bottom, and 1 where it is difficult; class -1 is no box


class Boxed(NamedTuple):
    """The file of an image, its size (H, W), and its boxes in pixels, their sides at the edges of pixels."""

    image: Path
    size: tuple[int, int]
    truth: Truth


@dataclass(frozen=True)
class BoxSet:
    """A data set of image files with boxes.

    The target of an image is float32 `[M, 6]`: class, left, top, right, bottom, in shares of the sides of the network's
    input, and 1 where the box is difficult. M is that of the image with the most boxes, at least 1; the rows that are
    left have the class -1.
    """

    items: Sequence[Boxed] = field(repr=False)
    classes: tuple[str, ...]
    preprocess: Preprocess
    skipped: tuple[Skipped, ...] = ()

    def __len__(self) -> int:
        return len(self.items)

    @cached_property
    def labels(self) -> np.ndarray:
        """The targets of all images, float32 `[N, M, 6]`."""
        most = max((len(item.truth.classes) for item in self.items), default=0)
        found = np.zeros((len(self.items), max(most, 1), COLUMNS), np.float32)
        found[:, :, 0] = -1
        for place, item in enumerate(self.items):
            rows = target(item.truth, self.preprocess.placed(item.truth.boxes, item.size))
            found[place, : len(rows)] = rows
        return found

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Image `index` as the network sees it, and its target; BbgError, which names the file, where it is damaged."""
        return self.preprocess.apply(self.items[index].image), self.labels[index]

    def picture(self, index: int) -> np.ndarray:
        """Image `index` before it is resized."""
        return self.preprocess.picture(self.items[index].image)

    def part(self, indices: np.ndarray) -> BoxSet:
        """The images that have these indices, in that order."""
        return replace(self, items=[self.items[i] for i in indices])

    def counts(self) -> list[int]:
        """The boxes of each class."""
        numbers = np.concatenate([np.empty(0, np.int64), *(item.truth.classes for item in self.items)])
        counts: list[int] = np.bincount(numbers, minlength=len(self.classes)).tolist()
        return counts

    def digest(self) -> str:
        """A hash of classes, boxes, file names, file sizes, and the contents of some files, evenly spread."""
        found = hashlib.sha256("\0".join(self.classes).encode())
        spread = set(np.linspace(0, max(len(self) - 1, 0), READ).round().astype(int).tolist())
        for number, (path, size, truth) in enumerate(self.items):
            found.update(f"{path.name}\0{path.stat().st_size}\0{size}\0".encode(errors="surrogateescape"))
            for values in truth:
                found.update(np.ascontiguousarray(values, "<f8").data)
            if number in spread:
                with suppress(OSError):  # which is told when the image is read
                    found.update(path.read_bytes())
        return found.hexdigest()[:16]


def target(truth: Truth, placed: np.ndarray) -> np.ndarray:
    """The rows `[G, 6]` of boxes that are `placed` in shares of the sides of an input, cut at its edges.

    A box whose middle lies outside is none.
    """
    rows = np.concatenate((truth.classes[:, None], placed, truth.difficult[:, None]), 1).astype(np.float32)
    x, y = (placed[:, 0] + placed[:, 2]) / 2, (placed[:, 1] + placed[:, 3]) / 2
    rows[:, 1:5] = np.clip(rows[:, 1:5], 0, 1)
    inside: np.ndarray = rows[(x >= 0) & (x < 1) & (y >= 0) & (y < 1)]
    return inside
