"""Images in one folder per class: in memory where they fit, else decoded whenever they are read."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from statistics import median

import numpy as np

from bbg.data.cache import Cache, cached, decoded
from bbg.data.sets import Dataset, Entry, FileSet, ImageSet, Skipped, Split, Wanted
from bbg.errors import BbgError
from bbg.image import Preprocess, image_size, reason_of
from bbg.sources import SUFFIXES, files_below

MEMORY = 2 * 2**30  # bytes of pixels, per split, that are held in memory
TEST_SHARE = 0.2  # of each class, where the images come without a split
LOOKED_AT = 100  # training images whose sizes decide where the size is not asked for
SIZES = (32, 64, 128, 224)  # to choose from
PHOTOGRAPH = 64  # pixels of the short side from which on an image is cropped rather than squashed

Files = Mapping[Path, list[Path]]  # of each class folder


def folders(root: Path, wanted: Wanted) -> Split:
    """Images of `root/train/<class>` and `root/test/<class>` (or `val`), brought to pixels as `wanted` says, and
    elsewhere by `choice`.

    Where `root` has no folder `train`, its own folders are the classes, and `TEST_SHARE` of the images of each are for
    testing, about: those of whose names a hash is low, so that new images move no old ones.

    Classes are the folder names of `train` in sorted order. Images may lie in folders below, and links are followed.
    Hidden files and folders do not count; any other file that is no readable image is skipped, and the set says why. So
    is an image beside the class folders.

    Images stay in memory, unless whole pictures are wanted or the pixels of a split take more than `MEMORY` bytes. In
    that last case, where no cache is asked for, the files are not decoded here: those without the suffix of an image,
    and missing and empty ones, are skipped, and a damaged one is an error when it is read.

    Raises BbgError for a missing split, a class folder without a readable image, or a class that is in only one of the
    splits.
    """
    train_dir = root / "train"
    test_dir = next((root / n for n in ("test", "val") if (root / n).is_dir()), root / "test")
    beside, beside_tests = loose(root), tuple[Skipped, ...]()
    if not train_dir.is_dir() and not test_dir.is_dir():
        train, test = _split(root)
    else:
        for folder in (train_dir, test_dir):
            if not folder.is_dir():
                raise BbgError(f"no folder {str(folder)!r}; an image set has train/<class>/* and test/<class>/*")
        classes = classes_of(train_dir)
        if odd := sorted(set(class_names(test_dir)).symmetric_difference(classes)):
            raise BbgError(f"class {odd[0]!r} is in only one split, see {str(test_dir)!r}; give both the same classes")
        train, test = (
            {folder / name: files_below(folder / name) for name in classes} for folder in (train_dir, test_dir)
        )
        beside, beside_tests = (*beside, *loose(train_dir)), loose(test_dir)
    own = choice([path for here in train.values() for path in here], wanted)
    preprocess = wanted.over(own)
    pictures = own.resize is not None if wanted.pictures is None else wanted.pictures
    return Split(
        _read_classes(train, preprocess, pictures, wanted.cache, "train", beside),
        _read_classes(test, preprocess, False, wanted.cache, "test", beside_tests),
    )


FOLDERS = Entry(folders)


def choice(paths: list[Path], wanted: Wanted) -> Preprocess:
    """The preprocessing of images that nothing is said of: it follows from the median of their short sides.

    The size is the largest of `SIZES` that is not above that median, 32 at least. Images of 64 pixels and more, brought
    to 64 and more, are photographs: their short side is scaled to 8/7 of the size, the middle is cropped, mean and std
    are those of ImageNet, and large JPEGs are decoded at a scale. Others are resized whole, with CIFAR-10's mean and
    std. Up to `LOOKED_AT` images are looked at, evenly spread over `paths`.
    """
    sides = []
    for path in (p for p in _spread(paths, LOOKED_AT) if p.suffix.lower() in SUFFIXES):
        try:
            sides.append(min(image_size(path)))
        except BbgError:  # it will be skipped, or named when it is read
            continue
    short = median(sides) if sides else 0
    size = wanted.size or (max((n for n in SIZES if n <= short), default=SIZES[0]),) * 2
    if short < PHOTOGRAPH or min(size) < PHOTOGRAPH:
        return replace(Preprocess.of("cifar10"), size=size)
    return replace(Preprocess.of("imagenet"), size=size, resize=-(-max(size) * 8 // 7), decode="scaled")


def _spread(paths: list[Path], count: int) -> Iterator[Path]:
    if not paths:
        return
    for i in sorted({round(x) for x in np.linspace(0, len(paths) - 1, count)}):
        yield paths[i]


def _split(root: Path) -> tuple[dict[Path, list[Path]], dict[Path, list[Path]]]:
    """The images of one folder per class, split by their names."""
    classes_of(root)
    files = class_files(root)
    kept = held_out(root, files)
    test = {root / name: [p for p in found if p in kept] for name, found in files.items()}
    train = {root / name: [p for p in found if p not in kept] for name, found in files.items()}
    return train, test


def class_files(folder: Path) -> dict[str, list[Path]]:
    """The visible files of each class folder in `folder`, at any depth, in order; none is opened."""
    return {name: files_below(folder / name) for name in class_names(folder)}


def loose(folder: Path) -> tuple[Skipped, ...]:
    """The images of `folder` that lie in no folder of a class."""
    images = sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and p.is_file())
    return tuple(Skipped(str(p), "lies in no class folder") for p in images if not p.name.startswith("."))


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


def classes_of(folder: Path) -> tuple[str, ...]:
    """The classes that `folder` has folders of, sorted; BbgError for fewer than two, and for a name that is no text."""
    classes = tuple(class_names(folder))
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


def class_names(folder: Path) -> list[str]:
    """The visible folders in `folder`, sorted."""
    return sorted(p.name for p in folder.iterdir() if not p.name.startswith(".") and p.is_dir())


def _read_classes(
    files: Files,
    preprocess: Preprocess,
    pictures: bool,
    cache: Path | None,
    half: str,
    beside: tuple[Skipped, ...],
) -> Dataset:
    """The images of `files`, those of each class folder, in its order; `beside` them lie others, which are skipped."""
    paths = [path for here in files.values() for path in here]
    labels = np.repeat(np.arange(len(files)), [len(here) for here in files.values()])
    shape = (len(paths), *preprocess.size, len(preprocess.mean))
    few = math.prod(shape) <= MEMORY
    in_memory = few and not pictures
    store = None if cache is None else _stored(cache, half, files, paths, preprocess, pictures)
    images = np.empty(shape if in_memory else 0, np.uint8)
    refused: dict[int, str] = {} if store is None else store.refused
    if in_memory:
        kept = 0
        for number, image in _images(paths, preprocess, store):
            if isinstance(image, BbgError):
                refused[number] = str(image)
            else:
                images[kept] = image
                kept += 1
        images = images[:kept]
    elif store is None and few:
        tried = enumerate(decoded(paths, preprocess.picture))
        refused = {number: str(picture) for number, picture in tried if isinstance(picture, BbgError)}
    elif store is None:
        refused = {number: reason for number, path in enumerate(paths) if (reason := _unfit(path))}
    good = np.array([number for number in range(len(paths)) if number not in refused], np.int64)
    skipped = (*(Skipped(str(paths[i]), reason_of(str(paths[i]), refused[i])) for i in sorted(refused)), *beside)
    for label, folder in enumerate(files):
        if not (labels[good] == label).any():
            raise BbgError(f"class folder {str(folder)!r} has no readable image; add some, or remove it")
    classes = tuple(folder.name for folder in files)
    if in_memory:
        return ImageSet(images, labels[good], classes, preprocess, skipped)
    stores: dict[str, Cache | None] = {"pictures" if pictures else "pixels": store}
    return FileSet([paths[i] for i in good], labels[good], classes, preprocess, skipped, **stores)


def _stored(cache: Path, half: str, files: Files, paths: list[Path], preprocess: Preprocess, pictures: bool) -> Cache:
    """The decoded images in the folder `cache`: whole pictures, or what the network sees."""
    how = {**preprocess.to_json(), "pillow": version("pillow"), "pictures": pictures}
    del how["mean"], how["std"]
    place = sha256(str([how, *map(str, files)]).encode(errors="surrogateescape")).hexdigest()[:12]
    return cached(cache, f"{half}-{place}", how, paths, preprocess.picture if pictures else preprocess.apply)


def _images(
    paths: list[Path], preprocess: Preprocess, store: Cache | None
) -> Iterator[tuple[int, np.ndarray | BbgError]]:
    """The pixels of the images with their numbers, or why there are none."""
    if store is None:
        yield from enumerate(decoded(paths, preprocess.apply))
        return
    for position, number in enumerate(store.kept.tolist()):
        image = store.read(position)
        yield number, preprocess.apply(paths[number]) if image is None else image


def _unfit(path: Path) -> str | None:
    """Why `path` is no image, as far as that can be told without reading it."""
    if path.suffix.lower() not in SUFFIXES:
        return "its name does not end as that of an image"
    try:
        return None if path.stat().st_size else "is empty"
    except OSError as error:
        return f"cannot be read ({error.strerror})"
