"""A stream of images through a segmentation or a detection, on all cores and in bounded memory."""

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

BATCH, PIXELS = 8, 2**20  # images, and their pixels, that go through a network that detects at a time
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
    made of two images more than there are threads, these images, and the masks of as many. `stages` counts the time of
    each stage. Raises BbgError as `Engine.segment` does for a network that has no preprocessing or whose head is no
    segmentation.
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
    most = max(1, min(BATCH, PIXELS // (engine.input_shape[1] * engine.input_shape[2])))
    return _each(engine, partial(boxes_of, engine, score=score, iou=OVERLAP), make, images, threads, stages, most)


def _each(
    engine: Engine,
    answer: Callable[[dict[str, np.ndarray], tuple[int, int]], Answer],
    make: Callable[[Answer, Source], Made],
    images: Iterable[tuple[str, Image]],
    threads: int | None,
    stages: Stages | None,
    most: int = 1,
) -> Iterator[tuple[str, Made | BbgError]]:
    """Up to `most` images go through the network in one call, and each of them is drawn in a task of its own.

    Between two pictures that are decoded and drawn, the network's weights leave the caches: a small one takes half as
    long again.
    """
    threads = threads or engine.threads
    clock = Stages() if stages is None else stages

    def work(part: list[Image]) -> list[tuple[Answer, Source] | BbgError]:
        return _answers(engine, answer, part, clock)

    def drawn(one: tuple[Answer, Source] | BbgError) -> Made | BbgError:
        try:
            if isinstance(one, BbgError):
                return one
            with clock("drawing"):
                return make(*one)
        except BbgError as error:
            return error

    stream, ahead = iter(images), threads + 2
    parts: deque[tuple[list[str], Future[list[tuple[Answer, Source] | BbgError]]]] = deque()
    made: deque[tuple[str, Future[Made | BbgError]]] = deque()
    size, begun, frames, ended = 1, 0, False, False

    def more() -> bool:
        """Whether a part is to begin. As long as there is one for each thread, no thread waits for the next one.

        Frames wait in memory, and those of a camera for an answer: with them, what is made counts too.
        """
        return not ended and (len(parts) + len(made) < ahead or (len(parts) < threads and not frames))

    with pool(threads) as workers:
        while True:
            while more():
                part = _part(stream, size)
                ended = not part
                if part:
                    frames = isinstance(part[-1][1], np.ndarray)
                    parts.append(([name for name, _ in part], workers.submit(work, [image for _, image in part])))
                    begun += 1
                    if begun % threads == 0:  # small ones at first: few images are shared evenly too
                        size = min(2 * size, most)
            if not parts and not made:
                return
            while made and (len(made) >= ahead or made[0][1].done() or not parts):
                name, found = made.popleft()
                yield name, found.result()
                if not parts and not ended:
                    break
            if parts and len(made) < ahead:
                names, answers = parts.popleft()
                made += [(name, workers.submit(drawn, one)) for name, one in zip(names, answers.result(), strict=True)]


def _answers(
    engine: Engine,
    answer: Callable[[dict[str, np.ndarray], tuple[int, int]], Answer],
    part: list[Image],
    clock: Stages,
) -> list[tuple[Answer, Source] | BbgError]:
    """What the network says of each image of a part, which go through it in one call, with the image as it was read."""
    preprocess = engine.preprocess
    assert preprocess is not None

    def decoded(image: Image) -> tuple[Source, np.ndarray, tuple[int, int]] | BbgError:
        try:
            if isinstance(image, BbgError):
                return image
            if isinstance(image, Url):
                from bbg.sources.web import fetch  # its imports take longer than the engine's start

                image = fetch(image)
            with clock("decoding"):
                return image, preprocess.apply(image), image_size(image)
        except BbgError as error:
            return error

    found = [decoded(image) for image in part]
    good = [pixels for _, pixels, _ in (one for one in found if not isinstance(one, BbgError))]
    outputs: dict[str, np.ndarray] = {}
    if good:
        with clock("network"):
            outputs = engine.run(np.stack(good))
    places = iter(range(len(good)))

    def answered(one: tuple[Source, np.ndarray, tuple[int, int]] | BbgError) -> tuple[Answer, Source] | BbgError:
        if isinstance(one, BbgError):
            return one
        place = next(places)
        try:
            with clock("answer"):
                return answer({name: array[place : place + 1] for name, array in outputs.items()}, one[2]), one[0]
        except BbgError as error:
            return error

    return [answered(one) for one in found]


def _part(stream: Iterator[tuple[str, Image]], size: int) -> list[tuple[str, Image]]:
    """The next `size` images; no further than to a frame, which waits in memory and may be of a camera."""
    part: list[tuple[str, Image]] = []
    for one in stream:
        part.append(one)
        if len(part) >= size or isinstance(one[1], np.ndarray):
            break
    return part
