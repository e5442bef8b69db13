"""A data set of very many encoded images, in files or in tar shards: listed by arrays, each decoded when it is read."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import numpy as np

from bbg.data.damage import Damage, Skipped
from bbg.errors import BbgError
from bbg.image import Preprocess, reason_of

READ = 100  # images of a set whose contents tell it from others
TRIES = 100  # images of its class that may stand in for a damaged one, one after the other

Decode = Callable[[Path | bytes], np.ndarray]


class Store(Protocol):
    """Where encoded images lie, by number."""

    def name(self, number: int) -> str:
        """What messages call the image."""

    def source(self, number: int) -> Path | bytes:
        """What the image is decoded from; BbgError, which has the name, where it cannot be read."""

    def content(self, number: int) -> bytes:
        """The image file as it is; BbgError, which has the name, where it cannot be read."""

    def stream(self) -> tuple[np.ndarray, np.ndarray] | None:
        """The shard of each image, and its place in the shard, int64 `[N]` each; None where there are no shards."""


@dataclass(frozen=True)
class EncodedSet:
    """The images `numbers` of `store`, of the classes `labels`, int64 `[N]` each.

    A damaged image does not end a training: the next readable one of its class, in the order of the set, stands in for
    it, in every epoch the same one. `damage` has its name and why; it is among `skipped` from then on. Where `strict`
    is true, where the `TRIES` images behind it cannot be read either, and where it is the only one of its class, a
    damaged image is a BbgError.

    `sequential`: training reads shard after shard (`bbg.data.order`), for disks that are slow at jumping.
    """

    store: Store = field(repr=False)
    numbers: np.ndarray = field(repr=False)
    labels: np.ndarray = field(repr=False)
    classes: tuple[str, ...]
    preprocess: Preprocess
    left_out: tuple[Skipped, ...] = ()
    strict: bool = False
    sequential: bool = False
    damage: Damage = field(default_factory=Damage, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def skipped(self) -> tuple[Skipped, ...]:
        """The files left out, and the images that turned out damaged so far."""
        return (*self.left_out, *self.damage.since())

    def read(self, index: int) -> tuple[np.ndarray, int]:
        """Image and label number `index`."""
        return self._decoded(index, self.preprocess.apply), int(self.labels[index])

    def picture(self, index: int) -> np.ndarray:
        """Image `index` before it is resized."""
        return self._decoded(index, self.preprocess.picture)

    def name(self, index: int) -> str:
        """What messages call image `index`."""
        return self.store.name(int(self.numbers[index]))

    def content(self, index: int) -> bytes:
        """The file of image `index` as it is; BbgError, which names it, where it cannot be read."""
        return self.store.content(int(self.numbers[index]))

    def decode(self, index: int, by: Decode) -> np.ndarray:
        """Image `index` itself, decoded by a method of `preprocess`; BbgError, which names it, where it is damaged."""
        number = int(self.numbers[index])
        source = self.store.source(number)
        try:
            return by(source)
        except BbgError as error:
            if isinstance(source, Path):
                raise
            name = self.store.name(number)
            raise BbgError(f"{name}: {str(error).removeprefix('image: ')}") from None

    def _decoded(self, index: int, by: Decode) -> np.ndarray:
        try:
            return self.decode(index, by)
        except BbgError as error:
            if self.strict:
                raise
            name = self.name(index)
            self.damage.add([(name, reason_of(name, str(error)))])
            others = np.flatnonzero(self.labels == self.labels[index])
            others = np.roll(others, -1 - int(np.searchsorted(others, index)))[:-1]
            for other in others[:TRIES].tolist():
                with suppress(BbgError):
                    return self.decode(other, by)
            tried = min(len(others), TRIES)
            raise BbgError(
                f"{error}; {tried} others of its class, which would stand in, cannot be read either"
            ) from None

    def part(self, indices: np.ndarray) -> EncodedSet:
        """The images that have these indices, in that order; what is found damaged is noted for both."""
        return replace(self, numbers=self.numbers[indices], labels=self.labels[indices])

    def digest(self) -> str:
        """A hash of classes, labels, and the contents of some images, evenly spread.

        It asks for no size of a file: on a remote disk that takes an hour for a million. It is the same for images in
        folders and in the shards made of them.
        """
        found = hashlib.sha256("\0".join(self.classes).encode(errors="surrogateescape"))
        found.update(np.ascontiguousarray(self.labels, "<i8").data)
        for index in sorted(set(np.linspace(0, max(len(self) - 1, 0), READ).round().astype(int).tolist())):
            if index < len(self):
                with suppress(BbgError):  # which is told when the image is read
                    found.update(hashlib.sha256(self.content(index)).digest())
        return found.hexdigest()[:16]

    def stream(self) -> tuple[np.ndarray, np.ndarray] | None:
        """The shard of each image and its place there, where training reads them one after the other; else None."""
        places = self.store.stream() if self.sequential else None
        return None if places is None else (places[0][self.numbers], places[1][self.numbers])
