"""The order of the images in an epoch: drawn anew, or along the shards with a bounded shuffle."""

from __future__ import annotations

import numpy as np

from bbg.data.augment import ORDER, SHARD, draw, permutation
from bbg.data.encoded import EncodedSet
from bbg.data.sets import Dataset

BUFFER = 10_000  # images of a sequential reading among which neighbours are shuffled


def order_of(data: Dataset, seed: int, epoch: int, buffer: int = BUFFER) -> np.ndarray:
    """The indices of `data` in the order of an epoch: a function of (seed, epoch), of the shards, and of `buffer`."""
    places = data.stream() if isinstance(data, EncodedSet) else None
    return permutation(seed, epoch, len(data)) if places is None else along(*places, seed, epoch, buffer)


def along(shards: np.ndarray, places: np.ndarray, seed: int, epoch: int, buffer: int) -> np.ndarray:
    """Images in the order of a reader that goes through one shard after the other, in drawn turn, and shuffles a bit.

    `shards`, `places`: of each image. Image t of that stream is moved back by a number drawn from 0 to `buffer`. So no
    image comes `buffer` or more places before or behind its turn, and only the shards of a window of twice that size
    are open at a time. Since it is a list of indices, it is entered at any step, and shared among processes, as every
    other order.
    """
    numbers, of = np.unique(shards, return_inverse=True)
    turn = np.argsort(np.argsort(draw(seed, epoch, numbers, SHARD), kind="stable"), kind="stable")
    stream = np.lexsort((places, turn[of]))
    delay = draw(seed, epoch, stream, ORDER) / 2.0**64 * buffer
    return stream[np.argsort(np.arange(len(stream)) + delay, kind="stable")]
