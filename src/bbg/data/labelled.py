"""Labelled images, listed and not read: what evaluation goes through, an image at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bbg.data.folders import class_files, held_out, loose
from bbg.data.sets import Dataset
from bbg.errors import BbgError
from bbg.image import Preprocess
from bbg.log import LOGGER
from bbg.sources import SUFFIXES, files_below

PARTS = ("test", "train", "all")


@dataclass(frozen=True)
class Labelled:
    """Images with labels: `labels` int64 `[N]`, indices into `classes`.

    `read(i)` decodes image `i` to the uint8 pixels `[H, W, C]` that the network sees; BbgError where it is damaged.
    """

    names: Sequence[str]
    labels: np.ndarray
    classes: tuple[str, ...]
    read: Callable[[int], np.ndarray]

    def __len__(self) -> int:
        return len(self.names)

    def by(self, classes: Sequence[str]) -> Labelled:
        """The same images with their labels as indices into `classes`; BbgError for a class that is not among them."""
        if odd := [name for name in self.classes if name not in classes]:
            raise BbgError(
                f"the images have the class {some(odd)}, which the model does not know; its classes are "
                f"{some(classes)}: name the folders by them, and leave out others"
            )
        place = {name: i for i, name in enumerate(classes)}
        index = np.array([place[name] for name in self.classes], np.int64)
        return Labelled(self.names, index[self.labels], tuple(classes), self.read)


def some(names: Sequence[str], most: int = 8) -> str:
    """The first of `names`, and how many more there are."""
    shown = ", ".join(repr(name) for name in names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most:,} more"


def labelled_files(root: Path, preprocess: Preprocess, part: str = "test") -> Labelled:
    """The images of one folder per class, decoded by `preprocess` when they are read.

    They are those of `root/test` (or `root/val`) for the part "test", of `root/train` for "train", of both for "all".
    Where `root` has none of these folders, its own folders are the classes, and "test" are the images that a training
    on `root` keeps for testing. Every visible file counts, at any depth. BbgError where there are no class folders.
    """
    tests = [root / name for name in ("test", "val") if (root / name).is_dir()][:1]
    train = [root / "train"] if (root / "train").is_dir() else []
    if train or tests:
        folders = {"test": tests, "train": train, "all": [*train, *tests]}[part]
        if not folders:
            raise BbgError(f"no folder {str(root / part)!r}; it holds the images of the part {part!r}, by class")
        files: dict[str, list[Path]] = {}
        for folder in folders:
            for name, found in _by_class(folder).items():
                files.setdefault(name, []).extend(found)
    else:
        files = _by_class(root)
        if part != "all":
            kept = held_out(root, files)
            files = {name: [p for p in found if (p in kept) == (part == "test")] for name, found in files.items()}
    paths = [path for found in files.values() for path in found]
    labels = np.repeat(np.arange(len(files)), [len(found) for found in files.values()])
    names = [str(path) for path in paths]
    return Labelled(names, labels, tuple(files), lambda i: preprocess.apply(paths[i]))


def labelled_images(halves: Mapping[str, Dataset], preprocess: Preprocess) -> Labelled:
    """The images of sets in memory, as `preprocess` brings them to pixels; each is named by its half and a number."""
    all_of = [(half, data, i) for half, data in halves.items() for i in range(len(data))]

    def read(index: int) -> np.ndarray:
        _, data, i = all_of[index]
        pixels, own = data.read(i)[0], data.preprocess
        if (own.size, own.resize, own.mode) == (preprocess.size, preprocess.resize, preprocess.mode):
            return pixels
        return preprocess.apply(np.squeeze(pixels))  # grey ones without an axis of channels

    names = [f"{half}/{i}" for half, _, i in all_of]
    labels = np.concatenate([np.asarray(data.labels) for data in halves.values()])
    return Labelled(names, labels, next(iter(halves.values())).classes, read)


def _by_class(folder: Path) -> dict[str, list[Path]]:
    files = class_files(folder)
    if files and (beside := loose(folder)):
        LOGGER.warning("%d images lie in no class folder and are left out, such as %s", len(beside), beside[0].path)
    if not files:
        images = sum(path.suffix.lower() in SUFFIXES for path in files_below(folder))
        came = f"holds {images:,} images without labels" if images else "holds no images"
        raise BbgError(
            f"{str(folder)!r} {came}, it has no class folders; give a folder with one folder of images per class "
            "(`bbg predict` names what is in images without labels)"
        )
    return files
