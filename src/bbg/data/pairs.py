"""Pairs of an image and a mask, decoded when they are read."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from bbg.errors import BbgError
from bbg.image import Preprocess, image_size, load_mask
from bbg.maps import IGNORED

if TYPE_CHECKING:
    from bbg.data.sets import Skipped

READ = 100  # pairs of a set whose contents tell it from others


class Pair(NamedTuple):
    """The files of an image and of its mask."""

    image: Path
    mask: Path


def mask_of(pair: Pair, classes: int) -> np.ndarray:
    """The classes of a pair's image, uint8 `[H, W]` of its size; 255 where a pixel does not count.

    Raises BbgError, which names the file of the mask, where it is damaged, in colour, of another size than its image,
    or has a number that is neither below `classes` nor 255.
    """
    found = load_mask(pair.mask)
    if found.shape != (size := image_size(pair.image)):
        ours, theirs = (" x ".join(map(str, shape)) for shape in (found.shape, size))
        raise BbgError(f"{pair.mask}: is {ours} pixels, its image {str(pair.image)!r} {theirs}; give them one size")
    largest = int(found.max(where=found != IGNORED, initial=0))
    if largest >= classes:
        raise BbgError(
            f"{pair.mask}: has the number {largest}; allowed are 0 to {classes - 1}, one for each of the {classes} "
            f"classes, and {IGNORED} for pixels that do not count"
        )
    return found


class _Targets:
    """The masks of a set, one by one, as `Dataset.labels` gives them."""

    ndim, dtype = 3, np.dtype(np.uint8)

    def __init__(self, pairs: PairSet) -> None:
        self.pairs = pairs

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> np.ndarray:
        return self.pairs.mask(index)


@dataclass(frozen=True)
class PairSet:
    """A data set of files, images with masks, each decoded when it is read: for sets that do not fit into memory, and
    for random crops out of whole pictures.
    """

    pairs: Sequence[Pair] = field(repr=False)
    classes: tuple[str, ...]
    preprocess: Preprocess
    skipped: tuple[Skipped, ...] = ()

    def __len__(self) -> int:
        return len(self.pairs)

    @property
    def labels(self) -> _Targets:
        """The masks, each decoded when it is asked for by its index."""
        return _Targets(self)

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Image and mask `index` as the network sees them; BbgError, which names the file, where one is damaged."""
        return self.preprocess.apply(self.pairs[index].image), self.mask(index)

    def mask(self, index: int) -> np.ndarray:
        """Mask `index`, uint8 `[H, W]` of the size of the network's input."""
        return self.preprocess.mask(mask_of(self.pairs[index], len(self.classes)))

    def picture(self, index: int) -> np.ndarray:
        """Image `index` before it is resized."""
        return self.preprocess.picture(self.pairs[index].image)

    def whole(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Image and mask `index` before they are resized; a JPEG may be decoded at a scale."""
        return self.picture(index), mask_of(self.pairs[index], len(self.classes))

    def part(self, indices: np.ndarray) -> PairSet:
        """The pairs that have these indices, in that order."""
        return replace(self, pairs=[self.pairs[i] for i in indices])

    def digest(self) -> str:
        """A hash of file names, file sizes, and the contents of some files, evenly spread."""
        found = hashlib.sha256("\0".join(self.classes).encode())
        spread = set(np.linspace(0, max(len(self) - 1, 0), READ).round().astype(int).tolist())
        for number, pair in enumerate(self.pairs):
            for path in pair:
                found.update(f"{path.name}\0{path.stat().st_size}\0".encode(errors="surrogateescape"))
                if number in spread:
                    with suppress(OSError):  # which is told when the pair is read
                        found.update(path.read_bytes())
        return found.hexdigest()[:16]
