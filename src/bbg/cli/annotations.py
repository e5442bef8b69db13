"""Boxes that a network found, as tools for labelling and scoring read them: files of Pascal VOC, and a set of COCO."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import TYPE_CHECKING, TextIO

from bbg.errors import BbgError
from bbg.sources import STDIN

if TYPE_CHECKING:
    from bbg.cli.boxes import Found
    from bbg.cli.folder import Folder

    Writer = Callable[[str, Found | BbgError], None]

ENDINGS = (".xml",)  # of the files of an image
IN_MEMORY = 2**22  # bytes of annotations that are held until all images are written; more lie in a file meanwhile
_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # characters that no XML may hold


def as_xml(folder: Folder) -> Writer:
    """A writer of a file of Pascal VOC for each image."""

    def write(name: str, answer: Found | BbgError) -> None:
        if not isinstance(answer, BbgError):
            folder.write(name, (voc_xml(name, answer).encode(),))

    return write


def voc_xml(name: str, found: Found) -> str:
    """The boxes of the image `name` as an annotation of Pascal VOC, each with its score as `confidence`.

    Sides are whole pixels, the first of which is 1 and the last of which belongs to the box; a box has at least two in
    each direction, where its image has them.
    """
    high, wide = found.size
    lines = [
        "<annotation>",
        f"  <folder>{_escaped(Path(name).parent.name)}</folder>",
        f"  <filename>{_escaped(_file_name(name))}</filename>",
        f"  <size><width>{wide}</width><height>{high}</height><depth>3</depth></size>",
        "  <segmented>0</segmented>",
    ]
    for label, score, (left, top, right, bottom) in found.boxes:
        (xmin, xmax), (ymin, ymax) = _pixels(left, right, wide), _pixels(top, bottom, high)
        sides = {"xmin": xmin, "ymin": ymin, "xmax": xmax, "ymax": ymax}
        lines += [
            "  <object>",
            f"    <name>{_escaped(label)}</name>",
            "    <pose>Unspecified</pose><truncated>0</truncated><difficult>0</difficult>",
            f"    <confidence>{score:.6f}</confidence>",
            f"    <bndbox>{''.join(f'<{side}>{place}</{side}>' for side, place in sides.items())}</bndbox>",
            "  </object>",
        ]
    return "\n".join([*lines, "</annotation>", ""])


def _pixels(low: float, high: float, most: int) -> tuple[int, int]:
    """The first and the last pixel between two edges."""
    first = min(max(round(low) + 1, 1), max(most - 1, 1))
    return first, min(max(round(high), first + 1), most)


@contextmanager
def coco_set(file: TextIO | None, path: Path | None, labels: Sequence[str]) -> Iterator[Writer | None]:
    """A writer of a data set of COCO into `file`, which lies at `path`: images, categories, and boxes with scores.

    Images are numbered from 1, as are the categories, in the order of `labels`. An image is called by its path from the
    folder of the file, or, where it lies elsewhere, by its name. None where there is no file.
    """
    if file is None:
        yield None
        return
    numbers = {label: number for number, label in enumerate(labels, 1)}
    home = Path.cwd() if path is None or str(path) == STDIN else path.resolve().parent
    images = boxes = 0
    with SpooledTemporaryFile(IN_MEMORY, "w+", encoding="utf-8") as later:

        def write(name: str, answer: Found | BbgError) -> None:
            nonlocal images, boxes
            if isinstance(answer, BbgError):
                return
            images += 1
            high, wide = answer.size
            row = {"id": images, "file_name": _inside(home, name), "width": wide, "height": high}
            file.write(f"{',' * (images > 1)}\n{json.dumps(row)}")
            for label, score, (left, top, right, bottom) in answer.boxes:
                boxes += 1
                sides = [left, top, right - left, bottom - top]
                number = numbers.setdefault(label, len(numbers) + 1)
                own = {"id": boxes, "image_id": images, "category_id": number, "bbox": sides, "score": score}
                later.write(f"{',' * (boxes > 1)}\n{json.dumps({**own, 'area': sides[2] * sides[3], 'iscrowd': 0})}")

        file.write('{"images": [')
        yield write
        categories = [{"id": number, "name": label} for label, number in numbers.items()]
        file.write(f'\n],\n"categories": {json.dumps(categories)},\n"annotations": [')
        later.seek(0)
        while part := later.read(2**20):
            file.write(part)
        file.write("\n]}\n")
        file.flush()


def _inside(home: Path, name: str) -> str:
    """The path of an image from `home`, or its name where it does not lie there."""
    place = os.path.realpath(name)
    return Path(place).relative_to(home).as_posix() if Path(place).is_relative_to(home) else _file_name(name)


def _file_name(name: str) -> str:
    return "image" if name == STDIN else Path(name).name or "image"


def _escaped(text: str) -> str:
    bare = _NO_XML.sub("?", text)
    return bare.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
