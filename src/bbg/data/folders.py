"""Images in one folder per class: in memory where they fit, else decoded whenever they are read."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np

from bbg.data.sets import Dataset, Entry, FileSet, ImageSet, Split
from bbg.errors import BbgError
from bbg.image import Preprocess

MEMORY = 2 * 2**30  # bytes of pixels, per split, that are held in memory
SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}


def folders(root: Path, how: int | Preprocess) -> Split:
    """Images of `root/train/<class>` and `root/test/<class>` (or `val`), brought to pixels: `how` x `how` RGB, or by
    that preprocessing.

    Classes are the folder names of `train` in sorted order. Hidden files and folders do not count; any other file that
    is no readable image is skipped and counted. Where the pixels of a split take more than `MEMORY` bytes, its files
    are not read here: those without the suffix of an image are skipped, and a damaged one is an error when it is read.
    Raises BbgError for a missing split, a class folder without a readable image, or a class that is in only one of the
    splits.
    """
    train_dir = root / "train"
    test_dir = next((root / n for n in ("test", "val") if (root / n).is_dir()), root / "test")
    for folder in (train_dir, test_dir):
        if not folder.is_dir():
            raise BbgError(f"no folder {str(folder)!r}; an image set has train/<class>/* and test/<class>/*")
    classes = tuple(sorted(p.name for p in _visible(train_dir) if p.is_dir()))
    for name in classes:
        if not name.isprintable():
            raise BbgError(
                f"class folder {name!r} is named by what is no text; rename it, since a packed file holds it"
            )
    if len(classes) < 2:
        raise BbgError(f"{len(classes)} class folders in {str(train_dir)!r}; an image set has two or more in train/")
    preprocess = how if isinstance(how, Preprocess) else replace(Preprocess.of("cifar10"), size=(how, how))
    train, test = (_read_classes(folder, classes, preprocess) for folder in (train_dir, test_dir))
    return Split(train, test)


FOLDERS = Entry(folders)


def _visible(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if not p.name.startswith("."))


def _read_classes(folder: Path, classes: tuple[str, ...], preprocess: Preprocess) -> Dataset:
    found = {p.name for p in _visible(folder) if p.is_dir()}
    if odd := sorted(found.symmetric_difference(classes)):
        raise BbgError(f"class {odd[0]!r} is in only one split, see {str(folder)!r}; give both the same classes")
    files = {name: [p for p in _visible(folder / name) if p.is_file()] for name in classes}
    height, width = preprocess.size
    in_memory = sum(map(len, files.values())) * height * width * len(preprocess.mean) <= MEMORY
    images: list[np.ndarray] = []
    paths: list[Path] = []
    labels: list[int] = []
    skipped = 0
    with ThreadPoolExecutor() as pool:
        for label, (name, here) in enumerate(files.items()):
            if in_memory:
                decoded = [x for x in pool.map(lambda p: _pixels(preprocess, p), here) if x is not None]
                images += decoded
                count = len(decoded)
            else:
                named = [p for p in here if p.suffix.lower() in SUFFIXES]
                paths += named
                count = len(named)
            if not count:
                raise BbgError(f"class folder {str(folder / name)!r} has no readable image; add some, or remove it")
            labels += [label] * count
            skipped += len(here) - count
    targets = np.asarray(labels, np.int64)
    if in_memory:
        return ImageSet(np.stack(images), targets, classes, preprocess, skipped)
    return FileSet(paths, targets, classes, preprocess, skipped)


def _pixels(preprocess: Preprocess, path: Path) -> np.ndarray | None:
    try:
        return preprocess.apply(path)
    except BbgError:
        return None
