"""What the verb predict does with a network that segments: shares of the classes, masks and overlays in a folder."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, TextIO

from bbg.cli.output import rows_to
from bbg.errors import BbgError, visible

if TYPE_CHECKING:
    from bbg.image import Source
    from bbg.masks import Mask

ENDINGS = (".png", "-overlay.png")  # of the files of an image
COLUMNS = ("image", "place", "label", "share", "mask", "error")


class Found(NamedTuple):
    """What is told of an image: its size (H, W), shares of the classes, and mask and overlay as PNG files."""

    size: tuple[int, int]
    shares: dict[str, float]
    pictures: tuple[bytes, ...] = ()
    file: str | None = None


def made(drawn: bool) -> Callable[[Mask, Source], Found]:
    """What is kept of a mask and its image, `drawn` where files are wanted."""

    def make(mask: Mask, image: Source) -> Found:
        height, width = mask.classes.shape
        if not drawn:
            return Found((height, width), mask.shares)
        from bbg import drawing

        shown = drawing.encoded(mask.overlay(image))
        return Found((height, width), mask.shares, (drawing.encoded(mask.image()), shown))

    return make


def ranked(found: Found, top: int) -> list[tuple[str, float]]:
    """The `top` classes with the largest shares that are there at all, the largest first."""
    seen = [(label, share) for label, share in found.shares.items() if share > 0]
    return sorted(seen, key=lambda one: -one[1])[:top]


def as_text(name: str, answer: Found | BbgError, top: int) -> None:
    """Print the shares of an image."""
    if isinstance(answer, BbgError):
        return
    where = [] if answer.file is None else [f"  {visible(answer.file)}"]
    shares = [f"  {100 * share:5.1f} %  {visible(label)}" for label, share in ranked(answer, top)]
    print("\n".join([visible(name), *shares, *where]))


def as_json(file: TextIO, top: int) -> Callable[[str, Found | BbgError], None]:
    """A writer of a JSON object per image."""
    from json import dumps

    def write(name: str, answer: Found | BbgError) -> None:
        told: dict[str, Any] = {"image": name}
        if isinstance(answer, BbgError):
            told["error"] = str(answer)
        else:
            told |= {"size": answer.size, "shares": dict(ranked(answer, top)), "mask": answer.file}
        print(dumps(told), file=file, flush=file is sys.stdout)

    return write


def as_csv(file: TextIO, top: int) -> Callable[[str, Found | BbgError], None]:
    """A writer of a row per image and class."""
    add = rows_to(file, COLUMNS)

    def write(name: str, answer: Found | BbgError) -> None:
        if isinstance(answer, BbgError):
            add({"image": name, "error": str(answer)})
            return
        for place, (label, share) in enumerate(ranked(answer, top), 1):
            add({"image": name, "place": place, "label": label, "share": share, "mask": answer.file})

    return write
