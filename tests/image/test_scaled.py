"""JPEGs decoded at a scale: by the stated rule, over the same part of the picture, and near to the whole decoding."""

from __future__ import annotations

import json
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bbg.image import Preprocess, image_size


def waves(height: int, width: int) -> np.ndarray:
    """A smooth picture whose corners all differ, uint8 `[H, W, 3]`."""
    y, x = np.mgrid[:height, :width] / np.array([height, width]).reshape(2, 1, 1)
    channels = [x, y, (1 + np.sin(20 * x) * np.cos(15 * y)) / 2]
    return np.rint(255 * np.stack(channels, 2)).astype(np.uint8)


def jpeg(array: np.ndarray, turn: int = 1, form: str = "JPEG") -> bytes:
    buffer, exif = BytesIO(), Image.Exif()
    exif[0x112] = turn
    Image.fromarray(array).save(buffer, form, **({"quality": 95, "exif": exif} if form == "JPEG" else {}))
    return buffer.getvalue()


def scaled(*arguments: Any, **keywords: Any) -> Preprocess:
    return Preprocess(*arguments, **keywords, decode="scaled")


@pytest.mark.parametrize(
    ("shape", "preprocess", "k"),
    [
        ((191, 191), scaled(32), 1),
        ((192, 192), scaled(32), 2),
        ((383, 450), scaled(32), 2),
        ((384, 384), scaled(32), 4),
        ((385, 999), scaled(32), 4),
        ((768, 768), scaled(32), 8),
        ((3000, 768), scaled(32), 8),
        ((767, 800), scaled((32, 16)), 4),
        ((400, 700), scaled((32, 16)), 4),
        ((700, 400), scaled(24, 32), 4),  # the resize makes the short side 32, then a crop
        ((224, 300), scaled(224, 256), 1),
        ((3000, 4000), scaled(224, 256), 2),
        ((3456, 4608), scaled(224, 256), 4),
        ((3000, 4000), Preprocess(32), 1),
    ],
)
@pytest.mark.parametrize("turn", [1, 6])
def test_the_scale_follows_the_rule(shape: tuple[int, int], preprocess: Preprocess, k: int, turn: int) -> None:
    height, width = shape if turn == 1 else shape[::-1]  # as the file holds it
    data = jpeg(np.zeros((height, width, 3), np.uint8), turn)
    assert image_size(data) == shape
    assert preprocess.picture(data).shape == (-(-shape[0] // k), -(-shape[1] // k), 3)


@pytest.mark.parametrize("shape", [(1003, 777), (640, 1021), (397, 390), (2048, 798)])
@pytest.mark.parametrize(
    ("size", "resize"), [(32, None), ((16, 40), None), (32, 37), ((24, 32), 37)], ids=["square", "wide", "crop", "both"]
)
@pytest.mark.parametrize("turn", range(1, 9))
def test_scaled_pixels_are_near_the_whole_ones(
    shape: tuple[int, int], size: Any, resize: int | None, turn: int
) -> None:
    """A resize that forgot that 1003 / 8 is no whole number would be off by a level at the right edge."""
    data = jpeg(waves(*shape), turn)
    near, whole = (Preprocess(size, resize, decode=how).apply(data).astype(int) for how in ("scaled", "whole"))
    assert near.shape == whole.shape
    assert np.abs(near - whole).mean() < 0.45
    assert np.abs(near - whole).max() <= 6
    if turn == 1:
        assert (near != whole).any()  # it was decoded at a scale


def test_a_scale_is_the_mean_of_blocks() -> None:
    """The cosine transform at 1/8 keeps the mean of each block of 8 x 8, and nothing else."""
    array = np.repeat(waves(512, 512)[:, :, 2:], 3, 2)
    data = jpeg(array)
    whole = Preprocess(512).apply(data)[:, :, 0].astype(float)
    means = whole.reshape(64, 8, 64, 8).mean((1, 3))
    assert np.abs(scaled(16).picture(data)[:, :, 0] - means).max() <= 1


@pytest.mark.parametrize("form", ["PNG", "BMP", "WEBP"])
def test_other_formats_are_decoded_whole(form: str) -> None:
    data = jpeg(waves(400, 420), form=form)
    assert np.array_equal(scaled(32).apply(data), Preprocess(32).apply(data))


def test_images_that_come_decoded_are_taken_whole_and_left_alone(tmp_path: Path) -> None:
    data = jpeg(waves(400, 420))
    (tmp_path / "a.jpg").write_bytes(data)
    opened = Image.open(BytesIO(data))
    whole = Preprocess(32).apply(data)
    assert np.array_equal(scaled(32).apply(opened), whole)
    assert opened.size == (420, 400)
    assert np.array_equal(scaled(32).apply(np.asarray(opened)), whole)
    assert np.array_equal(scaled(32).apply(tmp_path / "a.jpg"), scaled(32).apply(data))
    assert (scaled(32).apply(data) != whole).any()


@pytest.mark.parametrize("shape", [(100, 100), (191, 300)])
def test_less_than_six_times_the_result_changes_nothing(shape: tuple[int, int]) -> None:
    data = jpeg(waves(*shape))
    assert np.array_equal(scaled(32).apply(data), Preprocess(32).apply(data))


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_grey_and_cmyk_jpegs_have_scales_too(mode: str) -> None:
    buffer = BytesIO()
    Image.fromarray(waves(512, 512)).convert(mode).save(buffer, "JPEG", quality=95)
    for grey in (False, True):
        colours: dict[str, Any] = {"mode": "L", "mean": (0.5,), "std": (0.5,)} if grey else {}
        near, whole = (Preprocess(32, decode=how, **colours).apply(buffer.getvalue()) for how in ("scaled", "whole"))
        assert np.abs(near.astype(int) - whole).max() <= 2


def test_decode_survives_json_and_is_left_out_where_it_is_whole() -> None:
    assert Preprocess.from_json(json.loads(json.dumps(scaled(32).to_json()))) == scaled(32)
    assert scaled(32).to_json()["decode"] == "scaled"
    assert "decode" not in Preprocess(32).to_json()
    assert Preprocess.from_json({**Preprocess(32).to_json(), "decode": "whole"}) == Preprocess(32)
