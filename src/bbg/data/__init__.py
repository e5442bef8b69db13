"""Data sets by name. The sets need no torch; the loader that feeds them to a training does (`bbg.data.loader`)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

from bbg.data.boxed import BoxSet
from bbg.data.cifar import CIFAR10, CIFAR100
from bbg.data.coco import COCO
from bbg.data.digits import DIGITS
from bbg.data.folders import FOLDERS
from bbg.data.imagenet import IMAGENET
from bbg.data.labelled import PARTS, Labelled, labelled_files, labelled_images
from bbg.data.layout import Layout, boxed_images
from bbg.data.masks import MASKED, MaskedImages, open_masked
from bbg.data.report import found, write_skipped
from bbg.data.sets import Dataset, Entry, FileSet, ImageSet, Skipped, Split, Wanted, brought, class_counts, read_batch
from bbg.data.statistics import statistics
from bbg.data.voc import VOC
from bbg.data.yolo import YOLO
from bbg.errors import BbgError, allowed
from bbg.image import Preprocess
from bbg.recipe import Recipe

__all__ = [
    "DATASETS",
    "PARTS",
    "BoxSet",
    "Dataset",
    "FileSet",
    "ImageSet",
    "Labelled",
    "MaskedImages",
    "Skipped",
    "Split",
    "class_counts",
    "found",
    "needs_folder",
    "open_boxed",
    "open_data",
    "open_labelled",
    "open_masked",
    "open_recipe",
    "read_batch",
    "title_of",
    "wanted_by",
    "write_skipped",
]

DATASETS: dict[str, Entry] = {
    "cifar10": CIFAR10,
    "cifar100": CIFAR100,
    "folders": FOLDERS,
    "digits": DIGITS,
    "imagenet": IMAGENET,
    "masks": MASKED,
    "voc": VOC,
    "yolo": YOLO,
    "coco": COCO,
}


def open_data(
    dataset: str,
    root: Path | None,
    size: int | tuple[int, int] | None = None,
    preprocess: Preprocess | None = None,
    cache: Path | None = None,
) -> Split:
    """The training and test images of `dataset`: one of DATASETS.

    `root`: the folder that holds `cifar-10-batches-py` (or `cifar-100-python`) or, for `folders`, `train/<class>/*` and
    `test/<class>/*`. A CIFAR `root` that holds class folders instead is read as such. `masks` is read as
    `bbg.data.masks.masks` says, `voc`, `coco`, `yolo` and `imagenet` as the functions of these names say. `digits`
    needs no folder.

    `size`: of the images, a side or (H, W); None: the set's own, which for `folders` follows from the pictures
    (`bbg.data.folders.choice`). `preprocess`: that of the model which the images are for, as its file or checkpoint
    holds it; it decides about all pixels. `cache`: a folder in which decoded images are kept for the next time.

    Raises BbgError for a missing or unreadable folder or an unknown name.
    """
    if preprocess is not None:
        return _opened(dataset, root, replace(Wanted.of(preprocess), cache=cache))
    return _opened(dataset, root, Wanted((size, size) if isinstance(size, int) else size, cache=cache))


def open_recipe(recipe: Recipe, root: Path | None, cache: Path | None = None) -> Split:
    """The images that `recipe` trains and tests on, with the pixels that its keys ask for; else as `open_data`."""
    return _opened(recipe.dataset, root, replace(wanted_by(recipe), cache=cache))


def wanted_by(recipe: Recipe) -> Wanted:
    """What the keys of `recipe` ask of the pixels."""
    keys = {name: getattr(recipe, name) for name in ("resize", "mode", "mean", "std", "decode", "strict", "reading")}
    return Wanted(recipe.sides(), **keys, pictures=None if recipe.crop == "auto" else recipe.crop == "resized")


def open_labelled(dataset: str, root: Path | None, preprocess: Preprocess, part: str = "test") -> Labelled:
    """The images of a `part` of `dataset` (test, train, all), none of them read yet, for evaluation by `preprocess`.

    They are those that `open_data` finds, and the files of class folders where it would need more than these: there may
    be one part alone, and one class. Raises BbgError as `open_data` does, and for images without labels.
    """
    if part not in PARTS:
        raise BbgError(f"part is {part!r}, {allowed(part, PARTS)}")
    entry = DATASETS.get(dataset)
    folder = root is not None and os.path.isdir(root)  # False for a name that is too long, where is_dir() raises
    if entry is not None and entry.task != "classification":
        raise BbgError(f"the images of {dataset!r} have no class each; they are for the task {entry.task!r}")
    if entry is not None and entry.needs_folder and root is not None and folder:
        published = entry.archive is not None and (root / entry.archive).is_dir() and not (root / "train").is_dir()
        if not published:
            try:
                return (entry.labelled or labelled_files)(root, preprocess, part)
            except OSError as e:
                raise unreadable(root, e) from e
    if entry is not None and not entry.needs_folder and root is not None:
        raise BbgError(
            f"dataset {dataset!r} comes with bbg and needs no --data; leave it out, or say --dataset folders to score "
            "the images of that folder"
        )
    split = open_data(dataset, root)
    halves: dict[str, Dataset] = {"train": split.train, "test": split.test}
    return labelled_images(halves if part == "all" else {part: halves[part]}, preprocess)


def layout_of(root: Path, dataset: str | None = None) -> Layout:
    """How the images with boxes in `root` lie there: as `dataset` has it, or else as they look to.

    BbgError where `dataset` has no boxes, or nothing looks like one that has.
    """
    layouts = {name: entry.layout for name, entry in DATASETS.items() if entry.layout is not None}
    if dataset is not None:
        if dataset not in layouts:
            raise BbgError(f"the images of {dataset!r} have no boxes; {allowed(dataset, layouts)}")
        return layouts[dataset]
    for layout in layouts.values():
        if layout.fits(root):
            return layout
    raise BbgError(
        f"{str(root)!r} has no images with boxes in a layout that is known ({', '.join(layouts)}): no folders "
        "'Annotations' and 'JPEGImages', no folder 'labels' or file 'data.yaml', no JSON file; give the folder of one"
    )


def open_boxed(
    root: Path | None,
    preprocess: Preprocess,
    part: str = "test",
    classes: Sequence[str] | None = None,
    dataset: str | None = None,
) -> BoxSet:
    """The images of `part` (test, train, all) with their boxes, for evaluation by `preprocess`.

    `classes`: of the network, whose numbers the boxes get; None: those of the set. `dataset`: the name of the layout,
    None for that which `root` looks to have. BbgError for a missing folder, one in no such layout, and boxes of a class
    that the network does not have.
    """
    if root is None or not root.is_dir():
        raise BbgError("images with boxes are read from a folder; say which with --data DIR")
    return boxed_images(layout_of(root, dataset), root, preprocess, part, classes)


def title_of(dataset: str, root: Path | None) -> str:
    """What people call the images: "CIFAR-10", but "CIFAR-10 (JPEG)" where `root` has files of that format instead.

    Of class folders it is the name of `root`.
    """
    entry = DATASETS.get(dataset)
    if entry is None or root is None or not entry.needs_folder:
        return dataset if entry is None else entry.title or dataset
    if not entry.title:
        return root.resolve().name
    if entry.archive is not None and (root / entry.archive).is_dir() and not (root / "train").is_dir():
        return entry.title
    endings = {path.suffix.lower().lstrip(".") for path in islice((root / "train").glob("*/*"), 100)} - {""}
    format_ = "JPEG" if endings and endings <= {"jpg", "jpeg"} else "files of its own"
    return f"{entry.title} ({format_})"


def unreadable(root: Path, error: OSError) -> BbgError:
    """What to say of a folder that the system does not let one read."""
    came = f"cannot read {str(error.filename or root)!r}: {error.strerror}"
    return BbgError(f"{came}; --data takes a readable folder")


def _opened(dataset: str, root: Path | None, wanted: Wanted) -> Split:
    if dataset not in DATASETS:
        raise BbgError(f"unknown dataset {dataset!r}; {allowed(dataset, DATASETS)}")
    entry = DATASETS[dataset]
    if not entry.needs_folder:
        root = Path()
    if root is None:
        raise BbgError(f"dataset {dataset!r} is read from a folder; say which with --data DIR")
    try:
        if not root.is_dir():
            raise BbgError(f"no folder {str(root)!r}; --data takes the folder that holds the images of {dataset!r}")
        if entry.layout is not None and not entry.layout.fits(root):
            others = [name for name, one in DATASETS.items() if one.layout is not None and one.layout.fits(root)]
            if others:
                raise BbgError(
                    f"{str(root)!r} looks like {others[0]!r}, not {dataset!r}; say --set dataset={others[0]}"
                )
        split = entry.open(root, wanted)
    except OSError as e:
        raise unreadable(root, e) from e
    preprocess = wanted.over(split.preprocess)
    split = Split(*(brought(half, preprocess) for half in split))
    if not wanted.measured:
        return split
    mean, std = statistics(split.train)
    measured = replace(preprocess, mean=mean, std=std)
    return Split(*(brought(half, measured) for half in split))


def needs_folder(dataset: str) -> bool:
    """Whether the images of `dataset` are read from a folder (those of an unknown set are)."""
    return dataset not in DATASETS or DATASETS[dataset].needs_folder
