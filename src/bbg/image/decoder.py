"""The one decoder: a file, bytes, a Pillow image or an array as an upright picture of 8 bits a channel.

It is Pillow, here and nowhere else. Its JPEGs come from libjpeg-turbo, whose other bindings give the same bits
(docs/results.md, "Decoding").
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from io import BytesIO
from typing import TYPE_CHECKING, BinaryIO, NamedTuple, TypeAlias

import numpy as np

from bbg.errors import BbgError
from bbg.formats import FORMATS, MAX_PIXELS
from bbg.image.metadata import (
    BOTTOM_TO_TOP,
    RIGHT_TO_LEFT,
    SWAPPED,
    jpeg_scans,
    tiff_tag,
    turn_of,
    upright,
    without_metadata,
)
from bbg.reading import regular_file

if TYPE_CHECKING:
    from PIL.Image import Image

# A path, an encoded image, a Pillow image, or a uint8 array [H, W] or [H, W, 1 or 3].
Source: TypeAlias = "str | os.PathLike[str] | bytes | bytearray | Image | np.ndarray"

# Checked before anything is decoded, beside the pixels: either side, as Pillow keeps a pointer for each row; and the
# bytes that the decoder takes at once.
MAX_SIDE = 1_000_000
MAX_BYTES = 640_000_000
MAX_SCANS, MAX_SCANNED = 100, 2_000_000_000  # of a JPEG, and pixels times scans; progressive ones have about ten
BYTES = 8  # per pixel: four as Pillow stores them, and as many of a copy
DEEP = {"WEBP": 16, "F": 12, "I": 12, "CMYK": 12}  # of a format or a mode that takes more
CHANNELS = {"RGB": 3, "L": 1}
GREY_OR_COLOUR = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")  # modes that go over into both
SPARE = 3  # times the resized sides that a JPEG decoded at a scale keeps at least
LARGEST_FILE = 2**28  # bytes of a file that is read once more, without its metadata
PHOTOMETRIC, MAX_SAMPLE_VALUE, TILE_WIDTH, TILE_LENGTH, SAMPLE_FORMAT = 262, 281, 322, 323, 339  # tags of TIFF
STRIP = 2**16  # pixels of a large picture that are handed over at a time
ADVICE = f"; give a readable file, one of {', '.join(FORMATS)}"


def load_image(source: Source) -> np.ndarray:
    """`source` (a path, bytes, a Pillow image, or a uint8 array) as uint8 `[H, W, 3]`, turned upright by its EXIF tag.

    Deeper pictures are brought to 8 bits: 16-bit greys from 0 to 65,535 (or the largest value that a TIFF states), and
    floats from 0 to 1. Raises BbgError for a file that is missing, truncated, no image, or larger than 80 million
    pixels, and for a picture whose range is not known: integers of 32 bits, other floats, 16 bits of which fewer than
    13 are used.
    """
    return pixels_of(in_mode("RGB", open_image(source).image))


def image_size(source: Source) -> tuple[int, int]:
    """`(H, W)` of an image, upright. Of a file only the head is read, but a PNG tells at its end how it lies.

    Raises BbgError as `load_image`.
    """
    return open_image(source, pixels=False).size[::-1]


class Decoded(NamedTuple):
    """A picture, upright and with 8 bits a channel.

    `size`: width and height of the whole picture. `box`: where it lies in `image` (left, top, right, bottom), of which
    one decoded at a scale covers a fraction of a pixel more.
    """

    image: Image
    size: tuple[int, int]
    box: tuple[float, float, float, float]


def open_image(
    source: Source, resized: Callable[[int, int], tuple[int, int]] | None = None, pixels: bool = True
) -> Decoded:
    """Decode `source`; at a scale where `resized` tells the width and height that a picture will be resized to."""
    from PIL import Image

    if isinstance(source, np.ndarray):
        image = _from_array(source)
        return Decoded(image, image.size, (0, 0, *image.size))
    name = os.fspath(source) if isinstance(source, (str, os.PathLike)) else "image"
    if not isinstance(source, (bytes, bytearray, str, os.PathLike, Image.Image)):
        kind = type(source).__name__
        raise BbgError(f"an image is a path, bytes, a Pillow image or a uint8 array [H, W, 3], got {kind}")
    try:
        try:
            if isinstance(source, Image.Image):
                return _decode(source, None, resized, pixels)
            with _stream(source) as file:
                return _decode(Image.open(file, formats=[*FORMATS]), file, resized, pixels)
        except BbgError:
            raise
        except Exception:
            bare = _bare(source)
            if bare is None:
                raise
        return _decode(Image.open(bare, formats=[*FORMATS]), bare, resized, pixels)
    except BbgError as error:
        raise BbgError(f"{name}: {error}") from None
    except Exception as error:  # decoders raise whatever they like on damaged data
        raise BbgError(f"{name}: is missing, damaged or no image ({_why(error)}){ADVICE}") from error


def _stream(source: str | os.PathLike[str] | bytes | bytearray) -> AbstractContextManager[BinaryIO]:
    return BytesIO(source) if isinstance(source, (bytes, bytearray)) else regular_file(source)


def reason_of(name: str, error: str) -> str:
    """What `error` says of the image `name`, for a list that has the name, and says once what to do."""
    return error.removeprefix(f"{name}: ").removesuffix(ADVICE)


def _why(error: Exception) -> str:
    """What a decoder says, without the name of the file, which the sentence has."""
    from PIL import UnidentifiedImageError

    if isinstance(error, UnidentifiedImageError):
        return "its format is not known"
    return (isinstance(error, OSError) and error.strerror) or str(error)


def _bare(source: Source) -> BytesIO | None:
    """The file `source` without metadata, where it has some."""
    if isinstance(source, (str, os.PathLike)):
        with regular_file(source) as file:
            source = file.read(LARGEST_FILE)
    bare = without_metadata(bytes(source)) if isinstance(source, (bytes, bytearray)) else None
    return None if bare is None else BytesIO(bare)


def _decode(
    opened: Image, file: BinaryIO | None, resized: Callable[[int, int], tuple[int, int]] | None, pixels: bool
) -> Decoded:
    """`opened` decoded, as `open_image` says; `file`: what it was opened from, None for the caller's own image."""
    check_pixels(*opened.size, max(DEEP.get(opened.format or "", BYTES), DEEP.get(opened.mode, BYTES)))
    tile = tiff_tag(opened, TILE_WIDTH), tiff_tag(opened, TILE_LENGTH)  # decoded whole, however small the picture is
    if all(type(side) is int for side in tile):
        check_pixels(*tile)
    if pixels and opened.format in ("JPEG", "MPO") and file is not None:
        most = min(MAX_SCANS, MAX_SCANNED // (opened.width * opened.height))
        if jpeg_scans(file, most) > most:
            raise BbgError(f"a JPEG of more than {most} scans, which are allowed at this size")
    deep = _has_16_bits(opened)  # told by what is not there any more once it is decoded, as a look for EXIF may do
    turn = turn_of(opened)
    width, height = opened.size if turn not in SWAPPED else opened.size[::-1]
    scale = 1.0
    if resized is not None and file is not None:  # the caller's own image is not changed
        wide, high = (SPARE * side for side in resized(width, height))
        before = opened.size[0]
        drafted = opened.draft(None, (wide, high) if turn not in SWAPPED else (high, wide))
        scale = 1.0 if drafted is None else before / drafted[1][2]  # only a JPEG has scales
    image = upright(_eight_bits(opened, deep), turn) if pixels else opened
    left = image.width - width / scale if turn in RIGHT_TO_LEFT else 0
    top = image.height - height / scale if turn in BOTTOM_TO_TOP else 0
    return Decoded(image, (width, height), (left, top, left + width / scale, top + height / scale))


def _from_array(array: np.ndarray) -> Image:
    from PIL import Image

    channels = array.shape[2:] or (1,)
    if array.dtype != np.uint8 or array.size == 0 or array.ndim < 2 or channels not in ((1,), (3,)):
        raise BbgError(f"an image array is uint8 [H, W], [H, W, 1] or [H, W, 3], got {array.dtype} {list(array.shape)}")
    check_pixels(array.shape[1], array.shape[0])
    return Image.fromarray(np.ascontiguousarray(array.reshape(array.shape[:2]) if channels == (1,) else array))


def _has_16_bits(file: Image) -> bool:
    """Whether a channel has 16 bits in the file; what Pillow makes of colours has 8."""
    packings = [tile.args if isinstance(tile.args, str) else tile.args[:1] for tile in getattr(file, "tile", ())]
    return any(";16" in str(packing) for packing in packings)


def _eight_bits(file: Image, deep: bool) -> Image:
    """`file` decoded, with deeper greys brought to 8 bits, which Pillow's own conversion clips to black or white."""
    from PIL import Image

    file.load()
    if tiff_tag(file, SAMPLE_FORMAT) == 2 and not file.mode.startswith("I"):
        raise BbgError("a picture of signed integers has no known range; scale it to 8 bits first")
    if file.mode == "F" or file.mode.startswith("I"):
        values = _scaled(file)
        return Image.fromarray(255 - values if tiff_tag(file, PHOTOMETRIC) == 0 else values)  # where 0 is white
    if deep:  # Pillow took the upper 8 bits of 16
        _check_bits(256 * int(np.asarray(file.convert("RGB")).max()) + 255, "at most ")
    if file.mode in ("La", "RGBa"):  # which Pillow turns into nothing else
        return file.convert(f"{file.mode[:-1]}A")
    return file if file.mode in GREY_OR_COLOUR else file.convert("RGB")


def _scaled(file: Image) -> np.ndarray:
    """The numbers of a deep grey picture as bytes, by its known range."""
    values: np.ndarray = np.asarray(file)
    if file.mode == "F":
        if not (values.min() >= 0 and values.max() <= 1):  # NaN is neither
            raise BbgError("a picture of floats is taken from 0 to 1, this one has others; scale it to 8 bits first")
        return _by_strips(values, lambda strip: np.rint(strip * 255))
    stated = tiff_tag(file, MAX_SAMPLE_VALUE)
    largest = int(stated or 65_535)
    if file.mode == "I" and file.format not in (None, "PPM") and stated is None:
        raise BbgError("a picture of 32-bit integers has no known range; scale it to 8 bits first")
    if values.min() < 0 or values.max() > largest:
        came = f"{values.min():,} to {values.max():,}"
        raise BbgError(f"a picture of 16 bits is taken from 0 to {largest:,}, this one has {came}; scale it to 8 bits")
    if stated is None and values.any():
        _check_bits(int(values.max()))
    return _by_strips(values, lambda strip: strip.astype(np.int64) * 256 // (largest + 1))


def _by_strips(values: np.ndarray, scale: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """`scale` of the numbers `[H, W]` as bytes, some rows at a time: all at once would take eight times the memory."""
    scaled = np.empty(values.shape, np.uint8)
    rows = max(1, STRIP // values.shape[1])
    for top in range(0, len(values), rows):
        scaled[top : top + rows] = scale(values[top : top + rows])
    return scaled


def _check_bits(largest: int, how: str = "") -> None:
    if largest < 2**12:
        raise BbgError(
            f"a picture of 16 bits is taken from 0 to 65,535, but its largest value is {how}{largest:,}, as if it had "
            "fewer bits; scale it to 8 bits first"
        )


def check_pixels(width: int, height: int, each: int = BYTES) -> None:
    most = min(MAX_PIXELS, MAX_BYTES // each)
    if width * height > most:
        raise BbgError(f"{width} x {height} pixels; allowed are at most {most:,}")
    if max(width, height) > MAX_SIDE:
        raise BbgError(f"{width} x {height} pixels; allowed are at most {MAX_SIDE:,} on a side")


def in_mode(mode: str, image: Image) -> Image:
    """`image` in that mode. Pillow's own conversion copies one that has it already."""
    return image if image.mode == mode else image.convert(mode)


def pixels_of(image: Image) -> np.ndarray:
    """The pixels of a picture in mode "RGB" or "L"; of a large one a strip of rows at a time.

    Pillow collects pixels as pieces of bytes and joins them, and numpy copies the whole. For 12 million pixels that is
    three times 36 MB, fresh from the system, which takes as long as decoding. Strips use the same memory again.
    """
    width, height = image.size
    if width * height <= 4 * STRIP:
        return np.array(image).reshape(height, width, -1)
    pixels = np.empty((height, width, CHANNELS[image.mode]), np.uint8)
    rows = max(1, STRIP // width)
    for top in range(0, height, rows):
        strip = image.crop((0, top, width, min(top + rows, height)))
        pixels[top : top + rows] = np.asarray(strip).reshape(-1, width, pixels.shape[2])
    return pixels
