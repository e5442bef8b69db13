"""What the verb predict does with a network that detects: its boxes, and pictures with them in a folder."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, TextIO

from bbg.cli.output import rows_to
from bbg.errors import BbgError, visible

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bbg.heads import Box
    from bbg.image import Source

ENDINGS = ("-boxes.png",)  # of the files of an image
SIDES = ("left", "top", "right", "bottom")
COLUMNS = ("image", "place", "label", "score", *SIDES, "picture", "error")


class Found(NamedTuple):
    """What is told of an image: its size (H, W), its boxes, the best first, and the picture with them as a PNG file."""

    size: tuple[int, int]
    boxes: list[Box]
    pictures: tuple[bytes, ...] = ()
    file: str | None = None


def made(drawn: bool, labels: Sequence[str], top: int | None) -> Callable[[list[Box], Source], Found]:
    """What is kept of the `top` boxes of an image, None for all, and of the image, `drawn` where files are wanted."""

    def make(boxes: list[Box], image: Source) -> Found:
        from bbg.image import image_size, load_image

        boxes = boxes[:top]
        if not drawn:
            return Found(image_size(image), boxes)
        from bbg import drawing

        pixels = load_image(image)
        shown = drawing.encoded(drawing.boxes(pixels, boxes, labels))
        return Found((pixels.shape[0], pixels.shape[1]), boxes, (shown,))

    return make


def as_text(name: str, answer: Found | BbgError) -> None:
    """Print the boxes of an image."""
    if isinstance(answer, BbgError):
        return
    where = [] if answer.file is None else [f"  {visible(answer.file)}"]
    rows = [
        f"  {100 * box.score:5.1f} %  {visible(box.label)}  {' '.join(f'{side:.0f}' for side in box.box)}"
        for box in answer.boxes
    ]
    print("\n".join([visible(name), *(rows or ["  nothing"]), *where]))


def as_json(file: TextIO) -> Callable[[str, Found | BbgError], None]:
    """A writer of a JSON object per image."""
    from json import dumps

    def write(name: str, answer: Found | BbgError) -> None:
        told: dict[str, Any] = {"image": name}
        if isinstance(answer, BbgError):
            told["error"] = str(answer)
        else:
            told |= {"size": answer.size, "boxes": [box._asdict() for box in answer.boxes], "picture": answer.file}
        print(dumps(told), file=file, flush=file is sys.stdout)

    return write


def as_csv(file: TextIO) -> Callable[[str, Found | BbgError], None]:
    """A writer of a row per box; an image without boxes has none."""
    add = rows_to(file, COLUMNS)

    def write(name: str, answer: Found | BbgError) -> None:
        if isinstance(answer, BbgError):
            add({"image": name, "error": str(answer)})
            return
        for place, (label, score, box) in enumerate(answer.boxes, 1):
            sides = dict(zip(SIDES, box, strict=True))
            add({"image": name, "place": place, "label": label, "score": score, **sides, "picture": answer.file})

    return write
