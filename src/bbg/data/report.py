"""What a set holds, in words: counts, pixels, and the files that were left out."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from bbg.data.boxed import BoxSet
from bbg.data.sets import Dataset, Skipped, Split, class_counts, has_masks
from bbg.files import write_bytes
from bbg.image import Preprocess

NAMED = 5  # skipped files that are named
CLASSES = 20  # classes that are listed
WIDTH = 79


def found(split: Split) -> list[str]:
    """Lines that say what the training will read: images, classes with their counts, pixels, skipped files."""
    classes = split.classes
    lines = [f"{len(split.train):,} training images, {len(split.test):,} test images"]
    if has_masks(split.train):
        listed = list(classes[:CLASSES])
        lines.append(f"{len(classes)} classes of pixels:")
    elif isinstance(split.train, BoxSet) and isinstance(split.test, BoxSet):
        boxes = zip(classes, split.train.counts(), split.test.counts(), strict=True)
        listed = [f"{name} ({train:,} + {test:,})" for name, train, test in list(boxes)[:CLASSES]]
        lines.append(f"{len(classes)} classes of boxes (training + test):")
    else:
        counts = [class_counts(half) for half in split]
        listed = [f"{name} ({counts[0][name]:,} + {counts[1][name]:,})" for name in classes[:CLASSES]]
        lines.append(f"{len(classes)} classes (training + test):")
    lines += wrapped([*listed, *(["..."] if len(classes) > CLASSES else [])])
    lines.append(f"pixels: {pixels(split.preprocess)}")
    return lines + skipped_lines([*split.train.skipped, *split.test.skipped])


def wrapped(words: Sequence[str]) -> list[str]:
    """The words, with commas between them, in indented lines that fit a terminal; no word is broken."""
    lines = [""]
    for word in words:
        longer = f"{lines[-1]}, {word}" if lines[-1] else f"  {word}"
        if lines[-1] and len(longer) >= WIDTH:
            lines[-1] += ","
            longer = f"  {word}"
            lines.append("")
        lines[-1] = longer
    return lines


def pixels(preprocess: Preprocess) -> str:
    """How pictures become inputs."""
    height, width = preprocess.size
    colours = "grey" if preprocess.mode == "L" else preprocess.mode
    cut = "the whole picture resized, whatever its shape"
    if preprocess.resize is not None:
        cut = f"the middle of the picture, its short side scaled to {preprocess.resize}"
    scale = "; large JPEGs decoded at a scale" if preprocess.decode == "scaled" else ""
    return f"{height} x {width} {colours}, {cut}{scale}"


def skipped_lines(skipped: Sequence[Skipped]) -> list[str]:
    """The first skipped files with the reasons, and how many more there are."""
    if not skipped:
        return []
    return [f"skipped {len(skipped):,} file{'s' if len(skipped) > 1 else ''}:", *named_lines(skipped)]


def named_lines(skipped: Sequence[Skipped]) -> list[str]:
    """Of each of the first files its name and the reason, and how many more there are."""
    more = len(skipped) - NAMED
    return [f"  {path}: {reason}" for path, reason in skipped[:NAMED]] + [f"  and {more:,} more"] * (more > 0)


def write_skipped(split: Split, file: Path) -> None:
    """The skipped files of both halves as CSV, `half, file, reason`; no file where none was skipped."""
    halves: dict[str, Dataset] = {"training": split.train, "test": split.test}
    rows = [(half, *one) for half, data in halves.items() for one in data.skipped]
    if not rows:
        return
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([("half", "file", "reason"), *rows])
    write_bytes(file, text.getvalue().encode(errors="surrogateescape"))
