"""The verb predict. It never imports torch, and starts in about a tenth of a second."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import nullcontext, suppress
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from bbg.cli.output import lines, rows_to
from bbg.cli.parser import LIMITS, MODEL, STDOUT, argument, count, new_folder, text_file, thread_count, verb
from bbg.errors import BbgError, visible
from bbg.log import track
from bbg.sources import CAMERA, STDIN, find

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from bbg.engine import Engine, Prediction
    from bbg.limits import Limits
    from bbg.sources import Image

    Answer = list[Prediction] | BbgError
    Answers = Iterator[tuple[str, Any]]
    Writer = Callable[[str, Any], None]

DEFAULT_MODEL = "resnet20-cifar10"
COLUMNS = ("image", "place", "label", "score", "error")


@verb(
    argument(
        "images",
        nargs="+",
        metavar="IMAGE",
        help="files, folders, patterns ('*.jpg'), videos, camera:0, addresses; -: standard input",
    ),
    argument("--model", metavar="MODEL", default=DEFAULT_MODEL, help=f"{MODEL}; default: %(default)s"),
    argument("--top", type=count, default=5, metavar="N", help="classes to show; default: %(default)s"),
    argument("--threads", type=thread_count, metavar="N", help="default: all cores, for a single image one"),
    argument("--batch", type=count, metavar="N", help="images at a time; default: 32, of a camera and for masks 1"),
    argument("--every", type=count, default=1, metavar="N", help="of videos and cameras, each N-th frame; default: 1"),
    LIMITS,
    argument("--allow-urls", action="store_true", help="fetch images whose address (http, https) is given"),
    argument(
        "--json", type=text_file, metavar="FILE", help="also write a JSON object per line and image; -: nothing else"
    ),
    argument("--csv", type=text_file, metavar="FILE", help="also write a row per image and class; -: nothing else"),
    argument(
        "--out",
        type=new_folder,
        metavar="DIR",
        help="of a network that segments: write each mask (NAME.png) and the picture under it (NAME-overlay.png) "
        "there, over no file that is there",
    ),
)
def predict(
    images: list[str],
    model: str,
    top: int,
    threads: int | None,
    batch: int | None,
    every: int,
    limits: Limits | None,
    allow_urls: bool,
    json: Path | None,
    csv: Path | None,
    out: Path | None,
) -> None:
    """Say what is in images: classes, or their shares of the pixels. Exit status 1 where an image could not be read."""
    from bbg.cpu import cores
    from bbg.engine import load
    from bbg.heads import Segmentation
    from bbg.scoring import BATCH, predictions

    live = any(image.startswith(CAMERA) for image in images)  # ends when the user ends it
    written = [file for file in (json, csv) if file is not None and file != STDOUT]
    found = find(images, every=every, urls=allow_urls, written=written)
    stream = iter(found)
    first = [] if live else list(islice(stream, 2))
    if not live and not first and STDIN not in images:  # an empty list has nothing to say
        raise BbgError(f"no image in {', '.join(map(repr, images))}; give files, or folders with images")
    # Several images are shared out to threads. One image is shared by those of the engine, where that is asked for: to
    # wake others would cost more time than they save.
    several = len(first) > 1
    engine = load(model, 1 if several else threads or 1, limits)
    workers = (threads or cores()) if several else None
    print_text = STDOUT not in (json, csv)
    segments = isinstance(engine.head, Segmentation)
    if out is not None and not segments:
        raise BbgError(f"{model!r} makes no masks, so --out has nothing to keep; leave it out")
    bad = 0
    with lines(json) as json_file, lines(csv) as csv_file, suppress(KeyboardInterrupt) if live else nullcontext():
        if segments:
            answers, writers = _masks(
                engine, chain(first, stream), images, top, workers, out, json_file, csv_file, print_text
            )
        else:
            answers = predictions(engine, chain(first, stream), top, batch or (1 if live else BATCH), workers)
            writers = [
                *([_json(json_file)] if json_file else []),
                *([_csv(csv_file)] if csv_file else []),
                *([_text] if print_text else []),
            ]
        for name, answer in track(answers, "predicting", found.total()):
            if isinstance(answer, BbgError):
                bad += 1
                print("bbg:", answer, file=sys.stderr)
            for write in writers:
                write(name, answer)
    if bad:
        sys.exit(1)


def _masks(
    engine: Engine,
    stream: Iterable[tuple[str, Image]],
    sources: list[str],
    top: int,
    threads: int | None,
    out: Path | None,
    json: TextIO | None,
    csv: TextIO | None,
    print_text: bool,
) -> tuple[Answers, list[Writer]]:
    """What a network that segments says of the images, and what writes it down."""
    from functools import partial

    from bbg.cli.masks import Folder, as_csv, as_json, as_text, made
    from bbg.scoring import masks

    folder = None if out is None else Folder(out, sources)
    found = masks(engine, stream if folder is None else folder.apart(stream), made(out is not None), threads)

    def kept() -> Answers:
        for name, answer in found:
            is_good = folder is not None and not isinstance(answer, BbgError)
            yield name, folder.write(name, answer) if is_good else answer  # type: ignore[union-attr, arg-type]

    writers: list[Writer] = [
        *([as_json(json, top)] if json else []),
        *([as_csv(csv, top)] if csv else []),
        *([partial(as_text, top=top)] if print_text else []),
    ]
    return kept(), writers


def _text(name: str, answer: Answer) -> None:
    if not isinstance(answer, BbgError):
        print("\n".join([visible(name), *(f"  {100 * score:5.1f} %  {visible(label)}" for label, score in answer)]))


def _json(file: TextIO) -> Callable[[str, Answer], None]:
    from json import dumps

    def write(name: str, answer: Answer) -> None:
        bad = isinstance(answer, BbgError)
        found = {"error": str(answer)} if bad else {"predictions": [p._asdict() for p in answer]}  # type: ignore[union-attr]
        print(dumps({"image": name, **found}), file=file, flush=file is sys.stdout)

    return write


def _csv(file: TextIO) -> Callable[[str, Answer], None]:
    add = rows_to(file, COLUMNS)

    def write(name: str, answer: Answer) -> None:
        if isinstance(answer, BbgError):
            add({"image": name, "error": str(answer)})
            return
        for place, prediction in enumerate(answer, 1):
            add({"image": name, "place": place, **prediction._asdict()})

    return write
