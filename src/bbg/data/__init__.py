"""Image sets held in memory as uint8, and the loader that feeds augmented batches from them."""

from __future__ import annotations

from pathlib import Path

from bbg.data.augment import Batches
from bbg.data.cifar import cifar
from bbg.data.digits import digits
from bbg.data.folders import folders
from bbg.data.sets import ImageSet, Split
from bbg.errors import BbgError

__all__ = ["DATASETS", "Batches", "ImageSet", "Split", "open_data"]

DATASETS = ("cifar10", "cifar100", "folders", "digits")


def open_data(dataset: str, root: Path | None, size: int = 32) -> Split:
    """The training and test images of `dataset`: one of DATASETS.

    `root`: the folder that holds `cifar-10-batches-py` (or `cifar-100-python`) or, for `folders`, `train/<class>/*` and
    `test/<class>/*`, whose images are brought to `size` x `size`. A CIFAR `root` that holds class folders instead is
    read as such. `digits` needs no folder. Raises BbgError for a missing or unreadable folder or an unknown name.
    """
    if dataset == "digits":
        return digits()
    if dataset not in DATASETS:
        raise BbgError(f"unknown dataset {dataset!r}; allowed are {', '.join(DATASETS)}")
    if root is None:
        raise BbgError(f"dataset {dataset!r} is read from a folder; say which with --data DIR")
    try:
        if not root.is_dir():
            raise BbgError(f"no folder {str(root)!r}; --data takes the folder that holds the images of {dataset!r}")
        if dataset == "folders" or (root / "train").is_dir():
            return folders(root, size)
        return cifar(root, dataset)
    except OSError as e:
        raise BbgError(f"cannot read {str(e.filename or root)!r}: {e.strerror}; --data takes a readable folder") from e
