"""The verb eval. Of a packed file it never imports torch."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bbg.cli.evaluate_boxes import evaluate_boxes
from bbg.cli.evaluate_masks import evaluate_masks
from bbg.cli.output import collect, make_folder, show
from bbg.cli.parser import (
    DATA,
    DEVICE,
    FACTORY,
    JSON,
    LIMITS,
    STDOUT,
    argument,
    count,
    new_folder,
    text_file,
    thread_count,
    verb,
)
from bbg.cli.scoring import Scored, ScoredBoxes, ScoredMasks, is_checkpoint, scored_checkpoint, scored_file
from bbg.errors import BbgError
from bbg.files import refuse_overlap

if TYPE_CHECKING:
    from bbg.data import Labelled
    from bbg.limits import Limits
    from bbg.scoring import Evaluation, ImageScore

ALL_CLASSES = 30  # up to so many classes the table of classes is printed whole
SOME_CLASSES, SOME_PAIRS, SOME_IMAGES = 10, 10, 5  # rows that are printed of longer tables; --json has all of them
# In the folder of --out.
PICTURES = ("confusion.png", "worst.png", "worst.csv", "calibration.png", "curves.csv", "curves.png")
DRAWN_CLASSES = 40  # rows of the drawn matrix; of more classes the last row holds all others


@verb(
    argument("model", metavar="MODEL", help="a checkpoint, a packed file or a name of the zoo"),
    DATA,
    argument(
        "--dataset",
        help="name of the data set; default: that of the training, or class folders in --data; with boxes the layout "
        "that --data looks to have",
    ),
    argument("--part", default="test", help="which images to score: test, train or all; default: %(default)s"),
    argument("--threads", type=thread_count, metavar="N", help="of the network; default: one per core"),
    argument("--batch", type=count, metavar="N", help="images at a time; default: 32, of a checkpoint 250"),
    FACTORY,
    DEVICE,
    LIMITS,
    JSON,
    argument("--csv", type=text_file, metavar="FILE", help="also write a row per image; -: print nothing else"),
    argument(
        "--out",
        type=new_folder,
        metavar="DIR",
        help="also draw the worst images there (and list them in worst.csv), the confusion matrix and the calibration, "
        "or precision by recall (and list it in curves.csv)",
    ),
)
def eval(
    model: str,
    data: Path | None,
    dataset: str | None,
    part: str,
    threads: int | None,
    batch: int | None,
    factory: str | None,
    device: str | None,
    limits: Limits | None,
    json: Path | None,
    csv: Path | None,
    out: Path | None,
) -> None:
    """Score a checkpoint or a packed model over all test images: accuracy, mIoU or mAP, the worst images."""
    if out is not None:
        written = [(name, path) for name, path in (("--json", json), ("--csv", csv)) if path is not None]
        refuse_overlap([*(("--out", out / name) for name in PICTURES), *written], ())
    checkpoint = is_checkpoint(model)
    misplaced = {
        "--factory goes with a checkpoint; a packed file holds its network": factory is not None and not checkpoint,
        "--device goes with a checkpoint; a packed file runs on the CPU": device is not None and not checkpoint,
        "--no-limits goes with a packed file; a checkpoint has none": limits is not None and checkpoint,
    }
    for sentence, holds in misplaced.items():
        if holds:
            raise BbgError(sentence)
    if checkpoint:
        scored = scored_checkpoint(Path(model), factory, device, dataset, data, part, threads)
    else:
        scored = scored_file(model, dataset, data, part, threads, limits)
    facts: dict[str, Any] = {"model": model, "data": None if data is None else str(data), "part": part}
    if isinstance(scored, ScoredMasks):
        evaluate_masks(scored, facts, batch, json, csv, out)
    elif isinstance(scored, ScoredBoxes):
        evaluate_boxes(scored, facts, batch, json, csv, out)
    elif isinstance(scored, Scored):
        evaluate_classes(scored, facts, batch, json, csv, out)
    elif csv is not None or out is not None:  # a task that has other figures than those of classes
        raise BbgError("--csv and --out are for networks that name a class; leave them out for this one")
    else:
        show({**facts, **scored}, json)


def evaluate_classes(
    scored: Scored, facts: dict[str, Any], batch: int | None, json: Path | None, csv: Path | None, out: Path | None
) -> None:
    """Score the images, and show, write and draw what comes of it, as `bbg eval` is asked to."""
    from bbg.scoring import COLUMNS, Evaluation, image_scores, row_of

    if out is not None:
        make_folder(out)
    evaluation = Evaluation(scored.images.classes)
    scores = image_scores(scored.images, scored.run, batch or scored.batch)
    row = partial(row_of, classes=evaluation.classes)
    collect(scores, len(scored.images), evaluation.add, csv, COLUMNS, row)
    report = evaluation.as_dict()
    if out is not None:
        facts["pictures"] = str(out)
    show({**report, **facts}, json, {} if csv == STDOUT else printed(evaluation, report, facts))
    if out is not None:
        draw(evaluation, scored.images, str(facts["model"]), out)


def printed(evaluation: Evaluation, report: dict[str, Any], facts: dict[str, Any]) -> dict[str, Any]:
    """What a terminal shows of the report: short tables, then the figures."""
    from bbg.data.labelled import some

    classes = report["per_class"]
    if len(classes) > ALL_CLASSES:
        counted = sorted((row for row in classes if row["images"]), key=lambda row: row["recall"])
        shown = {f"the {SOME_CLASSES} worst of {len(classes):,} classes": counted[:SOME_CLASSES]}
    else:
        shown = {"per_class": classes}
    pairs = report["confused"]
    more = f"the {SOME_PAIRS} most frequent of {len(pairs):,} confusions" if len(pairs) > SOME_PAIRS else "confused"
    worst = [{key: row[key] for key in ("image", "truth", "truth_score", "answer", "score")} for row in report["worst"]]
    skipped = report["skipped_files"]
    tables = {**shown, more: pairs[:SOME_PAIRS], "worst_images": worst[:SOME_IMAGES], "skipped_files": skipped[:10]}
    absent = {"classes_without_images": some(evaluation.absent)} if evaluation.absent else {}
    figures = {key: report[key] for key in ("test_images", "skipped", "accuracy", "top_5", "calibration_error")}
    named = {key: value for key, value in {**facts, **absent, **figures}.items() if value is not None}
    return {**{name: rows for name, rows in tables.items() if rows}, **named}


def draw(evaluation: Evaluation, images: Labelled, model: str, out: Path) -> None:
    """`confusion.png`, `worst.png`, `worst.csv` and `calibration.png` in the folder `out`."""
    from bbg import drawing, style, tables
    from bbg.files import write_bytes, write_text
    from bbg.scoring import row_of

    name, classes = Path(model).name, evaluation.classes
    numbers = {label: f"#{i}" for i, label in enumerate(classes)}
    right = f"{len(evaluation):,} images, {100 * evaluation.accuracy:.1f} % right"

    counts, names = evaluation.matrix(DRAWN_CLASSES)
    labels = [drawing.Label(label, numbers.get(label, "?")) for label in names]
    note = f"{right}; the darker a cell, the larger its share of the row"
    picture = drawing.matrix(f"Confusions of {name}", note, counts, labels, "truth", "answer")
    write_bytes(out / "confusion.png", drawing.encoded(picture))

    def tile(score: ImageScore) -> drawing.Tile:
        answer, truth = classes[score.answer], classes[score.truth]
        share = f"{100 * score.score:.0f} %"
        colour = style.GREEN if score.answer == score.truth else style.ORANGE
        lines = (
            (drawing.Label(f"{answer} {share}", f"{numbers[answer]} {share}"), colour),
            (drawing.Label(f"is {truth}", f"is {numbers[truth]}"), style.INK),
        )
        return drawing.Tile(images.read(score.number), lines)

    worst = evaluation.worst()
    title = f"The worst {len(worst)} of {len(evaluation):,} images for {name}"
    note = "Those whose true class got the least probability, the least first. Orange: the wrong answer"
    sheet = drawing.contact_sheet(title, note, [tile(score) for score in worst])
    write_bytes(out / "worst.png", drawing.encoded(sheet))
    write_text(out / "worst.csv", tables.csv([row_of(score, classes) for score in worst]))

    found = evaluation.calibration
    note = f"{right}; calibration error {100 * found.error:.1f} %"
    write_bytes(
        out / "calibration.png",
        drawing.encoded(drawing.reliability(f"Calibration of {name}", note, *found)),
    )
