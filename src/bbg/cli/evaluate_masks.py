"""What the verb eval does with a network that segments."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from bbg.cli.output import collect, make_folder, show
from bbg.cli.parser import STDOUT

if TYPE_CHECKING:
    from bbg.cli.scoring import ScoredMasks
    from bbg.scoring import MaskEvaluation

SOME_IMAGES = 5  # rows that are printed of the worst images; --json has more
DRAWN_IMAGES, DRAWN_CLASSES = 12, 40


def evaluate_masks(
    scored: ScoredMasks, facts: dict[str, Any], batch: int | None, json: Path | None, csv: Path | None, out: Path | None
) -> None:
    """Score the images, and show, write and draw what comes of it, as `bbg eval` is asked to."""
    from bbg.scoring import MASK_COLUMNS, MaskEvaluation, mask_scores, row_of_mask

    if out is not None:
        make_folder(out)
    evaluation = MaskEvaluation(scored.images.classes)
    scores = mask_scores(scored.images, scored.run, batch)
    collect(scores, len(scored.images), evaluation.add, csv, MASK_COLUMNS, row_of_mask)
    report = evaluation.as_dict()
    if out is not None:
        facts["pictures"] = str(out)
    worst = [{key: row[key] for key in ("image", "miou", "pixel_accuracy")} for row in report["worst"][:SOME_IMAGES]]
    tables = {"per_class": report["per_class"], "worst_images": worst, "skipped_files": report["skipped_files"][:10]}
    figures = {key: report[key] for key in ("test_images", "skipped", "pixel_accuracy", "miou")}
    told = {key: value for key, value in {**facts, **figures}.items() if value is not None}
    printed = {**{name: rows for name, rows in tables.items() if rows}, **told}
    show({**report, **facts}, json, {} if csv == STDOUT else printed)
    if out is not None:
        draw(evaluation, scored, str(facts["model"]), out)


def draw(evaluation: MaskEvaluation, scored: ScoredMasks, model: str, out: Path) -> None:
    """`confusion.png`, `worst.png` and `worst.csv` in the folder `out`."""
    import numpy as np

    from bbg import drawing, style, tables
    from bbg.files import write_bytes, write_text
    from bbg.scoring import row_of_mask

    name, classes, found = Path(model).name, evaluation.classes, evaluation.overlap
    what = f"{len(evaluation):,} images, mIoU {100 * found.mean:.1f} %"
    if len(classes) <= DRAWN_CLASSES:
        labels = [drawing.Label(label, f"#{i}") for i, label in enumerate(classes)]
        note = f"pixels of {what}; the darker a cell, the larger its share of the row"
        picture = drawing.matrix(f"Confusions of {name}", note, evaluation.counts, labels, "truth", "answer")
        write_bytes(out / "confusion.png", drawing.encoded(picture))
    tiles = []
    worst = evaluation.worst()
    for score in worst[:DRAWN_IMAGES]:
        pixels = scored.images.read(score.number)
        colours = np.broadcast_to(pixels, (*pixels.shape[:2], 3))  # of a grey picture, too
        for of, seen, colour in (
            ("truth", scored.images.mask(score.number), style.INK),
            (f"answer, {100 * score.overlap.mean:.0f} %", scored.run(pixels[None])[0], style.ORANGE),
        ):
            tiles.append(drawing.Tile(np.asarray(drawing.overlay(colours, seen)), ((drawing.Label(of), colour),)))
    title = f"The worst {len(tiles) // 2} of {len(evaluation):,} images for {name}"
    sheet = drawing.contact_sheet(title, f"{what}. Those with the least mIoU, the least first", tiles, 6, 192)
    write_bytes(out / "worst.png", drawing.encoded(sheet))
    write_text(out / "worst.csv", tables.csv([row_of_mask(score) for score in worst]))
