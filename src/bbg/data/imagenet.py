"""ImageNet, and every set of its size: class folders or tar shards, listed at once and decoded when they are read.

    DIR/train/<class>/*.JPEG  DIR/val/<class>/*.JPEG           DIR/train-000000.tar ...  DIR/val-000000.tar ...

The names of the classes are those of the folders, or those that `DIR/LOC_synset_mapping.txt` (as it comes with
ImageNet) or `DIR/classes.txt` gives the folders: `n01440764 tench, Tinca tinca` in a line. Shards are those of
webdataset (`bbg.data.shards`); their `DIR/classes.txt` names the classes in the order of their numbers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bbg.data.damage import Skipped
from bbg.data.encoded import EncodedSet, Store
from bbg.data.folders import class_names, classes_of, loose
from bbg.data.labelled import Labelled, labelled_files
from bbg.data.listing import listed
from bbg.data.sets import Entry, Split, Wanted
from bbg.data.shards import HALVES, open_shards, shard_files
from bbg.errors import BbgError
from bbg.image import Preprocess
from bbg.log import LOGGER
from bbg.reading import TEXT, contents

NAMES = "classes.txt"
MAPPINGS = ("LOC_synset_mapping.txt", NAMES)
TESTS = ("val", "test")  # folders of the images for testing; the first that is there
CROPPED = 7 / 8  # of the short side, as 224 of 256


class Half(NamedTuple):
    """Images of a half: where they lie, their classes, what is left out, and which ones of the store they are."""

    store: Store
    labels: np.ndarray
    left_out: tuple[Skipped, ...]
    numbers: np.ndarray


def imagenet(root: Path, wanted: Wanted) -> Split:
    """The images of `root`, in class folders or in shards, decoded when they are read and never kept in memory.

    Pixels are 224 x 224 out of the middle of the picture, its short side scaled to 256, with ImageNet's mean and std,
    unless `wanted` says otherwise; for another size the short side is 8/7 of it. No file is opened at the start, or
    asked for its size. Files in class folders that do not end as an image does are skipped, and the set says why.

    A damaged image is skipped when it is read, and another of its class stands in for it (`EncodedSet`); with
    `wanted.strict` it is an error.

    Raises BbgError for a missing half, a class folder without an image or in only one of the halves, fewer than two
    classes, and for `reading = "sequential"` of folders.
    """
    if wanted.cache is not None:
        LOGGER.warning("a set of this kind is not kept in a cache: leave --cache out")
    classes, train, test = _halves(root)
    size = wanted.size or Preprocess.of("imagenet").size
    preprocess = wanted.over(replace(Preprocess.of("imagenet"), size=size, resize=round(max(size) / CROPPED)))
    sets = [
        EncodedSet(half.store, half.numbers, half.labels, classes, preprocess, half.left_out, wanted.strict)
        for half in (train, test)
    ]
    if wanted.reading == "sequential":
        sets[0] = _sequential(sets[0], root)
    return Split(*sets)


def labelled(root: Path, preprocess: Preprocess, part: str) -> Labelled:
    """The images of `part` (test, train, all) for evaluation, none of them read yet; a damaged one is an error.

    The other part need not be there.
    """
    if not _has_shards(root):
        files = labelled_files(root, preprocess, part)
        return replace(files, classes=readable(root, files.classes))
    classes, halves = _of_shards(root, [half for half in HALVES if part in (half, "all")])
    sets = [EncodedSet(half.store, half.numbers, half.labels, classes, preprocess) for half in halves]
    places = [(data, index) for data in sets for index in range(len(data))]

    def read(number: int) -> np.ndarray:
        data, index = places[number]
        return data.decode(index, preprocess.apply)

    names = [data.name(index) for data, index in places]
    return Labelled(names, np.concatenate([data.labels for data in sets]), classes, read)


IMAGENET = Entry(imagenet, labelled=labelled)


def _halves(root: Path) -> tuple[tuple[str, ...], Half, Half]:
    """The classes, and the images for training and for testing."""
    train_dir = root / "train"
    if _has_shards(root):
        classes, (train, test) = _of_shards(root, [*HALVES])
        return classes, train, test
    if not train_dir.is_dir():
        raise BbgError(
            f"no folder {str(train_dir)!r}; images in this layout lie in train/<class>/* and val/<class>/*, or in the "
            "shards train-000000.tar and val-000000.tar"
        )
    test_dir = next((root / name for name in TESTS if (root / name).is_dir()), None)
    if test_dir is None:
        raise BbgError(
            f"no folder {str(root / TESTS[0])!r}; it holds the images for testing, by class as those of train"
        )
    names = classes_of(train_dir)
    if odd := sorted(set(class_names(test_dir)).symmetric_difference(names)):
        raise BbgError(f"class {odd[0]!r} is in only one split, see {str(test_dir)!r}; give both the same classes")
    halves = []
    for folder, beside in ((train_dir, (*loose(root), *loose(train_dir))), (test_dir, loose(test_dir))):
        files, others = listed([folder / name for name in names])
        halves.append(Half(files, files.labels, (*others, *beside), np.arange(len(files.labels))))
    return readable(root, names), halves[0], halves[1]


def _has_shards(root: Path) -> bool:
    """Whether the images of `root` are in shards: there are some, and no folder of images."""
    if any((root / name).is_dir() for name in ("train", *TESTS)):
        return False
    return any(shard_files(root, half) for half in HALVES)


def _of_shards(root: Path, words: Sequence[str]) -> tuple[tuple[str, ...], list[Half]]:
    """Classes, and the images of these halves. Where no file names the classes, they are called by their numbers."""
    found = [open_shards(root, word) for word in words]
    if (root / NAMES).is_file():
        classes = tuple(filter(None, lines_of(root / NAMES)))
    else:
        classes = tuple(map(str, range(1 + max(int(store.labels.max()) for store, _ in found))))
    halves: list[Half] = []
    for store, left_out in found:
        known = np.flatnonzero(store.labels < len(classes))
        strange = np.flatnonzero(store.labels >= len(classes)).tolist()
        reason = f"its class is none of the {len(classes):,} of {NAMES}"
        odd = tuple(Skipped(store.name(number), f"{reason} ({store.labels[number]})") for number in strange)
        if not len(known):
            raise BbgError(f"no image has a class that {str(root / NAMES)!r} names; it has {len(classes):,} of them")
        halves.append(Half(store, store.labels[known], (*left_out, *odd), known))
    return classes, halves


def readable(root: Path, folders: Sequence[str]) -> tuple[str, ...]:
    """What people call the classes of these `folders`, by the first of `MAPPINGS` that `root` has; else the folders.

    Names that the file has twice (ImageNet has two cranes) have the folder behind them.
    """
    file = next((root / name for name in MAPPINGS if (root / name).is_file()), None)
    if file is None:
        return tuple(folders)
    lines = [line.split(maxsplit=1) for line in lines_of(file)]
    told = {words[0]: words[1].strip() for words in lines if len(words) == 2}
    if not set(folders).intersection(words[0] for words in lines if words):
        LOGGER.warning("no line of %s begins with the name of a class folder: the classes are called as these", file)
    often = Counter(told.values())
    names = [(folder, told.get(folder, folder)) for folder in folders]
    return tuple(name if often[name] < 2 else f"{name} ({folder})" for folder, name in names)


def lines_of(file: Path) -> list[str]:
    """The lines of a file of text; BbgError where it cannot be read."""
    try:
        return contents(file, TEXT).decode("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no text in UTF-8"
        raise BbgError(f"cannot read {str(file)!r} ({why}); it names the classes, one in a line") from error


def _sequential(data: EncodedSet, root: Path) -> EncodedSet:
    """`data`, read shard after shard; a warning where the images of a class lie behind each other in the shards."""
    data = replace(data, sequential=True)
    places = data.stream()
    if places is None:
        raise BbgError(
            f"recipe key 'reading' is 'sequential', and {str(root)!r} has folders, not shards; write shards of them by "
            "bbg shard, or leave the key out"
        )
    along = data.labels[np.lexsort(places[::-1])]
    if len(along) > 1 and (along[1:] == along[:-1]).mean() > 0.5:
        LOGGER.warning(
            "images of a class lie behind each other in the shards of %s, so batches of a sequential reading have few "
            'classes each; write them anew by bbg shard, or train by reading = "random"',
            root,
        )
    return data
