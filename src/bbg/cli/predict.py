"""The verb predict. It never imports torch, and starts in about a tenth of a second."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import contextmanager, nullcontext, suppress
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TextIO

from bbg.cli.output import lines, rows_to
from bbg.cli.parser import LIMITS, MODEL, STDOUT, argument, count, new_folder, share, text_file, thread_count, verb
from bbg.cli.predict_ray import ARGUMENTS, check, predict_all
from bbg.errors import BbgError, visible
from bbg.log import LOGGER, track
from bbg.sources import CAMERA, STDIN, find

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from bbg.engine import Engine, Prediction
    from bbg.limits import Limits
    from bbg.scoring import Stages
    from bbg.sources import Image

    Answer = list[Prediction] | BbgError
    Answers = Iterator[tuple[str, Any]]
    Writer = Callable[[str, Any], None]

DEFAULT_MODEL = "resnet20-cifar10"
TOP = 5
COLUMNS = ("image", "place", "label", "score", "error")


@verb(
    argument(
        "images",
        nargs="+",
        metavar="IMAGE",
        help="files, folders, patterns ('*.jpg'), videos, camera:0, addresses; -: standard input",
    ),
    argument("--model", metavar="MODEL", default=DEFAULT_MODEL, help=f"{MODEL}; default: %(default)s"),
    argument("--top", type=count, metavar="N", help="classes to show; default: 5; or boxes, by default all"),
    argument("--score", type=share, metavar="S", help="of a network that detects: the least score; default: 0.5"),
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
        help="of one that segments: write each mask (NAME.png) and the picture under it (NAME-overlay.png) there; "
        "of one that detects: each picture with its boxes (NAME-boxes.png); over no file that is there. With --ray: "
        "the answers",
    ),
    argument(
        "--xml",
        type=new_folder,
        metavar="DIR",
        help="of a network that detects: write a file of Pascal VOC for each image (NAME.xml) there; over no other one",
    ),
    argument(
        "--coco",
        type=text_file,
        metavar="FILE",
        help="of a network that detects: also write a data set of COCO, boxes with their scores; -: nothing else",
    ),
    *ARGUMENTS,
)
def predict(
    images: list[str],
    model: str,
    top: int | None,
    score: float | None,
    threads: int | None,
    batch: int | None,
    every: int,
    limits: Limits | None,
    allow_urls: bool,
    json: Path | None,
    csv: Path | None,
    out: Path | None,
    xml: Path | None,
    coco: Path | None,
    ray: bool,
    workers: int | None,
    address: str | None,
) -> None:
    """Say what is in images: classes, shares of the pixels, or boxes. Exit status 1 where an image cannot be read."""
    check(ray, workers, address, out, locals())
    if ray and out is not None:
        options = {"top": top, "score": score, "limits": limits, "workers": workers, "address": address}
        predict_all(images, model, out, **options, **({"batch": batch} if batch else {}))
        return
    from bbg.cpu import cores
    from bbg.engine import load
    from bbg.heads import Classification, Detection
    from bbg.scoring import BATCH, Stages, predictions

    live = any(image.startswith(CAMERA) for image in images)  # ends when the user ends it
    written = [file for file in (json, csv, coco) if file is not None and file != STDOUT]
    found = find(images, every=every, urls=allow_urls, written=written)
    stream = iter(found)
    first = [] if live else list(islice(stream, 2))
    if not live and not first and STDIN not in images:  # an empty list has nothing to say
        raise BbgError(f"no image in {', '.join(map(repr, images))}; give files, or folders with images")
    # Several images are shared out to threads. One image is shared by those of the engine, where that is asked for: to
    # wake others would cost more time than they save.
    several = len(first) > 1
    engine = load(model, 1 if several else threads or 1, limits)
    callers = (threads or cores()) if several else None
    print_text = STDOUT not in (json, csv, coco)
    draws = engine.head is not None and not isinstance(engine.head, Classification)
    if out is not None and not draws:
        raise BbgError(f"{model!r} makes no masks and no boxes, so --out has nothing to keep; leave it out")
    if score is not None and not isinstance(engine.head, Detection):
        raise BbgError(f"{model!r} makes no boxes, whose least score --score is; leave it out")
    if (xml or coco) is not None and not isinstance(engine.head, Detection):
        raise BbgError(f"{model!r} makes no boxes, which {'--coco' if xml is None else '--xml'} writes; leave it out")
    bad, count, stages, began = 0, 0, Stages(), time.perf_counter()
    with (
        lines(json) as json_file,
        lines(csv) as csv_file,
        lines(coco) as coco_file,
        _annotations(xml, coco_file, coco, engine) as more,
        suppress(KeyboardInterrupt) if live else nullcontext(),
    ):
        if draws:
            kind = _boxes(score, top) if isinstance(engine.head, Detection) else _masks(top or TOP)
            files = (json_file, csv_file, print_text)
            answers, writers = _drawn(kind, engine, chain(first, stream), images, callers, out, stages, *files)
        else:
            some = batch or (1 if live else BATCH)
            answers = predictions(engine, chain(first, stream), top or TOP, some, callers, stages)
            writers = [
                *([_json(json_file)] if json_file else []),
                *([_csv(csv_file)] if csv_file else []),
                *([_text] if print_text else []),
            ]
        for name, answer in track(answers, "predicting", found.total()):
            count += 1
            if isinstance(answer, BbgError):
                bad += 1
                print("bbg:", answer, file=sys.stderr)
            for write in (*writers, *more):
                write(name, answer)
    took = time.perf_counter() - began
    LOGGER.debug("%d images in %.2f s, on %d threads; per image: %s", count, took, callers or 1, stages.told(count))
    if bad:
        sys.exit(1)


class Kind(NamedTuple):
    """What is done where an answer can be drawn: a stream of answers, the endings of its files, and the writers."""

    stream: Callable[[Engine, Iterable[tuple[str, Image]], bool, int | None, Stages], Answers]
    endings: Sequence[str]
    json: Callable[[TextIO], Writer]
    csv: Callable[[TextIO], Writer]
    text: Writer


def _masks(top: int) -> Kind:
    from functools import partial

    from bbg.cli.masks import ENDINGS, as_csv, as_json, as_text, made
    from bbg.scoring import masks

    return Kind(
        lambda engine, images, drawn, threads, stages: masks(engine, images, made(drawn), threads, stages),
        ENDINGS,
        partial(as_json, top=top),
        partial(as_csv, top=top),
        partial(as_text, top=top),
    )


def _boxes(score: float | None, top: int | None) -> Kind:
    from bbg.cli.boxes import ENDINGS, as_csv, as_json, as_text, made
    from bbg.scoring import boxes

    def stream(
        engine: Engine, images: Iterable[tuple[str, Image]], drawn: bool, threads: int | None, stages: Stages
    ) -> Answers:
        make = made(drawn, engine.labels or (), top)
        return boxes(engine, images, make, threads, 0.5 if score is None else score, stages)

    return Kind(stream, ENDINGS, as_json, as_csv, as_text)


def _drawn(
    kind: Kind,
    engine: Engine,
    stream: Iterable[tuple[str, Image]],
    sources: list[str],
    threads: int | None,
    out: Path | None,
    stages: Stages,
    json: TextIO | None,
    csv: TextIO | None,
    print_text: bool,
) -> tuple[Answers, list[Writer]]:
    """What a network says of the images whose answers are masks or boxes, and what writes it down."""
    from bbg.cli.folder import Folder

    folder = None if out is None else Folder(out, sources, kind.endings)
    found = kind.stream(engine, stream if folder is None else folder.apart(stream), folder is not None, threads, stages)

    def stored() -> Answers:
        for name, answer in found:
            if folder is not None and not isinstance(answer, BbgError):
                with stages("writing"):
                    answer = answer._replace(file=folder.write(name, answer.pictures))  # noqa: PLW2901
            yield name, answer

    writers = [
        *([kind.json(json)] if json else []),
        *([kind.csv(csv)] if csv else []),
        *([kind.text] if print_text else []),
    ]
    return stored(), writers


@contextmanager
def _annotations(xml: Path | None, coco: TextIO | None, path: Path | None, engine: Engine) -> Iterator[list[Writer]]:
    """What writes boxes as other tools read them, where that is asked for."""
    if xml is None and coco is None:
        yield []
        return
    from bbg.cli.annotations import ENDINGS, as_xml, coco_set
    from bbg.cli.folder import Folder

    with coco_set(coco, path, engine.labels or ()) as write:
        files = [] if xml is None else [as_xml(Folder(xml, (), ENDINGS, "--xml"))]
        yield [*files, *([] if write is None else [write])]


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
