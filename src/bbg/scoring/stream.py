"""A stream of images through the network: in batches, in bounded memory, on all cores.

Each thread decodes a batch and then runs it, and calls of one engine run side by side. So no thread waits for another,
whichever of both takes longer: N cores give N / (decode time + network time).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from itertools import islice
from typing import TypeVar

import numpy as np

from bbg.cpu import cores
from bbg.engine import Engine, Prediction
from bbg.errors import BbgError
from bbg.heads import Classification
from bbg.scoring.stages import Stages
from bbg.sources import Image, Url
from bbg.threads import pool

BATCH = 32

Item = TypeVar("Item")
Answer = TypeVar("Answer")


def predictions(
    engine: Engine,
    images: Iterable[tuple[str, Image]],
    top: int = 5,
    batch: int = BATCH,
    threads: int | None = None,
    stages: Stages | None = None,
) -> Iterator[tuple[str, list[Prediction] | BbgError]]:
    """For each named image, in their order, the `top` classes, or the error that says why it cannot be read.

    `threads`: that decode images and call the engine; None: as many as the engine has. Memory is that of `through`.
    `stages` counts the time of each stage. Raises BbgError as `Engine.predict` does for a network that has no
    preprocessing or no scores.
    """
    engine.predict([], top)  # raises where the network cannot
    preprocess, head, labels = engine.preprocess, engine.head, engine.labels
    assert preprocess is not None
    clock = Stages() if stages is None else stages
    if not isinstance(head, Classification):
        raise BbgError("the network names no class of an image; bbg.scoring.masks and .boxes give what it makes")

    def small(images: Iterable[tuple[str, Image]]) -> Iterator[tuple[str, Image]]:
        """The same with the pixels of each frame as the network sees them: large ones must not wait in memory."""
        for name, image in images:
            try:
                yield name, preprocess.apply(image) if isinstance(image, np.ndarray) else image
            except BbgError as error:
                yield name, error

    def read(named: tuple[str, Image]) -> np.ndarray:
        image = named[1]
        if isinstance(image, BbgError):
            raise image
        if isinstance(image, np.ndarray):
            return image
        if isinstance(image, Url):
            from bbg.sources.web import fetch  # its imports take longer than the engine's start

            image = fetch(image)
        with clock("decoding"):
            return preprocess.apply(image)

    def run(pixels: np.ndarray) -> list[list[Prediction]]:
        with clock("network"):
            (logits,) = engine.run(pixels).values()
        with clock("answer"):
            return head.predict(logits, labels, top)

    for (name, _), answer in through(read, run, small(images), batch, threads or engine.threads):
        yield name, answer


def through(
    read: Callable[[Item], np.ndarray],
    run: Callable[[np.ndarray], Iterable[Answer]],
    items: Iterable[Item],
    batch: int = BATCH,
    threads: int | None = None,
) -> Iterator[tuple[Item, Answer | BbgError]]:
    """Each of `items`, in their order, with what `run` makes of its pixels, or with the error that `read` raises.

    `read` decodes one item to uint8 `[H, W, C]`. `run` takes those of a batch, `[N, H, W, C]`, and makes N answers.
    Both are called by `threads` threads, None for one per core. In memory are the pixels of one batch for each of them,
    and two batches more.
    """

    def decode(item: Item) -> np.ndarray | BbgError:
        try:
            return read(item)
        except BbgError as error:
            return error

    def work(part: list[Item]) -> list[Answer | BbgError]:
        pixels = [decode(item) for item in part]
        readable = [one for one in pixels if isinstance(one, np.ndarray)]
        answers = iter(run(np.stack(readable)) if readable else ())
        return [next(answers) if isinstance(one, np.ndarray) else one for one in pixels]

    stream, threads = iter(items), cores() if threads is None else threads
    working: deque[tuple[list[Item], Future[list[Answer | BbgError]]]] = deque()
    size, parts = 1, 0
    with pool(threads) as workers:
        while True:
            while len(working) < threads + 2 and (part := list(islice(stream, size))):
                working.append((part, workers.submit(work, part)))
                parts += 1
                if parts % threads == 0:  # small ones at first: few images are shared evenly too
                    size = min(2 * size, batch)
            if not working:
                return
            part, answers = working.popleft()
            yield from zip(part, answers.result(), strict=True)
