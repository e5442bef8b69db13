"""Decoding: every source, mode and orientation, and every image that must be refused."""

from __future__ import annotations

import os
import re
import struct
import tracemalloc
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.pictures import encoded, picture

from bbg.errors import BbgError
from bbg.formats import MAX_PIXELS
from bbg.image import PRESETS, Preprocess, image_size, load_image
from bbg.image.decoder import STRIP
from bbg.image.metadata import jpeg_scans


def test_every_kind_of_source_gives_the_same_pixels(tmp_path: Path) -> None:
    array = picture()
    path = tmp_path / "a.png"
    path.write_bytes(encoded(array))
    for source in (array, Image.fromarray(array), path, str(path), encoded(array), bytearray(encoded(array))):
        assert np.array_equal(load_image(source), array)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "1", "LA", "La", "RGBa", "PA", "I;16", "I"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    grey = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
    if mode.startswith("I"):
        image = Image.fromarray((grey.astype(np.uint16) * 257).astype(np.uint16 if mode == "I;16" else np.int32))
        assert image.mode == mode
        assert np.array_equal(load_image(image), np.repeat(grey[:, :, None], 3, 2))
    else:
        image = Image.fromarray(grey)
        image = image.convert({"La": "LA", "RGBa": "RGBA", "PA": "P"}.get(mode, "L")).convert(mode)
        if mode != "1":
            assert np.array_equal(load_image(image), np.repeat(grey[:, :, None], 3, 2))
        assert load_image(image).shape == (8, 8, 3)


GREY_STATISTICS = {"mean": [0.0], "std": [1.0]}


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("width", [1, 2, 255, 256, 257, STRIP - 1, STRIP, STRIP + 1])
def test_pixels_are_numpys_where_strips_end(width: int, mode: str) -> None:
    """One strip more or less, in pictures that are just large enough to have strips, and in small ones."""
    rows = max(1, STRIP // width)
    for height in (1, rows, *range(4 * rows - 1, 4 * rows + 2), 5 * rows, 5 * rows + 1):
        shape = (height, width, 3) if mode == "RGB" else (height, width)
        array = np.random.default_rng(width).integers(0, 256, shape, np.uint8)
        image = Image.fromarray(array)
        found = Preprocess(8, mode=mode, **(GREY_STATISTICS if mode == "L" else {})).picture(image)
        assert found.flags.writeable
        assert np.array_equal(found.reshape(shape), array), height
        found[:] = 0
        assert np.array_equal(np.asarray(image), array), "the caller's own image stays as it is"


def test_a_large_picture_is_neither_copied_nor_collected(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory that is fresh from the system costs as much time as decoding: no more of it than the result is."""
    data = encoded(picture(1000, 1500), "JPEG")
    copied, copy = [], Image.Image.copy
    monkeypatch.setattr(Image.Image, "copy", lambda image: (copied.append(image.size), copy(image))[1])
    load_image(data)  # imports what it needs
    tracemalloc.start()
    found = load_image(data)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1.3 * found.nbytes, f"{peak / found.nbytes:.1f} times the picture"
    assert Preprocess(32).apply(data).shape == (32, 32, 3)
    assert (1500, 1000) not in copied


@pytest.mark.parametrize("shape", [(8, 9), (8, 9, 1), (8, 9, 3)])
def test_arrays_may_be_grey(shape: tuple[int, ...]) -> None:
    assert load_image(np.zeros(shape, np.uint8)).shape == (8, 9, 3)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_turns_the_image_upright(orientation: int) -> None:
    array = picture(20, 30)
    exif = Image.Exif()
    exif[0x0112] = orientation
    expected = {
        1: array,
        2: array[:, ::-1],
        3: array[::-1, ::-1],
        4: array[::-1],
        5: array.swapaxes(0, 1),
        6: array[::-1].swapaxes(0, 1),
        7: array[::-1, ::-1].swapaxes(0, 1),
        8: array[:, ::-1].swapaxes(0, 1),
    }[orientation]
    forms: list[tuple[str, dict[str, object]]] = [
        ("PNG", {"exif": exif}),
        ("WEBP", {"exif": exif, "lossless": True}),
        ("TIFF", {"tiffinfo": {0x0112: orientation}}),
        ("TIFF", {"tiffinfo": {0x0112: orientation}, "compression": "tiff_lzw"}),
    ]
    for form, options in forms:
        file = encoded(array, form, **options)
        for source in (file, Image.open(BytesIO(file))):  # Pillow turns a TIFF by itself, and nothing else
            assert np.array_equal(load_image(source), expected), form
        assert image_size(file) == expected.shape[:2]


def with_odd_tags(orientation: int, array: np.ndarray, damaged: bool) -> bytes:
    """A JPEG with an orientation, and a resolution that is stored as the pair (-1, 0) or points behind the block."""
    at = 10**6 if damaged else 38
    entries = [(0x112, 3, struct.pack("<HH", orientation, 0)), (0x11A, 10, struct.pack("<I", at))]
    block = b"II*\0" + struct.pack("<IH", 8, len(entries))
    block += b"".join(struct.pack("<HHI", tag, kind, 1) + value for tag, kind, value in entries)
    return encoded(array, "JPEG", quality=100, exif=b"Exif\0\0" + block + struct.pack("<Iii", 0, -1, 0))


@pytest.mark.parametrize("damaged", [False, True])
def test_odd_metadata_costs_no_picture(damaged: bool) -> None:
    array = np.repeat(picture(20, 30)[:, :, :1], 3, 2)
    upright, turned = (load_image(with_odd_tags(turn, array, damaged)) for turn in (1, 6))
    assert np.array_equal(turned, upright[::-1].swapaxes(0, 1))


def chunk(name: bytes, content: bytes) -> bytes:
    """A part of a PNG."""
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def segment(marker: int, content: bytes) -> bytes:
    """A part of a JPEG."""
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


LONG = zlib.compress(bytes(3_000_000))
ODD_PNG = {
    "a long comment": chunk(b"zTXt", b"Comment\0\0" + LONG),
    "a large profile": chunk(b"iCCP", b"profile\0\0" + LONG),
    "a short resolution": chunk(b"pHYs", b"\0"),
    "a wrong checksum": chunk(b"tEXt", b"Comment\0text")[:-4] + bytes(4),
}
ODD_JPEG = {
    "a short Adobe segment": segment(0xEE, b"Adobe"),
    "a short JFIF segment": segment(0xE0, b"JFIF\0"),
    "rubbish for a profile": segment(0xE2, b"ICC_PROFILE\0\x02\x01abc"),
    "rubbish for pictures beside it": segment(0xE2, b"MPF\0rubbishrubbish"),
}


@pytest.mark.parametrize("case", [*ODD_PNG, *ODD_JPEG])
@pytest.mark.parametrize("orientation", [1, 6])
def test_what_stands_beside_the_pixels_costs_no_picture(case: str, orientation: int, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    if case in ODD_PNG:
        whole = encoded(picture(20, 30), exif=exif)
        odd = whole[:33] + ODD_PNG[case] + whole[33:]
    else:
        whole = encoded(picture(20, 30), "JPEG", exif=exif)
        odd = whole[:2] + ODD_JPEG[case] + whole[2:]
    (tmp_path / "a").write_bytes(odd)
    for source in (odd, tmp_path / "a"):
        assert np.array_equal(load_image(source), load_image(whole))
        assert image_size(source) == image_size(whole)


def bomb() -> bytes:
    """A PNG that says it is 60,000 x 60,000 pixels."""
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


BAD_IMAGES = {
    "a truncated JPEG": lambda: encoded(picture(200, 200), "JPEG")[:1500],
    "a truncated PNG": lambda: encoded(picture(200, 200))[:1500],
    "text": lambda: b"not an image",
    "nothing": lambda: b"",
    "a decompression bomb": bomb,
    "a missing file": lambda: "no/such/file.jpg",
    "a folder": lambda: Path("."),
    "a null byte in the path": lambda: "a\0b.jpg",
    "a float array": lambda: np.zeros((4, 4, 3), np.float32),
    "a batch": lambda: np.zeros((1, 4, 4, 3), np.uint8),
    "two channels": lambda: np.zeros((4, 4, 2), np.uint8),
    "an empty array": lambda: np.zeros((0, 4, 3), np.uint8),
    "a number": lambda: 7,
}


@pytest.mark.parametrize("form", ["EPS", "ICO", "PCX", "TGA", "PDF"])
def test_other_formats_are_refused_and_start_no_program(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ghostscript, started, photo = tmp_path / "gs", tmp_path / "started", tmp_path / "holiday.jpg"
    ghostscript.write_text(f"#!/bin/sh\ntouch {started}\n")
    ghostscript.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    Image.fromarray(picture(8, 8)).save(photo, form)
    with pytest.raises(
        BbgError, match=r"its format is not known.*give a readable file, one of BMP, GIF, JPEG, PNG, PPM, TIFF, WEBP"
    ):
        load_image(photo)
    assert not started.exists()


@pytest.mark.parametrize("case", BAD_IMAGES)
def test_what_is_no_image_is_refused(case: str) -> None:
    with pytest.raises(BbgError):
        PRESETS["cifar10"].apply(BAD_IMAGES[case]())


def test_the_error_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "broken.jpg"
    path.write_bytes(encoded(picture(200, 200), "JPEG")[:1500])
    with pytest.raises(BbgError, match=re.escape(f"{path}: is missing, damaged or no image")):
        load_image(path)


def test_a_large_image_is_refused_before_it_is_decoded() -> None:
    class Large(Image.Image):
        @property
        def size(self) -> tuple[int, int]:
            return MAX_PIXELS, 2

    with pytest.raises(BbgError, match="allowed are at most 80,000,000"):
        load_image(Large())


@pytest.mark.parametrize(("form", "mode", "most"), [("WEBP", "RGB", 40_000_000), ("TIFF", "F", 53_333_333)])
def test_formats_that_take_more_bytes_a_pixel_may_have_fewer(form: str, mode: str, most: int) -> None:
    class Large(Image.Image):
        @property
        def size(self) -> tuple[int, int]:
            return 10_000, most // 10_000 + 1

    picture = Large()
    picture.format, picture._mode = form, mode
    with pytest.raises(BbgError, match=f"allowed are at most {most:,}"):
        load_image(picture)


@pytest.mark.parametrize("size", [(1_000_001, 1), (1, 1_000_001)])
def test_a_picture_of_long_sides_is_refused(size: tuple[int, int]) -> None:
    file = BytesIO()
    Image.new("L", size).save(file, "PNG")
    with pytest.raises(BbgError, match="allowed are at most 1,000,000 on a side"):
        load_image(file.getvalue())


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("given", ["LAB", "HSV", "RGBa", "La", "YCbCr", "PA", "CMYK", "RGBX"])
def test_every_mode_of_a_picture_is_taken(given: str, mode: str) -> None:
    how = Preprocess(4, mode=mode, mean=(0.0,) * len(mode), std=(1.0,) * len(mode))
    picture = Image.new("RGBA", (4, 4), (200, 200, 200, 255))
    steps = {
        "LAB": ("RGB", "LAB"),
        "HSV": ("RGB", "HSV"),
        "RGBa": ("RGBA", "RGBa"),
        "La": ("LA", "La"),
        "PA": ("P", "PA"),
    }
    for step in steps.get(given, ("RGB", given)):
        picture = picture.convert(step)
    assert np.abs(how.apply(picture).astype(int) - 200).max() <= 3
    if given == "LAB":
        file = BytesIO()
        picture.save(file, "TIFF")
        assert np.abs(how.apply(file.getvalue()).astype(int) - 200).max() <= 3


def test_a_small_tiff_of_a_large_tile_is_refused() -> None:
    """A tile is decoded whole, which took gigabytes."""
    tags = [(256, 1), (257, 1), (258, 8), (259, 5), (262, 1), (277, 1), (322, 46000), (323, 46000), (324, 8), (325, 3)]
    head = struct.pack("<2sHI", b"II", 42, 12) + b"\x80\x00\x01\x00"
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    with pytest.raises(BbgError, match="46000 x 46000 pixels; allowed are at most 80,000,000"):
        load_image(head + struct.pack("<H", len(tags)) + entries + bytes(4))


def test_a_jpeg_of_many_scans_is_refused(tmp_path: Path) -> None:
    """Each goes over the whole picture: 4 kB took a minute."""
    huffman = b"".join(b"\xff\xc4\0\x14" + bytes([table, 1, *15 * [0], 0]) for table in (0x00, 0x10))
    head = b"\xff\xd8\xff\xdb\0\x43\0" + 64 * b"\1" + b"\xff\xc2" + struct.pack(">HBHHB", 11, 8, 8900, 8900, 1)
    scans = b"\xff\xda\0\x08\1\1\0\0\0\0\0" + 300 * b"\xff\xda\0\x08\1\1\0\1\x3f\0\0"
    data = head + b"\1\x11\0" + huffman + scans + b"\xff\xd9"
    (tmp_path / "x.jpg").write_bytes(data)
    for source in (data, tmp_path / "x.jpg"):
        with pytest.raises(BbgError, match="a JPEG of more than 25 scans, which are allowed at this size"):
            load_image(source)
    assert image_size(data) == (8900, 8900)


@pytest.mark.parametrize(
    "options",
    [{}, {"progressive": True}, {"restart_marker_blocks": 1}, {"progressive": True, "restart_marker_rows": 1}],
    ids=str,
)
def test_the_scans_of_a_jpeg_end_with_its_picture(options: dict[str, Any], tmp_path: Path) -> None:
    """Behind it may lie a video, or nothing, for gigabytes."""
    picture = np.random.default_rng(0).integers(0, 256, (200, 300, 3), np.uint8)
    data = encoded(picture, "JPEG", **options)
    scans = 10 if "progressive" in options else 1
    tail = np.random.default_rng(1).integers(0, 256, 2**24, np.uint8).tobytes()
    assert tail.count(b"\xff\xda") > 100
    for content in (data, data + tail):
        assert jpeg_scans(BytesIO(content), 99) == scans
        assert jpeg_scans(BytesIO(content), scans - 1) == scans
    assert np.array_equal(load_image(data + tail), load_image(data))
    (tmp_path / "x.jpg").write_bytes(data)
    os.truncate(tmp_path / "x.jpg", 2**34)
    tracemalloc.start()
    try:
        load_image(tmp_path / "x.jpg")
        assert tracemalloc.get_traced_memory()[1] < 2**24
    finally:
        tracemalloc.stop()


def test_an_array_of_more_pixels_than_a_file_may_have_is_refused() -> None:
    wide = np.broadcast_to(np.zeros((1, 1, 3), np.uint8), (2**20, 2**20, 3))
    with pytest.raises(BbgError, match="allowed are at most 80,000,000"):
        load_image(wide)
