"""Pictures of more than 8 bits a channel: scaled by their known range, or refused, and never black."""

from __future__ import annotations

import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from PIL import Image
from support.pictures import encoded, picture

from bbg.errors import BbgError
from bbg.image import load_image

GREY = np.tile(np.arange(0, 256, 8, dtype=np.uint8), (32, 1))


DEEP: dict[str, tuple[np.ndarray, dict[int, int], str | None]] = {  # pixels, tags, and why they are refused
    "uint8": (GREY, {}, None),
    "16 bits": (GREY.astype(np.uint16) * 257, {}, None),
    "12 bits, stated": (GREY.astype(np.uint16) * 16, {281: 4095}, None),
    "12 bits, not stated": (GREY.astype(np.uint16) * 16, {}, "its largest value is 3,968"),
    "more than stated": (GREY.astype(np.uint16) * 32, {281: 4095}, "taken from 0 to 4,095, this one has 0 to 7,936"),
    "int32 of 8 bits": (GREY.astype(np.int32), {}, "32-bit integers has no known range"),
    "int32 of 32 bits": (GREY.astype(np.int32) * 2**22, {}, "32-bit integers has no known range"),
    "float32 from 0 to 1": ((GREY / 255).astype(np.float32), {}, None),
    "float32 of 16 bits": (GREY.astype(np.float32) * 257, {}, "floats is taken from 0 to 1"),
    "float32 below 0": (-(GREY / 255).astype(np.float32), {}, "floats is taken from 0 to 1"),
    "not a number": (np.full((4, 4), np.nan, np.float32), {}, "floats is taken from 0 to 1"),
    "8 bits, white is 0": (255 - GREY, {262: 0}, None),
    "16 bits, white is 0": ((255 - GREY.astype(np.uint16)) * 257, {262: 0}, None),
    "floats, white is 0": (1 - (GREY / 255).astype(np.float32), {262: 0}, None),
    "signed 16 bits": (GREY.astype(np.uint16) * 128, {339: 2}, "32-bit integers has no known range"),
    "signed 8 bits": (GREY // 2, {339: 2}, "signed integers has no known range"),
}


def tiff(pixels: np.ndarray, tags: dict[int, int]) -> bytes:
    """The pixels as a TIFF of our own, as Pillow does not write all kinds that there are."""
    kind, channels = 3 if pixels.dtype.kind == "f" else 1, pixels.shape[2] if pixels.ndim == 3 else 1
    height, width = pixels.shape[:2]
    size = len(pixels.tobytes())
    entries: dict[int, tuple[int, ...]] = {256: (width,), 257: (height,), 258: (8 * pixels.itemsize,) * channels}
    entries |= {259: (1,), 262: (1 if channels == 1 else 2,), 273: (8,), 277: (channels,), 278: (height,)}
    entries |= {279: (size,), 339: (kind,) * channels, **{tag: (value,) for tag, value in tags.items()}}
    behind = 8 + size
    beside, directory = b"", struct.pack("<H", len(entries))
    for tag, values in sorted(entries.items()):
        packed = struct.pack(f"<{len(values)}H", *values)
        if len(packed) > 4:
            at = behind + 2 + 12 * len(entries) + 4 + len(beside)
            beside += packed
            packed = struct.pack("<I", at)
        directory += struct.pack("<HHI", tag, 3, len(values)) + packed.ljust(4, b"\0")
    return b"II" + struct.pack("<HI", 42, behind) + pixels.tobytes() + directory + struct.pack("<I", 0) + beside


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_a_deep_picture_takes_few_bytes_a_pixel(dtype: type) -> None:
    """156 kB of a 16-bit PNG took 1.6 GB."""
    grey = np.linspace(0, 1, 1200 * 1000).reshape(1200, 1000)
    image = Image.fromarray((grey * 65_535).astype(dtype) if dtype is np.uint16 else grey.astype(dtype))
    load_image(image)  # imports what it needs
    tracemalloc.start()
    found = load_image(image)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found.shape == (1200, 1000, 3)
    assert np.abs(found[:, :, 0] - 255 * grey).max() <= 1
    assert peak < 13 * grey.size, f"{peak / grey.size:.1f} bytes a pixel"


@pytest.mark.parametrize("case", DEEP)
def test_deep_pictures_are_scaled_or_refused_and_never_black(case: str) -> None:
    pixels, tags, refused = DEEP[case]
    if refused is None:
        assert np.array_equal(load_image(tiff(pixels, tags)), np.repeat(GREY[:, :, None], 3, 2))
        return
    with pytest.raises(BbgError, match=refused):
        load_image(tiff(pixels, tags))


def test_deep_colours_are_scaled_or_refused_and_never_black() -> None:
    colours = picture(8, 9).astype(np.uint16)
    assert np.array_equal(load_image(tiff(colours * 257, {})), colours)
    for fewer in (colours * 16, colours):
        with pytest.raises(BbgError, match="its largest value is at most"):
            load_image(tiff(fewer, {}))


def test_a_16_bit_png_and_pgm_are_read_whole() -> None:
    deep = GREY.astype(np.uint16) * 257
    pgm = b"P5 32 32 65535\n" + deep.astype(">u2").tobytes()
    for source in (encoded(deep), pgm):
        assert np.array_equal(load_image(source)[..., 0], GREY)


def deep_png(kind: int, channels: int, value: int) -> bytes:
    """A PNG of 4 x 4 pixels with 16 bits a channel, all of one value; Pillow writes none of colours."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    rows = (b"\0" + struct.pack(">H", value) * channels * 4) * 4
    head = struct.pack(">IIBBBBB", 4, 4, 16, kind, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize(("kind", "channels"), [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_a_png_of_16_bits_that_uses_fewer_is_refused(kind: int, channels: int) -> None:
    """It came out nearly black: the look for EXIF had decoded it before its bits were asked for."""
    assert np.abs(load_image(deep_png(kind, channels, 0x8080)).astype(int) - 0x80).max() <= 1
    for value in (255, 1023, 4095):
        with pytest.raises(BbgError, match="as if it had fewer bits"):
            load_image(deep_png(kind, channels, value))
