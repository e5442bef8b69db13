"""A stream of images through an engine: in batches, in bounded memory, decoded while the engine computes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import numpy as np

from bbg.cpu import cores
from bbg.engine import Engine, Prediction
from bbg.errors import BbgError

BATCH = 32

Item = TypeVar("Item")


def predictions(
    engine: Engine, images: Iterable[tuple[str, str | bytes]], top: int = 5, batch: int = BATCH
) -> Iterator[tuple[str, list[Prediction] | BbgError]]:
    """For each named image, in their order, the `top` classes, or the error that says why it cannot be read.

    At most three batches of decoded pixels are in memory, however many images there are. Raises BbgError as
    `Engine.predict` does for a network that has no preprocessing or no scores.
    """
    engine.predict([], top)  # raises where the network cannot
    assert engine.preprocess is not None
    assert engine.head is not None
    apply, head = engine.preprocess.apply, engine.head

    def run(pixels: np.ndarray) -> list[list[Prediction]]:
        (logits,) = engine.run(pixels).values()
        return head.predict(logits, engine.labels, top)

    for (name, _), answer in through(lambda image: apply(image[1]), run, images, batch):
        yield name, answer


Answer = TypeVar("Answer")


def through(
    read: Callable[[Item], np.ndarray],
    run: Callable[[np.ndarray], Iterable[Answer]],
    items: Iterable[Item],
    batch: int = BATCH,
) -> Iterator[tuple[Item, Answer | BbgError]]:
    """Each of `items`, in their order, with what `run` makes of its pixels, or with the error that `read` raises.

    `read` decodes one item to uint8 `[H, W, C]`; threads call it. `run` takes those of a batch, `[N, H, W, C]`, and
    makes N answers. At most three batches of pixels are in memory.
    """

    def decode(item: Item) -> np.ndarray | BbgError:
        try:
            return read(item)
        except BbgError as error:
            return error

    with ThreadPoolExecutor(cores()) as pool:
        reading: deque[tuple[Item, Future[np.ndarray | BbgError]]] = deque()
        stream = iter(items)
        while True:
            while len(reading) < 2 * batch:
                try:
                    item = next(stream)
                except StopIteration:
                    break
                reading.append((item, pool.submit(decode, item)))
            if not reading:
                return
            taken = [reading.popleft() for _ in range(min(batch, len(reading)))]
            part = [(item, pixels.result()) for item, pixels in taken]
            readable = [pixels for _, pixels in part if isinstance(pixels, np.ndarray)]
            answers = iter(run(np.stack(readable)) if readable else ())
            for item, pixels in part:
                yield item, next(answers) if isinstance(pixels, np.ndarray) else pixels
