"""Data sets: what the training, the evaluation and the command line know of a set of images.

A data set is one file in this folder that makes a `Split`, and one line in `bbg.data.DATASETS`. This module needs no
torch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from bbg.image import Preprocess

Target = Any  # what an image is labelled with: an integer, the index of its class; or a numpy array of fixed shape


class Dataset(Protocol):
    """Images with their targets, by index; `preprocess` says how an image was brought to the pixels that `read` gives.

    `skipped`: files of the set that could not be read, and are not part of it.
    """

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, by index."""

    @property
    def preprocess(self) -> Preprocess:
        """The preprocessing for evaluation, with the statistics of the colours."""

    @property
    def labels(self) -> Any:
        """The targets of all images, by index."""

    @property
    def skipped(self) -> int:
        """Files left out."""

    def __len__(self) -> int:
        """Images in the set."""

    def read(self, index: int) -> tuple[np.ndarray, Target]:
        """Image `index` as uint8 `[H, W, C]`, and its target."""

    def digest(self) -> str:
        """What tells this set from another one: a function of all images and targets, in their order."""


@dataclass(frozen=True)
class ImageSet:
    """A data set in memory: `images` uint8 `[N, H, W, C]`, `labels` `[N]` (int64 classes) or `[N, ...]`."""

    images: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]
    preprocess: Preprocess
    skipped: int = 0

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, index: int) -> tuple[np.ndarray, Target]:
        """Image and label number `index`."""
        return self.images[index], self.labels[index]

    def digest(self) -> str:
        """A hash of labels and pixels."""
        found = hashlib.sha256(np.ascontiguousarray(self.labels).data)
        found.update(np.ascontiguousarray(self.images).data)
        return found.hexdigest()[:16]


@dataclass(frozen=True)
class FileSet:
    """A data set of image files, each decoded when it is read: for sets that do not fit into memory."""

    paths: Sequence[Path]
    labels: np.ndarray
    classes: tuple[str, ...]
    preprocess: Preprocess
    skipped: int = 0

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, index: int) -> tuple[np.ndarray, Target]:
        """Decode image `index`; BbgError, which names the file, where it is damaged."""
        return self.preprocess.apply(self.paths[index]), self.labels[index]

    def digest(self) -> str:
        """A hash of labels, file names and file sizes: hashing the contents would mean reading the whole set."""
        found = hashlib.sha256(np.ascontiguousarray(self.labels).data)
        for path in self.paths:
            found.update(f"{path.parent.name}/{path.name}\0{path.stat().st_size}\0".encode())
        return found.hexdigest()[:16]


@dataclass(frozen=True)
class Part:
    """Some images of a data set of one's own, by their indices."""

    whole: Dataset
    indices: np.ndarray

    @property
    def classes(self) -> tuple[str, ...]:
        """Those of the whole."""
        return self.whole.classes

    @property
    def preprocess(self) -> Preprocess:
        """That of the whole."""
        return self.whole.preprocess

    @property
    def labels(self) -> Any:
        """The targets of these images."""
        return np.asarray(self.whole.labels)[self.indices]

    @property
    def skipped(self) -> int:
        """Files left out of the whole."""
        return self.whole.skipped

    def __len__(self) -> int:
        return len(self.indices)

    def read(self, index: int) -> tuple[np.ndarray, Target]:
        """Image and target number `index` of this part."""
        return self.whole.read(int(self.indices[index]))

    def digest(self) -> str:
        """A hash of that of the whole and the indices."""
        return hashlib.sha256(self.whole.digest().encode() + self.indices.astype("<i8").tobytes()).hexdigest()[:16]


def part(data: Dataset, indices: np.ndarray) -> Dataset:
    """The images of `data` that have these indices, in that order."""
    if isinstance(data, ImageSet):
        return replace(data, images=data.images[indices], labels=data.labels[indices])
    if isinstance(data, FileSet):
        return replace(data, paths=[data.paths[i] for i in indices], labels=data.labels[indices])
    return Part(data, indices)


class Split(NamedTuple):
    """The training and the test images of one set."""

    train: Dataset
    test: Dataset

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes."""
        return self.train.classes

    @property
    def preprocess(self) -> Preprocess:
        """The preprocessing for evaluation."""
        return self.train.preprocess


class Entry(NamedTuple):
    """A data set of the registry: `open(folder, how)` makes its split.

    `how`: the side of the images, or the preprocessing that brings files to pixels. A set that has its images as pixels
    may leave it aside. `archive`: what the folder has inside where it holds the set as published; None for a set that
    is always one folder per class. `title`: what people call the set.
    """

    open: Callable[[Path, int | Preprocess], Split]
    needs_folder: bool = True
    archive: str | None = None
    title: str = ""


def brought(data: Dataset, preprocess: Preprocess) -> Dataset:
    """The images of `data` as `preprocess` brings them to pixels, and with its statistics of the colours."""
    own = data.preprocess
    if own == preprocess:
        return data
    if (own.size, own.resize, own.mode) == (preprocess.size, preprocess.resize, preprocess.mode):
        assert isinstance(data, (ImageSet, FileSet))
        return replace(data, preprocess=preprocess)
    images = [np.squeeze(data.read(i)[0]) for i in range(len(data))]  # grey ones without an axis of channels
    pixels = np.stack([preprocess.apply(image) for image in images])
    return ImageSet(pixels, np.asarray(data.labels), data.classes, preprocess, data.skipped)


def read_batch(data: Dataset, indices: Sequence[int] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The images of `indices` as uint8 `[N, H, W, C]`, and their targets `[N, ...]`."""
    if isinstance(data, ImageSet):
        chosen = np.asarray(indices, np.int64)
        return data.images[chosen], data.labels[chosen]
    found = [data.read(int(i)) for i in indices]
    return np.stack([image for image, _ in found]), np.stack([np.asarray(target) for _, target in found])
