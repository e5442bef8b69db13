"""What the verb eval does with a network that detects."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bbg.cli.output import collect, make_folder, show
from bbg.cli.parser import STDOUT

if TYPE_CHECKING:
    from bbg.cli.scoring import ScoredBoxes
    from bbg.scoring import BoxEvaluation

SOME_IMAGES = 5  # rows that are printed of the worst images; --json has more
DRAWN_IMAGES = 8


def evaluate_boxes(
    scored: ScoredBoxes, facts: dict[str, Any], batch: int | None, json: Path | None, csv: Path | None, out: Path | None
) -> None:
    """Score the images, and show, write and draw what comes of it, as `bbg eval` is asked to."""
    from bbg.scoring import BOX_COLUMNS, BoxEvaluation, box_scores, row_of_boxes

    if out is not None:
        make_folder(out)
    evaluation = BoxEvaluation(scored.images.classes)
    scores = box_scores(scored.images, scored.run, batch)
    row = partial(row_of_boxes, classes=len(evaluation.classes))
    collect(scores, len(scored.images), evaluation.add, csv, BOX_COLUMNS, row)
    report = evaluation.as_dict()
    report["skipped_files"] += [{"file": path, "why": reason} for path, reason in scored.images.skipped]
    if out is not None:
        facts["pictures"] = str(out)
    worst = [{key: row[key] for key in BOX_COLUMNS[:-1]} for row in report["worst"][:SOME_IMAGES]]
    tables = {"per_class": report["per_class"], "worst_images": worst, "skipped_files": report["skipped_files"][:10]}
    figures = {key: report[key] for key in ("test_images", "skipped", "map", "map_11", "map_50_95")}
    told = {key: value for key, value in {**facts, **figures}.items() if value is not None}
    printed = {**{name: rows for name, rows in tables.items() if rows}, **told}
    show({**report, **facts}, json, {} if csv == STDOUT else printed)
    if out is not None:
        draw(evaluation, scored, str(facts["model"]), out)


def draw(evaluation: BoxEvaluation, scored: ScoredBoxes, model: str, out: Path) -> None:
    """`worst.png`, `worst.csv`, `curves.csv` and `curves.png` in the folder `out`."""
    import numpy as np

    from bbg import drawing, style, tables
    from bbg.files import write_bytes, write_text
    from bbg.heads import Box
    from bbg.image import load_image
    from bbg.scoring import SHOWN, row_of_boxes
    from bbg.scoring.curves import write_curves

    classes, images, tiles = evaluation.classes, scored.images, []
    worst = evaluation.worst()

    def boxes(number: int, rows: np.ndarray, names: np.ndarray, scores: np.ndarray) -> list[Box]:
        places = images.preprocess.located(rows, images.items[number].size).tolist()
        return [
            Box(classes[name], float(score), (place[0], place[1], place[2], place[3]))
            for name, score, place in zip(names, scores, places, strict=True)
        ]

    for score in worst[:DRAWN_IMAGES]:
        pixels, truth, found = load_image(images.items[score.number].image), score.truth, score.found
        sure = found.scores >= SHOWN
        _, wrong, missed = score.counts(len(classes))
        for of, seen, colour in (
            ("truth", boxes(score.number, truth.boxes, truth.classes, np.ones(len(truth.classes))), style.INK),
            (
                f"{wrong} wrong, {missed} missed",
                boxes(score.number, found.boxes[sure], found.classes[sure], found.scores[sure]),
                style.ORANGE,
            ),
        ):
            picture = np.asarray(drawing.boxes(pixels, seen, classes))
            tiles.append(drawing.Tile(picture, ((drawing.Label(of), colour),)))
    title = f"The worst {len(tiles) // 2} of {len(evaluation):,} images for {Path(model).name}"
    note = f"mAP {100 * evaluation.matches.mean_area:.1f} %. Those with the most wrong and missed boxes, the most first"
    write_bytes(out / "worst.png", drawing.encoded(drawing.contact_sheet(title, note, tiles, 4, 320)))
    write_text(out / "worst.csv", tables.csv([row_of_boxes(score, len(classes)) for score in worst]))
    write_curves(evaluation, Path(model).name, out)
