"""Data sets by name. The sets need no torch; the loader that feeds them to a training does (`bbg.data.loader`)."""

from __future__ import annotations

from pathlib import Path

from bbg.data.cifar import CIFAR10, CIFAR100
from bbg.data.digits import DIGITS
from bbg.data.folders import FOLDERS
from bbg.data.sets import Dataset, Entry, FileSet, ImageSet, Split, brought, read_batch
from bbg.errors import BbgError, allowed
from bbg.image import Preprocess

__all__ = ["DATASETS", "Dataset", "FileSet", "ImageSet", "Split", "needs_folder", "open_data", "read_batch"]

DATASETS: dict[str, Entry] = {
    "cifar10": CIFAR10,
    "cifar100": CIFAR100,
    "folders": FOLDERS,
    "digits": DIGITS,
}


def open_data(dataset: str, root: Path | None, size: int = 32, preprocess: Preprocess | None = None) -> Split:
    """The training and test images of `dataset`: one of DATASETS.

    `preprocess`: that of the model which the images are for, as its file or checkpoint holds it; None: the set's own.

    `root`: the folder that holds `cifar-10-batches-py` (or `cifar-100-python`) or, for `folders`, `train/<class>/*` and
    `test/<class>/*`, whose images are brought to `size` x `size`. A CIFAR `root` that holds class folders instead is
    read as such. `digits` needs no folder. Raises BbgError for a missing or unreadable folder or an unknown name.
    """
    if dataset not in DATASETS:
        raise BbgError(f"unknown dataset {dataset!r}; {allowed(dataset, DATASETS)}")
    entry = DATASETS[dataset]
    split = _opened(entry, dataset, root, size if preprocess is None else preprocess)
    return split if preprocess is None else Split(*(brought(half, preprocess) for half in split))


def _opened(entry: Entry, dataset: str, root: Path | None, how: int | Preprocess) -> Split:
    if not entry.needs_folder:
        return entry.open(Path(), how)
    if root is None:
        raise BbgError(f"dataset {dataset!r} is read from a folder; say which with --data DIR")
    try:
        if not root.is_dir():
            raise BbgError(f"no folder {str(root)!r}; --data takes the folder that holds the images of {dataset!r}")
        return entry.open(root, how)
    except OSError as e:
        raise BbgError(f"cannot read {str(e.filename or root)!r}: {e.strerror}; --data takes a readable folder") from e


def needs_folder(dataset: str) -> bool:
    """Whether the images of `dataset` are read from a folder (those of an unknown set are)."""
    return dataset not in DATASETS or DATASETS[dataset].needs_folder
