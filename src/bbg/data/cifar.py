"""CIFAR-10 and CIFAR-100 in their official layout."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from bbg.data.folders import folders
from bbg.data.sets import Entry, ImageSet, Split
from bbg.errors import BbgError
from bbg.image import Preprocess


def cifar(root: Path, how: int | Preprocess, dataset: str) -> Split:
    """CIFAR as published: `cifar-10-batches-py` or `cifar-100-python` inside `root`, through torchvision.

    The files are pickles, so each is read only after its MD5 checksum matched torchvision's list. A `root` that holds
    class folders instead (`train/<class>/*`) is read as such, `how` says at which size.
    """
    if (root / "train").is_dir():
        return folders(root, how)
    from torchvision.datasets import CIFAR10, CIFAR100

    kind = {"cifar10": CIFAR10, "cifar100": CIFAR100}[dataset]

    def read(train: bool) -> ImageSet:
        try:
            found = kind(str(root), train=train, download=False)
        except RuntimeError as e:
            raise BbgError(
                f"{str(root)!r} holds no intact {kind.base_folder!r}, its files with the published checksums; unpack "
                "the official archive there, or give a folder of train/<class> and test/<class>"
            ) from e
        images, labels = np.ascontiguousarray(found.data), np.asarray(found.targets, np.int64)
        return ImageSet(images, labels, tuple(found.classes), Preprocess.of(dataset))

    return Split(read(True), read(False))


CIFAR10 = Entry(partial(cifar, dataset="cifar10"))
CIFAR100 = Entry(partial(cifar, dataset="cifar100"))
