"""Pictures drawn by Pillow: each says what it was given, whatever the names are and however many."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import pytest
from PIL import Image, ImageColor

from bbg import drawing, style
from bbg.drawing import Label, Tile

NAMES = ["cat", "Größe", "собака", "日本語の長い名前", "مرحبا", "🦆", "", "a\nb\x1b[31m", "x" * 3000, "<b>&amp;</b>"]


def pixels_of(picture: Image.Image, colour: str) -> int:
    return int((np.asarray(picture) == ImageColor.getrgb(colour)[:3]).all(2).sum())


@pytest.mark.parametrize("name", NAMES)
def test_any_name_is_drawn_within_its_room(name: str) -> None:
    tile = Tile(np.zeros((4, 4, 1), np.uint8), [(Label(name, "#3"), style.INK)])
    sheet = drawing.contact_sheet(name, name, [tile] * 3)
    # Beside the three pictures and below them there is nothing but the text of each, in its own room.
    below = np.asarray(sheet.convert("L"))[92 + 128 + 6 :]
    dark = np.flatnonzero((below < 160).any(0))
    assert len(dark), "the name, or what stands for it"
    assert all((column - drawing.MARGIN) % 144 <= 128 for column in dark)
    assert drawing.matrix("t", "n", np.eye(3, dtype=int), [Label(name, "#0")] * 3, "truth", "answer").width < 1000


def test_names_of_which_no_font_has_the_characters_are_drawn_as_what_stands_for_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(drawing, "_fonts", lambda size: (drawing.ImageFont.load_default(size),))
    drawn = [drawing._drawn(Label(name, "#3"), 15)[0] for name in ("cat", "Café", "собака", "日本", "")]
    assert drawn == ["cat", "Cafe", "#3", "#3", "#3"], "Pillow's own font has no accents"


def test_long_texts_keep_their_beginning_and_their_end() -> None:
    text, font = drawing._drawn(Label("automobile_from_the_left_0001"), 15)
    short = drawing._shortened(text, font, 120)
    assert short.startswith("auto")
    assert "..." in short
    assert short.endswith("001")
    assert font.getlength(short) <= 120 < font.getlength(text)
    assert drawing._shortened("cat", font, 120) == "cat"


def test_a_contact_sheet_shows_each_picture_as_it_is() -> None:
    rng = np.random.default_rng(0)
    tiles = [Tile(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8), [(Label("a"), style.INK)]) for _ in range(10)]
    sheet = np.asarray(drawing.contact_sheet("title", "note", tiles, columns=4, side=64))
    line = 64 + 6 + 21 + 16
    for i, tile in enumerate(tiles):
        y, x = 92 + i // 4 * line, drawing.MARGIN + i % 4 * 80
        assert np.array_equal(sheet[y : y + 64 : 8, x : x + 64 : 8], tile.pixels), i


def test_wide_and_grey_pictures_fit_into_their_square() -> None:
    wide = drawing._fitted(np.full((10, 40, 1), 7, np.uint8), 128)
    assert (wide.size, wide.getpixel((0, 0))) == ((128, 32), (7, 7, 7))
    assert drawing._fitted(np.zeros((500, 2, 3), np.uint8), 128).size == (1, 128)


def test_a_matrix_has_a_cell_per_pair_and_a_bounded_size() -> None:
    diagonal = drawing.matrix("t", "n", np.diag([5, 5, 5]), [Label("a")] * 3, "truth", "answer")
    other = drawing.matrix("t", "n", np.fliplr(np.diag([5, 5, 5])), [Label("a")] * 3, "truth", "answer")
    assert pixels_of(diagonal, style.GREEN) > 3 * 40 * 40
    assert pixels_of(diagonal, style.ORANGE) == 0
    assert pixels_of(other, style.ORANGE) > 2 * 40 * 40
    many = drawing.matrix("t", "n", np.eye(40, dtype=int), [Label("class")] * 40, "truth", "answer")
    assert max(many.size) < 1400
    blank = drawing.matrix("t", "n", np.zeros((3, 3), int), [Label("a")] * 3, "truth", "answer")
    assert pixels_of(blank, style.GREEN) == 0, "rows without images"


def test_the_bars_of_calibration_are_as_high_as_the_shares() -> None:
    images, shares = np.array([0, 4]), np.array([np.nan, 0.75])
    picture = drawing.reliability("t", "n", images, shares, shares)
    green = (np.asarray(picture) == ImageColor.getrgb(style.GREEN)[:3]).all(2)
    assert abs(green.any(1).sum() - 0.75 * 400) <= 8, "edges are smooth"
    assert abs(green.any(0).sum() - 200) <= 8


def test_a_picture_is_encoded_as_png() -> None:
    file = drawing.encoded(Image.new("RGB", (3, 2), style.GREEN))
    with Image.open(BytesIO(file)) as found:
        assert (found.format, found.size) == ("PNG", (3, 2))
