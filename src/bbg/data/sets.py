"""Data sets: what the training, the evaluation and the command line know of a set of images.

A data set is one file in this folder that makes a `Split`, and one line in `bbg.data.DATASETS`. This module needs no
torch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from bbg.data.boxed import COLUMNS, BoxSet
from bbg.data.cache import Cache
from bbg.data.damage import Skipped as Skipped  # noqa: PLC0414  # the other modules take it from here
from bbg.data.encoded import EncodedSet
from bbg.data.pairs import PairSet
from bbg.image import Preprocess

if TYPE_CHECKING:
    from bbg.data.labelled import Labelled
    from bbg.data.layout import Layout

READ = 100  # files of a set whose contents tell it from others

# What an image is labelled with: an integer, the index of its class; or a numpy array of fixed shape. One that is uint8
# `[H, W]`, as the image is, is a mask: the class of each pixel, 255 for none. It is cropped and mirrored as its image.
# Boxes are float32 `[M, 6]` (`bbg.data.boxed`).
Target = Any


class Dataset(Protocol):
    """Images with their targets, by index; `preprocess` says how an image was brought to the pixels that `read` gives.

    A set may also have `picture(index)`: image `index` before it is resized, uint8 `[H, W, C]` of any size, which
    random crops are taken from (`picture_of`).
    """

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, by index."""

    @property
    def preprocess(self) -> Preprocess:
        """The preprocessing for evaluation, with the statistics of the colours."""

    @property
    def labels(self) -> Any:
        """The targets of all images, by index: an array, or what has `ndim` and a length and gives one at a time."""

    @property
    def skipped(self) -> Sequence[Skipped]:
        """The files left out."""

    def __len__(self) -> int:
        """Images in the set."""

    def read(self, index: int) -> tuple[np.ndarray, Target]:
        """Image `index` as uint8 `[H, W, C]`, and its target."""

    def digest(self) -> str:
        """What tells this set from another one: a function of all images and targets, in their order."""


@dataclass(frozen=True)
class ImageSet:
    """A data set in memory: `images` uint8 `[N, H, W, C]`, `labels` `[N]` (int64 classes) or `[N, ...]`."""

    images: np.ndarray = field(repr=False)
    labels: np.ndarray = field(repr=False)
    classes: tuple[str, ...]
    preprocess: Preprocess
    skipped: tuple[Skipped, ...] = ()

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
    """A data set of image files, each decoded when it is read: for sets that do not fit into memory, and for random
    crops out of whole pictures.

    `pixels`, `pictures`: caches of what `read` and `picture` give; an image that one of them lacks is decoded.
    """

    paths: Sequence[Path] = field(repr=False)
    labels: np.ndarray = field(repr=False)
    classes: tuple[str, ...]
    preprocess: Preprocess
    skipped: tuple[Skipped, ...] = ()
    pixels: Cache | None = None
    pictures: Cache | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, index: int) -> tuple[np.ndarray, Target]:
        """Decode image `index`; BbgError, which names the file, where it is damaged."""
        cached = None if self.pixels is None else self.pixels.read(index)
        return self.preprocess.apply(self.paths[index]) if cached is None else cached, self.labels[index]

    def picture(self, index: int) -> np.ndarray:
        """Image `index` before it is resized."""
        cached = None if self.pictures is None else self.pictures.read(index)
        return self.preprocess.picture(self.paths[index]) if cached is None else cached

    def digest(self) -> str:
        """A hash of labels, file names, file sizes, and the contents of some files, evenly spread.

        Hashing all contents would mean reading the whole set. Sizes alone do not tell pictures apart that are not
        compressed.
        """
        found = hashlib.sha256(np.ascontiguousarray(self.labels).data)
        spread = set(np.linspace(0, max(len(self.paths) - 1, 0), READ).round().astype(int).tolist())
        for number, path in enumerate(self.paths):
            found.update(f"{path.parent.name}/{path.name}\0{path.stat().st_size}\0".encode(errors="surrogateescape"))
            if number in spread:
                with suppress(OSError):  # which is told when the image is read
                    found.update(path.read_bytes())
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
    def skipped(self) -> Sequence[Skipped]:
        """The files left out of the whole."""
        return self.whole.skipped

    def __len__(self) -> int:
        return len(self.indices)

    def read(self, index: int) -> tuple[np.ndarray, Target]:
        """Image and target number `index` of this part."""
        return self.whole.read(int(self.indices[index]))

    def picture(self, index: int) -> np.ndarray:
        """Image number `index` of this part before it is resized."""
        return picture_of(self.whole, int(self.indices[index]))

    def digest(self) -> str:
        """A hash of that of the whole and the indices."""
        return hashlib.sha256(self.whole.digest().encode() + self.indices.astype("<i8").tobytes()).hexdigest()[:16]


def part(data: Dataset, indices: np.ndarray) -> Dataset:
    """The images of `data` that have these indices, in that order."""
    if isinstance(data, ImageSet):
        return replace(data, images=data.images[indices], labels=data.labels[indices])
    if isinstance(data, FileSet):
        pixels, pictures = (cache and cache.part(indices) for cache in (data.pixels, data.pictures))
        paths, labels = [data.paths[i] for i in indices], data.labels[indices]
        return replace(data, paths=paths, labels=labels, pixels=pixels, pictures=pictures)
    if isinstance(data, (PairSet, BoxSet, EncodedSet)):
        return data.part(indices)
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


@dataclass(frozen=True)
class Wanted:
    """What is asked of the pixels of a set. None leaves the choice to the set.

    The names are those of `Preprocess`, but a `resize` of 0 resizes the whole picture, and a `mean` of "measured" means
    that mean and std are those of the training images. `pictures`: the training images are wanted whole, for random
    crops of their own; None: where they are photographs. `cache`: the folder in which decoded images are kept.
    `strict`: what a set with boxes would leave out is an error, and so is a damaged image of `imagenet`. `reading`:
    "sequential" trains along the shards of a set that has some.
    """

    size: tuple[int, int] | None = None
    resize: int | None = None
    mode: str | None = None
    mean: Sequence[float] | str | None = None
    std: Sequence[float] | None = None
    decode: str | None = None
    pictures: bool | None = False
    cache: Path | None = None
    strict: bool = False
    reading: str = "random"

    @staticmethod
    def of(preprocess: Preprocess) -> Wanted:
        """Exactly these pixels."""
        stated: dict[str, Any] = {**vars(preprocess), "resize": preprocess.resize or 0}
        return Wanted(**stated)

    @property
    def measured(self) -> bool:
        """Whether mean and std are to be those of the training images."""
        return self.mean == "measured" or (self.mean is None and self.mode == "L")

    def over(self, own: Preprocess) -> Preprocess:
        """`own` with what is asked; a mean and a std that are still to be measured are 0 and 1."""
        mode = self.mode or own.mode
        mean: Any = own.mean if self.mean is None else self.mean
        std: Any = own.std if self.std is None else self.std
        if self.mean == "measured" or (self.mean is None and mode != own.mode):
            mean, std = ((value,) * (3 if mode == "RGB" else 1) for value in (0.0, 1.0))
        size = own.size if self.size is None else self.size
        resize = own.resize if self.resize is None else self.resize or None
        return Preprocess(size, resize, mode, mean, std, self.decode or own.decode)


class Entry(NamedTuple):
    """A data set of the registry: `open(folder, wanted)` makes its split.

    A set that has its images as pixels may leave `wanted` aside: they are brought to it afterwards. `archive`: what the
    folder has inside where it holds the set as published; None for a set that is always one folder per class.
    `title`: what people call the set. `task`: of those in `bbg.training.tasks`, the one that its targets are for.
    `layout`: of images with boxes, how they lie in the folder.
    `labelled(folder, preprocess, part)`: its images for evaluation, where they are not those of class folders.
    """

    open: Callable[[Path, Wanted], Split]
    needs_folder: bool = True
    archive: str | None = None
    title: str = ""
    task: str = "classification"
    layout: Layout | None = None
    labelled: Callable[[Path, Preprocess, str], Labelled] | None = None


def brought(data: Dataset, preprocess: Preprocess) -> Dataset:
    """The images of `data` as `preprocess` brings them to pixels, and with its statistics of the colours."""
    if data.preprocess == preprocess:
        return data
    if isinstance(data, (PairSet, BoxSet, EncodedSet)):
        return replace(data, preprocess=preprocess)
    if isinstance(data, FileSet):
        kept = data if _pixels(data.preprocess) == _pixels(preprocess) else replace(data, pixels=None, pictures=None)
        return replace(kept, preprocess=preprocess)
    if _pixels(data.preprocess) == _pixels(preprocess):
        assert isinstance(data, ImageSet)
        return replace(data, preprocess=preprocess)
    images = [np.squeeze(data.read(i)[0]) for i in range(len(data))]  # grey ones without an axis of channels
    pixels = np.stack([preprocess.apply(image) for image in images])
    targets = np.asarray(data.labels)
    if has_masks(data):
        targets = np.stack([preprocess.mask(mask) for mask in targets])
    return ImageSet(pixels, targets, data.classes, preprocess, tuple(data.skipped))


def _pixels(preprocess: Preprocess) -> tuple[Any, ...]:
    """What decides about the pixels, which mean and std do not."""
    return preprocess.size, preprocess.resize, preprocess.mode, preprocess.decode


def read_batch(data: Dataset, indices: Sequence[int] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The images of `indices` as uint8 `[N, H, W, C]`, and their targets `[N, ...]`."""
    if isinstance(data, ImageSet):
        chosen = np.asarray(indices, np.int64)
        return data.images[chosen], data.labels[chosen]
    found = [data.read(int(i)) for i in indices]
    return np.stack([image for image, _ in found]), np.stack([np.asarray(target) for _, target in found])


def has_masks(data: Dataset) -> bool:
    """Whether the targets are masks."""
    return np.ndim(data.labels) == 3 and getattr(data.labels, "dtype", None) == np.uint8


def has_boxes(data: Dataset) -> bool:
    """Whether the targets are boxes."""
    shape = np.shape(data.labels) if isinstance(data.labels, np.ndarray) else ()
    return len(shape) == 3 and shape[2] == COLUMNS and data.labels.dtype == np.float32


def picture_of(data: Dataset, index: int) -> np.ndarray:
    """Image `index` as random crops want it: before it is resized, where the set has it so."""
    picture: np.ndarray = data.picture(index) if hasattr(data, "picture") else data.read(index)[0]
    return picture


def class_counts(data: Dataset) -> Mapping[str, int]:
    """How many images each class has."""
    counts = np.bincount(np.asarray(data.labels, np.int64), minlength=len(data.classes))
    return dict(zip(data.classes, counts.tolist(), strict=True))
