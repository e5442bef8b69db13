"""A stream of images through an engine: in batches, in bounded memory, decoded while the engine computes."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from bbg.cpu import cores
from bbg.engine import Engine, Prediction
from bbg.errors import BbgError

BATCH = 32


def predictions(
    engine: Engine, images: Iterable[tuple[str, str | bytes]], top: int = 5, batch: int = BATCH
) -> Iterator[tuple[str, list[Prediction] | BbgError]]:
    """For each named image, in their order, the `top` classes, or the error that says why it cannot be read.

    At most three batches of decoded pixels are in memory, however many images there are. Raises BbgError as
    `Engine.predict` does for a network that has no preprocessing or no scores.
    """
    engine.predict([], top)  # raises where the network cannot
    with ThreadPoolExecutor(cores()) as pool:
        reading: deque[tuple[str, Future[np.ndarray | BbgError]]] = deque()
        stream = iter(images)
        while True:
            while len(reading) < 2 * batch and (image := next(stream, None)) is not None:
                reading.append((image[0], pool.submit(_pixels, engine, image[1])))
            if not reading:
                return
            part = [
                (name, pixels.result()) for name, pixels in (reading.popleft() for _ in range(min(batch, len(reading))))
            ]
            yield from _scored(engine, part, top)


def _pixels(engine: Engine, source: str | bytes) -> np.ndarray | BbgError:
    assert engine.preprocess is not None
    try:
        return engine.preprocess.apply(source)
    except BbgError as error:
        return error


def _scored(
    engine: Engine, images: list[tuple[str, np.ndarray | BbgError]], top: int
) -> Iterator[tuple[str, list[Prediction] | BbgError]]:
    assert engine.head is not None
    pixels = [image for _, image in images if isinstance(image, np.ndarray)]
    ranked: Iterator[list[Prediction]] = iter(())
    if pixels:
        (logits,) = engine.run(np.stack(pixels)).values()
        ranked = iter(engine.head.predict(logits, engine.labels, top))
    for name, image in images:
        yield name, next(ranked) if isinstance(image, np.ndarray) else image
