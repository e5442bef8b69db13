"""CIFAR-10 and CIFAR-100 in their official layout."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bbg.data.folders import folders
from bbg.data.sets import Entry, ImageSet, Split, Wanted
from bbg.errors import BbgError
from bbg.image import Preprocess


class Archive(NamedTuple):
    """What an official archive unpacks to: a folder of pickles, with the MD5 checksums that its authors publish.

    `train`, `test`: the files of either half with their checksums, in order. `meta`: that of the file of class names.
    `labels`, `names`: the entries of these files that hold the labels of the images, and the names of the classes.
    """

    folder: str
    train: Mapping[str, str]
    test: Mapping[str, str]
    meta: tuple[str, str]
    labels: str
    names: str


ARCHIVES = {
    "cifar10": Archive(
        "cifar-10-batches-py",
        {
            "data_batch_1": "c99cafc152244af753f735de768cd75f",
            "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
            "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
            "data_batch_4": "634d18415352ddfa80567beed471001a",
            "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
        },
        {"test_batch": "40351d587109b95175f43aff81a1287e"},
        ("batches.meta", "5ff9c542aee3614f3951f8cda6e48888"),
        "labels",
        "label_names",
    ),
    "cifar100": Archive(
        "cifar-100-python",
        {"train": "16019d7e3df5f24257cddd939b257f8d"},
        {"test": "f0ef6b0ae62326f3e7ffdfab6717acfc"},
        ("meta", "7973b15100ade9c7d40fb424638fde48"),
        "fine_labels",
        "fine_label_names",
    ),
}


def cifar(root: Path, wanted: Wanted, dataset: str) -> Split:
    """CIFAR as published: `cifar-10-batches-py` or `cifar-100-python` inside `root`.

    The files are pickles, which can run code, so each is read only after its checksum matched the published one. A
    `root` that holds class folders instead (`train/<class>/*`) is read as such, at 32 x 32 pixels unless `wanted` says
    otherwise.
    """
    if (root / "train").is_dir():
        own = Preprocess.of("cifar10")
        return folders(root, replace(wanted, size=wanted.size or own.size, resize=wanted.resize or 0))
    archive = ARCHIVES[dataset]
    contents = {
        name: _intact(root / archive.folder / name, checksum)
        for name, checksum in {**archive.train, **archive.test, archive.meta[0]: archive.meta[1]}.items()
    }
    classes = tuple(contents[archive.meta[0]][archive.names])

    def half(names: Mapping[str, str]) -> ImageSet:
        rows = np.concatenate([contents[name]["data"] for name in names])
        images = np.ascontiguousarray(rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
        labels = np.concatenate([np.asarray(contents[name][archive.labels], np.int64) for name in names])
        return ImageSet(images, labels, classes, Preprocess.of(dataset))

    return Split(half(archive.train), half(archive.test))


def _intact(path: Path, checksum: str) -> dict[str, Any]:
    """What the file holds, where it is the published one."""
    content = path.read_bytes() if path.is_file() else b""
    if hashlib.md5(content, usedforsecurity=False).hexdigest() != checksum:
        raise BbgError(
            f"{str(path.parents[1])!r} holds no intact {path.parent.name!r}, its files with the published checksums: "
            f"{path.name!r} is {'another' if content else 'missing'}; unpack the official archive there, or give a "
            "folder of train/<class> and test/<class>"
        )
    found: dict[str, Any] = pickle.loads(content, encoding="latin1")
    return found


CIFAR10 = Entry(partial(cifar, dataset="cifar10"), archive=ARCHIVES["cifar10"].folder, title="CIFAR-10")
CIFAR100 = Entry(partial(cifar, dataset="cifar100"), archive=ARCHIVES["cifar100"].folder, title="CIFAR-100")
