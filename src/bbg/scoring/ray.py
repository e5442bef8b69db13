"""Very many images through a network, by the workers of Ray: of this machine, or of a cluster.

    found = answer_all("resnet20-cifar10", ["photos"], Path("answers"))      # Parquet files; see bbg.scoring.parts
    found.images, found.errors

Each worker is an actor with an engine of one thread, and runs what `bbg predict` runs. It takes a piece of the source
and writes the part that belongs to it, so a run that was killed goes on where no part is. Actors of Ray, and not its
data sets: the parts are what must be neither lost nor repeated, and only who writes them can see to that.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from bbg import zoo
from bbg._version import __version__
from bbg.cpu import cores
from bbg.engine import Engine, load
from bbg.errors import BbgError, first_line, not_installed
from bbg.files import locked
from bbg.graph.file import decode, read_bytes
from bbg.heads import Box, Classification, Detection
from bbg.image import Source
from bbg.limits import Limits
from bbg.log import LOGGER, Bar
from bbg.scoring.parts import NETWORK, Answer, Counts, begin, finished, make, write
from bbg.scoring.pictures import boxes
from bbg.scoring.pieces import IMAGES, Piece, Reader, listed, parquet
from bbg.scoring.stream import BATCH, predictions

TOP = 5  # classes of an image
AHEAD = 2  # pieces that a worker has, so that it waits for none
TRIES = 3  # times that a piece is given out again after its worker died
STORE = 2**28  # bytes of the memory that processes of a local Ray share; pieces are names and numbers
PATIENCE = 30.0  # seconds without a worker before a word is said
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}


class Scored(NamedTuple):
    """What a folder of answers has: `images`, `errors` among them, and how many were `done` now, in how many `seconds`.

    These are counted from when the first of the `workers` was there.
    """

    images: int
    errors: int
    done: int
    seconds: float
    workers: int


class Options(NamedTuple):
    """What a worker must know. `score`: the least one of a box."""

    out: Path
    folder: str
    top: int | None
    score: float
    batch: int
    limits: Limits | None
    version: str = __version__


def answer_all(
    model: str,
    sources: Sequence[str],
    out: Path,
    *,
    top: int | None = None,
    score: float | None = None,
    batch: int = BATCH,
    workers: int | None = None,
    address: str | None = None,
    limits: Limits | None = None,
) -> Scored:
    """Answer for all images of `sources` (`bbg.scoring.pieces.listed`) into the folder `out`; what is there stays.

    `top`: classes of an image, 5 by default, or boxes, by default all. `score`: the least one of a box, 0.5 by default.
    `workers`: engines, None for one per core of this machine, or per CPU that the cluster at `address` has free. With
    `address` the images and `out` must have the same paths on all machines, and bbg the same version.

    Raises BbgError where Ray or pyarrow is not installed or cannot start, for a network that says neither classes nor
    boxes of an image, for a source or a folder as `listed` and `bbg.scoring.parts.begin` do, where another process
    writes into the folder, and where a part cannot be written.
    """
    ray, out = _ray(), Path(os.path.abspath(out))
    network = read_bytes(zoo.resolve(model))
    head = _checked(model, Engine(decode(network), 1, limits))
    if score is not None and not isinstance(head, Detection):
        raise BbgError(f"{model!r} makes no boxes, whose least score --score is; leave it out")
    listing = listed(sources, out)
    options: dict[str, Any] = {"head": head.kind, "top": top or (None if isinstance(head, Detection) else TOP)}
    options |= {"score": 0.5 if score is None else score} if isinstance(head, Detection) else {}
    make(out)
    with locked(out):
        size = begin(out, network, listing, sources, options)
        there = [finished(out, piece) for piece in listing.pieces(size)]
        done = Counts(sum(one.images for one in there if one), sum(one.errors for one in there if one))
        if not (left := there.count(None)):
            return Scored(*done, 0, 0.0, 0)
        folder = "" if all(map(os.path.isabs, sources)) else os.getcwd()
        told = Options(out, folder, options["top"], options.get("score", 0.0), batch, limits)
        pieces = (piece for piece, one in zip(listing.pieces(size), there, strict=True) if one is None)
        with _running(ray, address, workers, left) as count, Bar("predicting", len(listing), done.images) as bar:
            new, took = _Run(ray, told, pieces, bar).all(count)
        images, errors = done.images + new.images, done.errors + new.errors
    if images != len(listing):
        raise BbgError(
            f"{str(out)!r} has {images} answers for {len(listing)} images; this is a fault of bbg, report it"
        )
    return Scored(images, errors, new.images, took, count)


def _ray() -> Any:
    """The module ray, which is told to send nothing home where it is not told otherwise."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    try:
        import_module("pyarrow")
        return import_module("ray")
    except ImportError as error:
        raise not_installed("--ray", error.name or "ray") from error


def _checked(model: str, engine: Engine) -> Classification | Detection:
    """The head of an engine; BbgError where that writes no rows."""
    if not isinstance(engine.head, Classification | Detection):
        came = "has no head" if engine.head is None else f"makes a {engine.head.kind}"
        raise BbgError(f"{model!r} {came}; --ray takes networks that name classes or boxes of an image")
    if isinstance(engine.head, Detection):
        engine.detect([])  # raises where the network cannot
    else:
        engine.predict([])
    return engine.head


@contextmanager
def _running(ray: Any, address: str | None, workers: int | None, most: int) -> Iterator[int]:
    """Ray, for the block, and how many workers there are to be. One that the program has started goes on after it."""
    if ray.is_initialized():
        yield min(workers or _free(ray), most)
        return
    quiet = {"logging_level": logging.ERROR, "log_to_driver": False}
    try:
        if address is None:
            local: dict[str, Any] = {"include_dashboard": False, "num_gpus": 0, "object_store_memory": STORE}
            local["_system_config"] = {"worker_niceness": 0}  # Ray would let the work wait for all else on the machine
            ray.init("local", num_cpus=min(workers or cores(), most), **local, **quiet)
        else:
            ray.init(address, **quiet)
    except Exception as error:  # of many kinds, by what is missing
        what = "cannot start" if address is None else f"cannot reach a cluster at {address!r}"
        raise BbgError(f"Ray {what} ({first_line(error)}); see whether ray status works there") from error
    try:
        with _terminable():
            yield min(workers or _free(ray), most)
    finally:
        ray.shutdown()


@contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM end the block as Ctrl-C does, so that Ray is stopped; Ray's own handler prints its stack."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, _: Any) -> None:
        sys.exit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _free(ray: Any) -> int:
    return max(1, int(ray.available_resources().get("CPU", 1)))


class _Hand:
    """A worker as the run sees it: whether it is to get more."""

    def __init__(self, worker: Any) -> None:
        self.worker, self.good = worker, True


class _Run:
    """Gives the pieces to workers, and again where a worker or its machine died.

    A worker for which nothing is left is let go: others may wait for its CPU, in the place of one that died.
    """

    def __init__(self, ray: Any, told: Options, pieces: Iterator[Piece], bar: Bar) -> None:
        self.ray, self.told, self.pieces, self.bar = ray, told, pieces, bar
        self.kind = ray.remote(num_cpus=1, max_restarts=0, scheduling_strategy="SPREAD")(Worker)
        self.waiting: dict[Any, tuple[_Hand, Piece | None]] = {}  # answers that are to come; None: whether it is there
        self.again: list[Piece] = []
        self.died: Counter[int | None] = Counter()  # how often over a piece; None: before any
        self.out, self.done, self.ready, self.since = 0, Counts(0, 0), 0, time.monotonic()

    def all(self, count: int) -> tuple[Counts, float]:
        """What all pieces have, by `count` workers, and the seconds since the first of these was there."""
        for _ in range(count):
            self._start()
        more = next(self.pieces, None)
        while more is not None or self.again or self.out:
            found, _ = self.ray.wait(list(self.waiting), timeout=PATIENCE)
            if not found:
                if not self.ready:
                    took = time.monotonic() - self.since
                    LOGGER.warning("no worker of Ray is there after %d s; waiting for free CPUs", took)
                continue
            hand, piece = self.waiting.pop(found[0])
            self._take(found[0], hand, piece)
            for _ in range(AHEAD if piece is None else 1):
                if hand.good and self.again:
                    self._give(hand, self.again.pop())
                elif hand.good and more is not None:
                    self._give(hand, more)
                    more = next(self.pieces, None)
            del hand  # those that are waited for are all that hold a worker
        return self.done, time.monotonic() - self.since

    def _start(self) -> None:
        hand = _Hand(self.kind.remote(self.told))
        self.waiting[hand.worker.ready.remote()] = hand, None

    def _give(self, hand: _Hand, piece: Piece) -> None:
        self.waiting[hand.worker.answer.remote(piece)] = hand, piece
        self.out += 1

    def _take(self, reference: Any, hand: _Hand, piece: Piece | None) -> None:
        """Count what a worker did; BbgError for what it refuses, and where workers died over and over."""
        self.out -= piece is not None
        try:
            found = self.ray.get(reference)
        except Exception as error:  # of many kinds: a machine that is gone, no memory, a fault of ours
            number = None if piece is None else piece.number
            self.died[number] += 1
            if self.died[number] > TRIES:
                what = "before any image" if piece is None else f"over images such as {piece.files[0]!r}"
                why = first_line(getattr(error, "cause", None) or error)
                raise BbgError(f"workers of Ray died {what} ({why}); run again, which goes on from here") from error
            if hand.good:
                hand.good = False
                self._start()
            if piece is not None:
                self.again.append(piece)
            return
        if isinstance(found, str):
            raise BbgError(found)
        if piece is None:
            self.ready += 1
            self.since = time.monotonic() if self.ready == 1 else self.since
            return
        self.done = Counts(self.done.images + found[0], self.done.errors + found[1])
        speed = self.done.images / max(time.monotonic() - self.since, 1e-9)
        self.bar.step(found[0], figures=[f"{speed:,.0f} images/s"])


class Worker:
    """An engine of one thread in a process of its own. What it refuses comes back as text."""

    def __init__(self, told: Options) -> None:
        self.told, self.reader = told, Reader()
        self.engine: Engine | None = None

    def ready(self) -> tuple[int, int] | str:
        """Load the network, and go to the folder that names of images begin in, where they do."""
        if self.told.version != __version__:
            return f"a machine of the cluster has bbg {__version__}, this one {self.told.version}; install the same"
        try:
            if self.told.folder:
                os.chdir(self.told.folder)
            self.engine = load(self.told.out / NETWORK, 1, self.told.limits)
            parquet()  # its import takes as long as many images
        except BbgError as error:
            return str(error)
        except OSError as error:
            return f"a machine of the cluster lacks {error.filename!r}; share the folders between all machines"
        return 0, 0

    def answer(self, piece: Piece) -> tuple[int, int] | str:
        """Write the part of a piece, and tell how many images it has, and how many of them are errors."""
        assert self.engine is not None
        try:
            drawn = isinstance(self.engine.head, Detection)
            return tuple(write(self.told.out, piece, self._answers(self.engine, piece), drawn))  # type: ignore[return-value]
        except BbgError as error:
            return str(error)

    def _answers(self, engine: Engine, piece: Piece) -> Iterator[tuple[str, Answer]]:
        images = self.reader.images(piece)
        if isinstance(engine.head, Detection):
            answers: Iterator[tuple[str, Answer]] = boxes(engine, images, self._best, 1, self.told.score)
        else:
            answers = predictions(engine, images, self.told.top or TOP, self.told.batch, 1)
        if piece.kind == IMAGES:
            yield from answers
            return
        for name, answer in answers:  # those of bytes do not know their name
            bad = isinstance(answer, BbgError) and not str(answer).startswith(name)
            yield name, BbgError(f"{name}: {str(answer).removeprefix('image: ')}") if bad else answer

    def _best(self, boxes: list[Box], _: Source) -> list[Box]:
        return boxes[: self.told.top]
