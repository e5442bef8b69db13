"""A stream of images through a segmentation or a detection: one image for each thread, in bounded memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from typing import TypeVar

from bbg.engine import Engine
from bbg.errors import BbgError
from bbg.heads import Box
from bbg.image import Source
from bbg.masks import Mask
from bbg.sources import Image, Url
from bbg.threads import pool

Made = TypeVar("Made")


def masks(
    engine: Engine,
    images: Iterable[tuple[str, Image]],
    make: Callable[[Mask, Source], Made],
    threads: int | None = None,
) -> Iterator[tuple[str, Made | BbgError]]:
    """For each named image, in their order, what `make` makes of its mask and the image, or why it cannot be read.

    `threads`: that decode images, call the engine and `make`; None: as many as the engine has. In memory are what was
    made of two images more than there are threads, and these images. Raises BbgError as `Engine.segment` does for a
    network that has no preprocessing or whose head is no segmentation.
    """
    engine.segment([])  # raises where the network cannot
    return _each(lambda image: make(engine.segment(image), image), images, threads or engine.threads)


def boxes(
    engine: Engine,
    images: Iterable[tuple[str, Image]],
    make: Callable[[list[Box], Source], Made],
    threads: int | None = None,
    score: float = 0.5,
) -> Iterator[tuple[str, Made | BbgError]]:
    """As `masks`, with the boxes whose probability is at least `score`; BbgError as `Engine.detect` raises it."""
    engine.detect([], score)
    return _each(lambda image: make(engine.detect(image, score), image), images, threads or engine.threads)


def _each(
    answer: Callable[[Source], Made], images: Iterable[tuple[str, Image]], threads: int
) -> Iterator[tuple[str, Made | BbgError]]:
    def one(image: Image) -> Made | BbgError:
        try:
            if isinstance(image, BbgError):
                return image
            if isinstance(image, Url):
                from bbg.sources.web import fetch  # its imports take longer than the engine's start

                image = fetch(image)
            return answer(image)
        except BbgError as error:
            return error

    working: deque[tuple[str, Future[Made | BbgError]]] = deque()
    with pool(threads) as workers:
        for name, image in images:
            working.append((name, workers.submit(one, image)))
            if len(working) >= threads + 2:
                first, found = working.popleft()
                yield first, found.result()
        for first, found in working:
            yield first, found.result()
