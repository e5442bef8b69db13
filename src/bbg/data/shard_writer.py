"""Tar shards of an image set: its files as they are, with the numbers of their classes."""

from __future__ import annotations

import json
import os
import shutil
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bbg.data.encoded import EncodedSet
from bbg.data.imagenet import NAMES
from bbg.data.sets import Split
from bbg.data.shards import open_shards
from bbg.data.tar import BLOCK
from bbg.errors import BbgError
from bbg.files import locked, write_text
from bbg.log import Bar

HALVES = {"train": "train", "test": "val"}  # of a set, and what the shards are called
PART = ".bbg-part"  # the ending of the folder that is written


class Written(NamedTuple):
    """What was written of a half: images, shards, and their bytes."""

    images: int
    shards: int
    bytes: int


def write_shards(split: Split, out: Path, size: int, seed: int = 0) -> dict[str, Written]:
    """Write `split` as shards of at most `size` bytes into the folder `out`, which is not there yet, or is empty.

    A sample is `00000012.jpg`, the file of image 12 as it is, `00000012.cls` and `00000012.json`, which has the name of
    the file. In the shards the images are shuffled by `seed`, so that one can read along them; their numbers keep the
    order of the set. `out` appears whole or not at all. It has `classes.txt` and the indices too.

    Raises BbgError where `out` holds something, cannot be written, or is in use, where a file cannot be read, and for
    a set whose images are no files.
    """
    sets = {name: data for name, data in zip(HALVES, split, strict=True) if isinstance(data, EncodedSet)}
    if len(sets) < len(HALVES):
        raise BbgError("shards are made of image files as they are, and this set has pixels; take --dataset imagenet")
    if any("\n" in name for name in split.classes):
        raise BbgError("the name of a class has more than one line; rename its folder")
    try:
        with _folder(out) as draft:
            write_text(draft / NAMES, "".join(f"{name}\n" for name in split.classes))
            written = {half: _write_half(data, draft, HALVES[half], size, seed) for half, data in sets.items()}
            for half, data in sets.items():
                _check(data, draft, half)
    except OSError as error:
        raise BbgError(f"cannot write shards to {str(out)!r}: {error.strerror}; give another --out") from error
    return written


@contextmanager
def _folder(out: Path) -> Iterator[Path]:
    """A folder that becomes `out` at the end; what a killed process left of it is removed."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise BbgError(f"{str(out)!r} holds something already; give --out a new folder")
    out = Path(os.path.realpath(out))
    draft = out.with_name(f".{out.name}{PART}")
    draft.mkdir(parents=True, exist_ok=True)
    with locked(draft):
        try:
            for left in draft.iterdir():
                left.unlink()
            yield draft
            os.replace(draft, out)  # also over an empty folder
        except BaseException:
            shutil.rmtree(draft, ignore_errors=True)
            raise


def _write_half(data: EncodedSet, folder: Path, word: str, size: int, seed: int) -> Written:
    order = np.random.Generator(np.random.PCG64(seed)).permutation(len(data))
    shards, room, tar = 0, 0, None
    with Bar(f"writing shards of {word}", len(data)) as bar:
        try:
            for index in order.tolist():
                members = list(_members(data, index))
                needed = sum(BLOCK + -(-len(content) // BLOCK) * BLOCK for _, content in members)  # head, contents
                if tar is None or needed > room:
                    if tar is not None:
                        tar.close()
                    tar = tarfile.open(folder / f"{word}-{shards:06d}.tar", "x:", format=tarfile.PAX_FORMAT)  # noqa: SIM115
                    shards, room = shards + 1, size - tarfile.RECORDSIZE
                for name, content in members:
                    info = tarfile.TarInfo(name)
                    info.size = len(content)
                    tar.addfile(info, BytesIO(content))
                room -= needed
                bar.step()
        finally:
            if tar is not None:
                tar.close()
    return Written(len(data), shards, sum(path.stat().st_size for path in folder.glob(f"{word}-*.tar")))


def _members(data: EncodedSet, index: int) -> Iterator[tuple[str, bytes]]:
    """The members of a sample: their names and contents."""
    name = data.name(index)
    ending = os.path.splitext(name)[1].lower()
    yield f"{index:08d}{ending}", data.content(index)
    yield f"{index:08d}.cls", str(int(data.labels[index])).encode()
    yield f"{index:08d}.json", json.dumps({"file": os.sep.join(name.split(os.sep)[-3:])}).encode()


def _check(data: EncodedSet, folder: Path, half: str) -> None:
    """Read the headers of what was written, which makes the index, and compare."""
    store, skipped = open_shards(folder, half)
    same = not skipped and np.array_equal(store.labels, data.labels)
    for index in {0, len(data) // 2, len(data) - 1}:
        same = same and sha256(store.content(index)).digest() == sha256(data.content(index)).digest()
    if not same:
        raise BbgError(f"the images of {half} were changed while they were written; try again")


def bytes_of(text: str) -> int:
    """A size as people write it, `256M` or `1G` (powers of 1,024), in bytes; ValueError for anything else."""
    units = "KMG"
    unit = units.find(text[-1:].upper()) if text[-1:] else -1
    number = text if unit < 0 else text[:-1]
    if not number.isdecimal() or not 0 < int(number) < 2**40:
        raise ValueError(f"{text!r} is no size")
    return int(number) << 10 * (unit + 1)
