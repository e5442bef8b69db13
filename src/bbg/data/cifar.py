"""CIFAR-10 and CIFAR-100 in their official layout, and images in one folder per class."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from bbg.data.sets import ImageSet, Split
from bbg.errors import BbgError
from bbg.image import Preprocess


def cifar(root: Path, dataset: str) -> Split:
    """CIFAR as published: `cifar-10-batches-py` or `cifar-100-python` inside `root`, through torchvision.

    The files are pickles, so each is read only after its MD5 checksum matched torchvision's list (`checksums`).
    """
    from torchvision.datasets import CIFAR10, CIFAR100

    kind = {"cifar10": CIFAR10, "cifar100": CIFAR100}[dataset]

    def read(train: bool) -> tuple[ImageSet, Any]:
        try:
            found = kind(str(root), train=train, download=False)
        except RuntimeError as e:
            raise BbgError(
                f"{str(root)!r} holds no intact {kind.base_folder!r}, its files with the published checksums; unpack "
                "the official archive there, or give a folder of train/<class> and test/<class>"
            ) from e
        return ImageSet(np.ascontiguousarray(found.data), np.asarray(found.targets, np.int64)), found

    train, _ = read(True)
    test, found = read(False)
    return Split(train, test, tuple(found.classes), Preprocess.of(dataset))
