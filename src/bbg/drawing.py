"""Pictures made with Pillow alone, so that they can be drawn wherever an engine runs: contact sheets, matrices, bars.

Texts are class names and paths of users, in any language and of any length. Each is drawn in the first font at hand
that has all its characters, without its accents if need be, and shortened in the middle where it is too long. Where no
font has them, its `instead` is drawn.
"""

from __future__ import annotations

import unicodedata
from bisect import bisect_right
from collections.abc import Sequence
from colorsys import hsv_to_rgb
from functools import lru_cache
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageColor, ImageDraw, ImageFont

from bbg import style
from bbg.heads import Box

# Fonts of the usual systems, those of many scripts last; Pillow brings one of its own for Latin script.
FONTS = (
    "DejaVuSans.ttf",
    "NotoSans-Regular.ttf",
    "Arial Unicode.ttf",
    "NotoSansCJK-Regular.ttc",
    "wqy-zenhei.ttc",
    "DroidSansFallbackFull.ttf",
    "msyh.ttc",
    "malgun.ttf",
    "PingFang.ttc",
)
MISSING = "\uffff"  # no font has this character: it is drawn as what is missing is
MARGIN = 24
SEEN = 320  # pixels that the long side of a picture has at least where boxes are drawn on it
STRIP = 2**18  # pixels that are coloured at a time: of a large photograph the numbers would take a gigabyte


class Label(NamedTuple):
    """A text, and what is drawn where no font at hand has its characters."""

    text: str
    instead: str = "?"


class Tile(NamedTuple):
    """A picture of a contact sheet, uint8 `[H, W, 1 or 3]`, with its lines of text, each in a colour."""

    pixels: np.ndarray
    lines: Sequence[tuple[Label, str]]


def encoded(picture: Image.Image) -> bytes:
    """The picture as a PNG file.

    Packed with little effort: it takes a fifth of the time that Pillow's default takes, which for a photograph is
    thirty times that of decoding it, and a fifth more bytes.
    """
    file = BytesIO()
    picture.save(file, "png", compress_level=1)
    return file.getvalue()


def contact_sheet(title: str, note: str, tiles: Sequence[Tile], columns: int = 8, side: int = 128) -> Image.Image:
    """The tiles beside and below each other, each picture in a square of `side` pixels with its lines below."""
    gap, size = 16, 15
    high = side + 6 + (size + 6) * max((len(tile.lines) for tile in tiles), default=0)
    columns = max(1, min(columns, len(tiles)))
    rows = -(-len(tiles) // columns)
    width = max(2 * MARGIN + columns * (side + gap) - gap, 640)
    top = 92
    sheet, draw = _blank(width, top + rows * (high + gap) + MARGIN - gap)
    _headed(draw, title, note, width)
    for i, tile in enumerate(tiles):
        y, x = divmod(i, columns)
        left, above = MARGIN + x * (side + gap), top + y * (high + gap)
        picture = _fitted(tile.pixels, side)
        sheet.paste(picture, (left + (side - picture.width) // 2, above + (side - picture.height) // 2))
        for k, (label, colour) in enumerate(tile.lines):
            _text(draw, (left, above + side + 8 + k * (size + 6)), label, size, colour, side)
    return sheet


def matrix(title: str, note: str, counts: np.ndarray, names: Sequence[Label], rows: str, columns: str) -> Image.Image:
    """Counts `[N, N]` as cells, darker for a larger share of the row: green on the diagonal, orange beside it.

    Up to 20 names the counts stand in the cells; `rows` and `columns` say what the two directions are.
    """
    n = len(names)
    cell = 56 if n <= 12 else 42 if n <= 20 else 24
    size = 15 if n <= 20 else 13
    room = int(min(max((_length(label, size) for label in names), default=0), 190)) + 12  # of the names
    left, top = MARGIN + 26 + room, 92 + 26 + room
    right = left + n * cell
    width = max(right + 78 + MARGIN, 560)
    sheet, draw = _blank(width, top + n * cell + MARGIN)
    _headed(draw, title, note, width)
    totals = counts.sum(1)
    shares = np.divide(counts, totals[:, None], out=np.zeros(counts.shape), where=totals[:, None] > 0)
    for i, j in np.ndindex(n, n):
        x, y = left + j * cell, top + i * cell
        strength = shares[i, j] if i == j else min(1.0, 3 * shares[i, j])  # a third of a row is much for one confusion
        draw.rectangle(
            (x, y, x + cell - 2, y + cell - 2),
            fill=_mixed(style.PAPER, style.GREEN if i == j else style.ORANGE, strength),
        )
        if n <= 20 and counts[i, j]:
            colour = "white" if strength > 0.55 else style.INK
            number = f"{counts[i, j]:,}"
            _text(
                draw,
                (x + cell / 2 - 1, y + cell / 2 - 1),
                Label(number),
                size if len(number) < 5 else size - 3,
                colour,
                cell,
                "mm",
            )
    for i, label in enumerate(names):
        middle = (i + 0.5) * cell - 1
        _text(draw, (left - 8, top + middle), label, size, style.INK, room - 12, "rm")
        _upright(sheet, (left + middle, top - 8), label, size, room - 12)
        if totals[i]:
            _text(draw, (right + 8, top + middle), Label(f"{100 * shares[i, i]:.1f} %"), size, style.INK, 80, "lm")
    _text(draw, (left, 92), Label(columns), size, style.GREY, right - left)
    _text(draw, (right + 8, top - 8), Label("recall"), size, style.GREY, 80, "lb")
    _upright(sheet, (MARGIN + 10, top + n * cell), Label(rows), size, n * cell, style.GREY, centred=True)
    return sheet


def reliability(title: str, note: str, images: np.ndarray, confidence: np.ndarray, accuracy: np.ndarray) -> Image.Image:
    """A bar per bin of probability, as high as the share of right answers; below, how many images are in the bin."""
    twice = 2  # drawn larger and shrunk: the diagonal becomes smooth
    side, below, left, top = 400, 70, 74, 96
    width = left + side + MARGIN + 20
    sheet, _ = _blank(width * twice, (top + side + 30 + below + 62) * twice)
    draw = ImageDraw.Draw(sheet)

    def box(x0: float, y0: float, x1: float, y1: float, colour: str | tuple[int, int, int]) -> None:
        if y1 - y0 >= 0.5:
            draw.rectangle((x0 * twice, y0 * twice, x1 * twice - 1, y1 * twice - 1), fill=colour)

    bins = len(images)
    wide, base = side / bins, top + side
    for share in (0, 0.25, 0.5, 0.75, 1):
        box(left, base - share * side - 0.5, left + side, base - share * side + 0.5, style.PALE)
    for i in np.flatnonzero(images):
        x = left + i * wide
        box(x + 1, base - accuracy[i] * side, x + wide - 1, base, style.GREEN)
        upper, lower = sorted((base - accuracy[i] * side, base - confidence[i] * side))
        box(x + 1, upper, x + wide - 1, lower, _mixed("#ffffff", style.ORANGE, 0.6))
        high = max(1, below * images[i] / images.max())
        box(x + 1, base + 30 + below - high, x + wide - 1, base + 30 + below, style.PALE)
    line = (left * twice, base * twice, (left + side) * twice, top * twice)
    draw.line(line, fill=style.INK, width=3)
    sheet = sheet.resize((sheet.width // twice, sheet.height // twice), Image.Resampling.LANCZOS)
    draw = ImageDraw.Draw(sheet)
    _headed(draw, title, note, width)
    for share in (0, 0.25, 0.5, 0.75, 1):
        _text(draw, (left - 8, base - share * side), Label(f"{100 * share:.0f} %"), 13, style.INK, 60, "rm")
        _text(
            draw, (left + share * side, base + 30 + below + 8), Label(f"{100 * share:.0f} %"), 13, style.INK, 60, "ma"
        )
    _text(draw, (left - 8, base + 30 + below), Label("images"), 13, style.GREY, 70, "rb")
    _upright(sheet, (MARGIN - 4, base), Label("right answers"), 14, side, style.INK, centred=True)
    _text(
        draw, (left + side / 2, base + 30 + below + 30), Label("probability of the answer"), 14, style.INK, side, "ma"
    )
    return sheet


def palette() -> np.ndarray:
    """The colour of each class on a mask, uint8 `[256, 3]`: VOC's. Class 0 is black, 255 a light grey."""
    classes, colours = np.arange(256), np.zeros((256, 3), np.uint8)
    for bit in range(8):
        for channel in range(3):
            colours[:, channel] |= ((classes >> (3 * bit + channel) & 1) << (7 - bit)).astype(np.uint8)
    return colours


def mask(classes: np.ndarray) -> Image.Image:
    """Classes uint8 `[H, W]` as a picture of mode P: the numbers are the pixels, `palette` has their colours."""
    picture = Image.fromarray(np.ascontiguousarray(classes))
    picture.putpalette(palette().tobytes())
    return picture


def overlay(picture: np.ndarray, classes: np.ndarray, strength: float = 0.5) -> Image.Image:
    """The picture, uint8 `[H, W, 3]`, with the colours of the classes `[H, W]` over it, and their edges in full colour.

    Class 0, whose colour is black, and pixels without a class leave the picture as it is.
    """
    shown = (classes > 0) & (classes < 255)
    edge = np.zeros(classes.shape, bool)
    for axis in (0, 1):
        near, far = (tuple(part if i == axis else slice(None) for i in (0, 1)) for part in (slice(1, None), slice(-1)))
        differs = classes[near] != classes[far]
        edge[near] |= differs
        edge[far] |= differs
    colours, found = palette(), np.array(picture)
    rows = max(1, STRIP // classes.shape[1])
    for begin in range(0, len(classes), rows):
        part = slice(begin, begin + rows)
        if not shown[part].any():
            continue
        share = np.where(edge[part], 1, strength) * shown[part]
        for channel in range(3):
            own = picture[part, :, channel].astype(np.float32)
            found[part, :, channel] = np.rint(own + (colours[classes[part], channel] - own) * share)
    return Image.fromarray(found)


def boxes(picture: np.ndarray, found: Sequence[Box], labels: Sequence[str] = ()) -> Image.Image:
    """The picture, uint8 `[H, W, 3]`, with boxes in the colours of their classes, each with its label and score.

    Lines and letters grow with the picture. A small one is enlarged first, by a whole number, to at least SEEN pixels
    on its long side, so that the letters find room. `labels`: all classes in their order, which decides the colours.
    """
    height, width = picture.shape[:2]
    times = max(1, -(-SEEN // max(height, width)))
    sheet = Image.fromarray(picture).resize((width * times, height * times), Image.Resampling.NEAREST)
    draw = ImageDraw.Draw(sheet)
    size = int(np.clip((sheet.width * sheet.height) ** 0.5 / 40, 12, 60))
    line, high = max(1, size // 7), size + size // 3
    names = list(dict.fromkeys((*labels, *(box.label for box in found))))
    for box in reversed(found):  # the best lie above
        colour = _bright(names.index(box.label))
        left, top, right, bottom = (round(side * times) for side in box.box)
        right, bottom = max(left, right - 1), max(top, bottom - 1)
        draw.rectangle((left, top, right, bottom), outline=colour, width=line)
        score = f" {100 * box.score:.0f} %"
        label = Label(box.label + score, f"#{names.index(box.label)}{score}")
        room = sheet.width - 2 * line
        wide = int(min(_length(label, size), room)) + 2 * line
        x = max(0, min(left, sheet.width - wide))
        y = top - high if top >= high else max(0, min(top, sheet.height - high))  # inside, where none is above
        draw.rectangle((x, y, x + wide - 1, y + high - 1), fill=colour)
        _text(draw, (x + line, y + high / 2), label, size, _readable_on(colour), room, "lm")
    return sheet


def _bright(number: int) -> tuple[int, int, int]:
    """A bright colour for a class; those of neighbours lie far apart."""
    red, green, blue = (round(255 * part) for part in hsv_to_rgb(number * 0.618034 % 1, 0.85, 0.95))
    return red, green, blue


def _readable_on(colour: tuple[int, int, int]) -> str:
    return "black" if 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2] > 110 else "white"


# Texts ----------------------------------------------------------------------------------------------------------------


@lru_cache(64)
def _fonts(size: int) -> tuple[Any, ...]:
    found: list[Any] = [ImageFont.load_default(size)]
    plots = find_spec("matplotlib")  # brings a font of many scripts; it is not imported
    own = [
        str(Path(where, "mpl-data/fonts/ttf", FONTS[0])) for where in (plots and plots.submodule_search_locations) or ()
    ]
    for name in (*FONTS, *own):
        try:
            found.append(ImageFont.truetype(name, size))
        except OSError:
            continue
    return tuple(found)


@lru_cache(4096)
def _has(font: Any, character: str) -> bool:
    """Whether the font has the character: one that it lacks looks like one that no font has."""
    if character.isspace():
        return True
    mask, missing = font.getmask(character), font.getmask(MISSING)
    return bool(mask.size != missing.size or bytes(mask) != bytes(missing))


def _drawn(label: Label, size: int) -> tuple[str, Any]:
    """What is drawn of a label, on one line, and the font that has it."""
    text = "".join(c if c.isprintable() else " " for c in label.text).strip()
    bare = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    for form in dict.fromkeys((text, bare)):
        for font in _fonts(size):
            if form and all(_has(font, character) for character in form):
                return form, font
    return label.instead, _fonts(size)[0]


def _shortened(text: str, font: Any, width: float) -> str:
    """`text`, or as many characters of its beginning and its end as fit into `width` pixels, dots between them."""
    if font.getlength(text) <= width:
        return text

    def short(kept: int) -> str:
        return f"{text[: (kept + 1) // 2]}...{text[len(text) - kept // 2 :]}"

    # A character is at least a pixel wide, so that a text of any length is as quick as one that just does not fit.
    most = range(1, min(len(text), int(width) + 1))
    kept = bisect_right(most, width, key=lambda count: font.getlength(short(count)))
    return short(kept) if kept else text[:1]


def _length(label: Label, size: int) -> float:
    text, font = _drawn(label, size)
    return float(font.getlength(text))


def _text(
    draw: ImageDraw.ImageDraw,
    at: tuple[float, float],
    label: Label,
    size: int,
    colour: str,
    width: float,
    anchor: str = "la",
) -> None:
    text, font = _drawn(label, size)
    draw.text(at, _shortened(text, font, width), fill=colour, font=font, anchor=anchor)


def _upright(
    sheet: Image.Image,
    foot: tuple[float, float],
    label: Label,
    size: int,
    room: float,
    colour: str = style.INK,
    centred: bool = False,
) -> None:
    """A text that is read from below, above `foot`: from there on, or in the middle of `room`."""
    text, font = _drawn(label, size)
    text = _shortened(text, font, room)
    long, high = int(font.getlength(text)) + 2, size + 10
    strip = Image.new("L", (long, high))
    ImageDraw.Draw(strip).text((1, high / 2), text, fill=255, font=font, anchor="lm")
    turned = strip.transpose(Image.Transpose.ROTATE_90)
    above = (room - long) / 2 if centred else 0
    place = round(foot[0] - high / 2), round(foot[1] - long - above)
    sheet.paste(Image.new("RGB", turned.size, colour), place, turned)


def _headed(draw: ImageDraw.ImageDraw, title: str, note: str, width: int) -> None:
    """The title, and what one must know to read the picture."""
    text, font = _drawn(Label(title), 22)
    # Pillow's own font has one weight; a thin outline makes the other.
    draw.text(
        (MARGIN, MARGIN - 2), _shortened(text, font, width - 2 * MARGIN), fill=style.INK, font=font, stroke_width=0.4
    )
    _text(draw, (MARGIN, MARGIN + 32), Label(note), 15, style.GREY, width - 2 * MARGIN)


# Pictures -------------------------------------------------------------------------------------------------------------


def _blank(width: int, height: int) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    sheet = Image.new("RGB", (width, height), "white")
    return sheet, ImageDraw.Draw(sheet)


def _fitted(pixels: np.ndarray, side: int) -> Image.Image:
    """The picture as large as a square of `side` takes; the pixels of small ones stay visible."""
    height, width, channels = pixels.shape
    picture = Image.fromarray(pixels[:, :, 0] if channels == 1 else pixels).convert("RGB")
    scale = side / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return picture.resize(size, Image.Resampling.NEAREST if scale >= 2 else Image.Resampling.LANCZOS)


def _mixed(paper: str, ink: str, share: float) -> tuple[int, int, int]:
    a, b = (np.array(ImageColor.getrgb(colour)[:3]) for colour in (paper, ink))
    r, g, blue = np.rint(a + (b - a) * share).astype(int).tolist()
    return r, g, blue
