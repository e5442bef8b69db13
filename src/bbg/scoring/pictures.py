"""A stream of images through a segmentation or a detection: one image for each thread, in bounded memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from functools import partial
from typing import TypeVar

import numpy as np

from bbg.engine import Engine, boxes_of, mask_of
from bbg.errors import BbgError
from bbg.heads import Box
from bbg.image import Source, image_size
from bbg.masks import Mask
from bbg.scoring.stages import Stages
from bbg.sources import Image, Url
from bbg.threads import pool

OVERLAP = 0.45  # of two boxes of one class, as `Engine.detect` has it

Answer = TypeVar("Answer")
Made = TypeVar("Made")


def masks(
    engine: Engine,
    images: Iterable[tuple[str, Image]],
    make: Callable[[Mask, Source], Made],
    threads: int | None = None,
    stages: Stages | None = None,
) -> Iterator[tuple[str, Made | BbgError]]:
    """For each named image, in their order, what `make` makes of its mask and the image, or why it cannot be read.

    `threads`: that decode images, call the engine and `make`; None: as many as the engine has. In memory are what was
    made of two images more than there are threads, and these images. `stages` counts the time of each stage. Raises
    BbgError as `Engine.segment` does for a network that has no preprocessing or whose head is no segmentation.
    """
    engine.segment([])  # raises where the network cannot
    return _each(engine, partial(mask_of, engine), make, images, threads, stages)


def boxes(
    engine: Engine,
    images: Iterable[tuple[str, Image]],
    make: Callable[[list[Box], Source], Made],
    threads: int | None = None,
    score: float = 0.5,
    stages: Stages | None = None,
) -> Iterator[tuple[str, Made | BbgError]]:
    """As `masks`, with the boxes whose probability is at least `score`; BbgError as `Engine.detect` raises it."""
    engine.detect([], score)
    return _each(engine, partial(boxes_of, engine, score=score, iou=OVERLAP), make, images, threads, stages)


def _each(
    engine: Engine,
    answer: Callable[[dict[str, np.ndarray], tuple[int, int]], Answer],
    make: Callable[[Answer, Source], Made],
    images: Iterable[tuple[str, Image]],
    threads: int | None,
    stages: Stages | None,
) -> Iterator[tuple[str, Made | BbgError]]:
    preprocess, threads = engine.preprocess, threads or engine.threads
    clock = Stages() if stages is None else stages
    assert preprocess is not None

    def through(image: Source) -> Made:
        with clock("decoding"):
            pixels, size = preprocess.apply(image)[None], image_size(image)
        with clock("network"):
            outputs = engine.run(pixels)
        with clock("answer"):
            found = answer(outputs, size)
        with clock("drawing"):
            return make(found, image)

    def one(image: Image) -> Made | BbgError:
        try:
            if isinstance(image, BbgError):
                return image
            if isinstance(image, Url):
                from bbg.sources.web import fetch  # its imports take longer than the engine's start

                image = fetch(image)
            return through(image)
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
