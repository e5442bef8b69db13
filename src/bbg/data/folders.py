"""Images in one folder per class: in memory where they fit, else decoded whenever they are read."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np

from bbg.data.sets import Dataset, Entry, FileSet, ImageSet, Split
from bbg.errors import BbgError
from bbg.image import Preprocess
from bbg.sources import SUFFIXES, files_below

MEMORY = 2 * 2**30  # bytes of pixels, per split, that are held in memory
TEST_SHARE = 0.2  # of each class, where the images come without a split


def folders(root: Path, how: int | Preprocess) -> Split:
    """Images of `root/train/<class>` and `root/test/<class>` (or `val`), brought to pixels: `how` x `how` RGB, or by
    that preprocessing.

    Where `root` has no folder `train`, its own folders are the classes, and `TEST_SHARE` of the images of each are for
    testing, about: those of whose names a hash is low, so that new images move no old ones.

    Classes are the folder names of `train` in sorted order. Images may lie in folders below, and links are followed.
    Hidden files and folders do not count; any other file that is no readable image is skipped and counted. Where the
    pixels of a split take more than `MEMORY` bytes, its files are not read here: those without the suffix of an image
    are skipped, and a damaged one is an error when it is read. Raises BbgError for a missing split, a class folder
    without a readable image, or a class that is in only one of the splits.
    """
    preprocess = how if isinstance(how, Preprocess) else replace(Preprocess.of("cifar10"), size=(how, how))
    train_dir = root / "train"
    test_dir = next((root / n for n in ("test", "val") if (root / n).is_dir()), root / "test")
    if not train_dir.is_dir() and not test_dir.is_dir():
        return _split(root, preprocess)
    for folder in (train_dir, test_dir):
        if not folder.is_dir():
            raise BbgError(f"no folder {str(folder)!r}; an image set has train/<class>/* and test/<class>/*")
    classes = _classes(train_dir)
    if odd := sorted(set(_class_names(test_dir)).symmetric_difference(classes)):
        raise BbgError(f"class {odd[0]!r} is in only one split, see {str(test_dir)!r}; give both the same classes")
    train, test = (
        _read_classes({folder / name: files_below(folder / name) for name in classes}, preprocess)
        for folder in (train_dir, test_dir)
    )
    return Split(train, test)


FOLDERS = Entry(folders)


def _split(root: Path, preprocess: Preprocess) -> Split:
    """The images of one folder per class, split by their names."""
    _classes(root)
    files = class_files(root)
    kept = held_out(root, files)
    test = {root / name: [p for p in found if p in kept] for name, found in files.items()}
    train = {root / name: [p for p in found if p not in kept] for name, found in files.items()}
    return Split(_read_classes(train, preprocess), _read_classes(test, preprocess))


def class_files(folder: Path) -> dict[str, list[Path]]:
    """The visible files of each class folder in `folder`, at any depth, in order; none is opened."""
    return {name: files_below(folder / name) for name in _class_names(folder)}


def held_out(root: Path, files: Mapping[str, list[Path]]) -> set[Path]:
    """Those of the `files` of each class that are for testing, where a set comes without a split."""
    kept: set[Path] = set()
    for found in files.values():
        share = {p: _share(p.relative_to(root).as_posix()) for p in found}
        least = sum(share[p] < TEST_SHARE for p in found)
        few = min(max(least, 1), max(len(found) - 1, 1))  # few images: one at least for either half
        kept.update(sorted(found, key=share.__getitem__)[:few])
    return kept


def _share(name: str) -> float:
    """A number from 0 to 1 that is a function of the name alone, as good as drawn."""
    return int.from_bytes(sha256(name.encode(errors="surrogateescape")).digest()[:7]) / 2**56


def _classes(folder: Path) -> tuple[str, ...]:
    classes = tuple(_class_names(folder))
    for name in classes:
        if not name.isprintable():
            raise BbgError(
                f"class folder {name!r} is named by what is no text; rename it: a packed file holds the name"
            )
    if len(classes) < 2:
        raise BbgError(
            f"{len(classes)} class folders in {str(folder)!r}; an image set has train/<class>/* and test/<class>/* of "
            "two classes or more, or the classes alone, which are split"
        )
    return classes


def _class_names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if not p.name.startswith(".") and p.is_dir())


def _read_classes(files: Mapping[Path, list[Path]], preprocess: Preprocess) -> Dataset:
    """The images of `files`, those of each class folder, in its order."""
    classes = tuple(folder.name for folder in files)
    height, width = preprocess.size
    in_memory = sum(map(len, files.values())) * height * width * len(preprocess.mean) <= MEMORY
    images: list[np.ndarray] = []
    paths: list[Path] = []
    labels: list[int] = []
    skipped = 0
    with ThreadPoolExecutor() as pool:
        for label, (folder, here) in enumerate(files.items()):
            if in_memory:
                decoded = [x for x in pool.map(lambda p: _pixels(preprocess, p), here) if x is not None]
                images += decoded
                count = len(decoded)
            else:
                named = [p for p in here if p.suffix.lower() in SUFFIXES]
                paths += named
                count = len(named)
            if not count:
                raise BbgError(f"class folder {str(folder)!r} has no readable image; add some, or remove it")
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
