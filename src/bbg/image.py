"""The one evaluation preprocessing: decode, resize, crop, normalise (numpy and Pillow, no torch).

    x = (uint8 / 255 - mean) / std,    uint8 = crop(resize(image))

`Preprocess` states it, travels in the packed file, and yields the pixels of torchvision's evaluation transform on
Pillow images: bilinear resize with antialiasing, then a centre crop.

The decoder is Pillow, here and nowhere else. Its JPEGs come from libjpeg-turbo, whose other bindings give the same bits
(docs/results.md, "Decoding").
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, fields
from io import BytesIO
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, TypeAlias

import numpy as np

from bbg.errors import BbgError, allowed
from bbg.formats import FORMATS, MAX_PIXELS
from bbg.metadata import BOTTOM_TO_TOP, RIGHT_TO_LEFT, SWAPPED, jpeg_scans, tiff_tag, turn_of, upright, without_metadata
from bbg.reading import regular_file

if TYPE_CHECKING:
    from PIL.Image import Image

# A path, an encoded image, a Pillow image, or a uint8 array [H, W] or [H, W, 1 or 3].
Source: TypeAlias = "str | os.PathLike[str] | bytes | bytearray | Image | np.ndarray"

# Checked before anything is decoded, beside the pixels: either side, as Pillow keeps a pointer for each row; and the
# bytes that the decoder takes at once.
MAX_SIDE = 1_000_000
MAX_BYTES = 640_000_000
MAX_RESIZED = 32_000_000  # pixels of a square picture that is resized, which a packed file chooses
MAX_SCANS, MAX_SCANNED = 100, 2_000_000_000  # of a JPEG, and pixels times scans; progressive ones have about ten
BYTES = 8  # per pixel: four as Pillow stores them, and as many of a copy
DEEP = {"WEBP": 16, "F": 12, "I": 12, "CMYK": 12}  # of a format or a mode that takes more
CHANNELS = {"RGB": 3, "L": 1}
GREY_OR_COLOUR = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")  # modes that go over into both
DECODE = ("whole", "scaled")
SPARE = 3  # times the resized sides that a JPEG decoded at a scale keeps at least
LARGEST_FILE = 2**28  # bytes of a file that is read once more, without its metadata
PHOTOMETRIC, MAX_SAMPLE_VALUE, TILE_WIDTH, TILE_LENGTH, SAMPLE_FORMAT = 262, 281, 322, 323, 339  # tags of TIFF
STRIP = 2**16  # pixels of a large picture that are handed over at a time
ADVICE = f"; give a readable file, one of {', '.join(FORMATS)}"


def plain(value: Any) -> Any:
    """A number of numpy or torch as Python's own, an array as a list; anything else as it is."""
    try:
        return value.tolist() if hasattr(value, "tolist") else value
    except (NotImplementedError, RuntimeError, TypeError):  # a tensor that has no values here
        return value


def _tuple(values: Any) -> tuple[Any, ...]:
    values = plain(values)
    return tuple(map(plain, values)) if isinstance(values, (list, tuple)) else (values,)


def _finite(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 2**63 and math.isfinite(value)


def _check_resized(width: int, height: int) -> None:
    if width * height > MAX_RESIZED:
        came = f"preprocess would resize a picture to {width} x {height} pixels"
        raise BbgError(f"{came}; allowed are at most {MAX_RESIZED:,}")


@dataclass(frozen=True)
class Preprocess:
    """From an image to the network's input.

    `size`: `(H, W)` of the result. `resize`: the short side's length before the centre crop; None resizes the whole
    image to `size`. `mode`: "RGB" or "L". `mean`, `std`: per channel, of pixels in [0, 1].

    `decode`: "whole" decodes every pixel of the file. "scaled" decodes a JPEG file at 1/k of its sides in the domain of
    its cosine transform, k the largest of 1, 2, 4, 8 that leaves at least three times the sides that the resize makes;
    other formats, and images that come decoded, are taken whole. It is some three times faster on photographs of 12
    million pixels, and changes nothing in those that are less than six times as large as the result.
    """

    size: tuple[int, int]
    resize: int | None
    mode: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    decode: str

    def __init__(
        self,
        size: int | Sequence[int] | np.ndarray,
        resize: int | None = None,
        mode: str = "RGB",
        mean: Sequence[float] | np.ndarray = (0.0, 0.0, 0.0),
        std: Sequence[float] | np.ndarray = (1.0, 1.0, 1.0),
        decode: str = "whole",
    ) -> None:
        values = {
            "size": (plain(size), plain(size)) if isinstance(plain(size), int) else _tuple(size),
            "resize": plain(resize),
            "mode": mode,
            "mean": _tuple(mean),
            "std": _tuple(std),
            "decode": decode,
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)
        self._check()

    def _check(self) -> None:
        if self.mode not in (*CHANNELS,):  # not all that may come has a hash
            raise BbgError(f"preprocess mode is {self.mode!r}, allowed are 'RGB' and 'L'")
        if self.decode not in DECODE:
            raise BbgError(f"preprocess decode is {self.decode!r}, allowed are 'whole' and 'scaled'")
        if len(self.size) != 2 or not all(type(n) is int and 1 <= n < 2**16 for n in self.size):
            raise BbgError(f"preprocess size is {self.size!r}, allowed is (H, W) of integers from 1 to 65535")
        if self.resize is not None and not (type(self.resize) is int and max(self.size) <= self.resize < 2**16):
            raise BbgError(f"preprocess resize is {self.resize!r}, allowed is None or an integer >= {max(self.size)}")
        _check_resized(*self._resized(*reversed(self.size)))
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != CHANNELS[self.mode] or not all(_finite(v) for v in values):
                raise BbgError(f"preprocess {name} is {values!r}, it must hold {CHANNELS[self.mode]} finite numbers")
        if min(self.std) < 1e-6:
            raise BbgError(f"preprocess std is {self.std!r}, each must be at least 1e-6")

    @classmethod
    def of(cls, given: Preprocess | str) -> Preprocess:
        """`given`, or the preset of that name; BbgError for an unknown name."""
        if isinstance(given, Preprocess):
            return given
        if given not in (*PRESETS,):
            choice = allowed(given, PRESETS, "give a bbg.Preprocess or one of")
            raise BbgError(f"unknown preprocessing {given!r}; {choice}")
        return PRESETS[given]

    @classmethod
    def from_json(cls, value: Any) -> Preprocess:
        """The inverse of `to_json`; BbgError for anything else."""
        names = [f.name for f in fields(cls)]
        if not isinstance(value, dict) or sorted({"decode", *value}) != sorted(names):
            raise BbgError(f"preprocess is {value!r:.80}, it must be an object of {', '.join(names)}")
        if not isinstance(value["size"], list) or not isinstance(value["mode"], str):
            raise BbgError(f"preprocess has size {value['size']!r:.60}, mode {value['mode']!r:.60}; not [H, W], 'RGB'")
        if not isinstance(value.get("decode", ""), str):
            raise BbgError(f"preprocess has decode {value['decode']!r:.60}, allowed are 'whole' and 'scaled'")
        return cls(**value)

    def to_json(self) -> dict[str, Any]:
        """A JSON object with the fields of this class; `decode` only where it is not "whole"."""
        found = {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(self).items()}
        return {name: v for name, v in found.items() if (name, v) != ("decode", "whole")}

    def apply(self, source: Source) -> np.ndarray:
        """The pixels that the network sees: uint8 `[*size, channels]`. BbgError for what is no image."""
        from PIL.Image import Resampling

        decoded = self._decoded(source)
        height, width = self.size
        resized = self._resized(*decoded.size)
        _check_pixels(*resized)
        image = _as(self.mode, decoded.image).resize(resized, Resampling.BILINEAR, decoded.box)
        if resized != (width, height):
            left, top = round((resized[0] - width) / 2), round((resized[1] - height) / 2)
            image = image.crop((left, top, left + width, top + height))
        return _pixels(image)

    def picture(self, source: Source) -> np.ndarray:
        """The picture that `apply` would resize: decoded as `decode` says, upright, uint8 `[H, W, channels]`."""
        return _pixels(_as(self.mode, self._decoded(source).image))

    def _decoded(self, source: Source) -> _Decoded:
        return _open(source, self._resized if self.decode == "scaled" else None)

    def _resized(self, width: int, height: int) -> tuple[int, int]:
        """Width and height to which a picture is resized, before the crop."""
        if self.resize is None:
            return self.size[1], self.size[0]
        short, resize = min(width, height), self.resize
        wide, high = (resize if side == short else int(resize * side / short) for side in (width, height))
        return wide, high

    def affine(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """`(scale, bias)`, a number per channel each: `(x / 255 - mean) / std` is `scale * x + bias`."""
        scale = tuple(1 / (255 * std) for std in self.std)
        return scale, tuple(-mean / std for mean, std in zip(self.mean, self.std, strict=True))

    def normalize(self, pixels: np.ndarray) -> np.ndarray:
        """uint8 `[N, *size, channels]` (or any H, W) to float32 `[N, channels, H, W]`: `(x / 255 - mean) / std`."""
        channels = CHANNELS[self.mode]
        if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[3] != channels:
            raise BbgError(f"normalize takes uint8 [N, H, W, {channels}], got {pixels.dtype} {list(pixels.shape)}")
        x = pixels.transpose(0, 3, 1, 2).astype(np.float32, order="C")
        x /= np.float32(255)
        x -= np.asarray(self.mean, np.float32).reshape(-1, 1, 1)
        x /= np.asarray(self.std, np.float32).reshape(-1, 1, 1)
        return x


PRESETS = {
    "cifar10": Preprocess(32, mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616)),
    "cifar100": Preprocess(32, mean=(0.5071, 0.4865, 0.4409), std=(0.2673, 0.2564, 0.2762)),
    "imagenet": Preprocess(224, 256, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
    "digits": Preprocess(8, mode="L", mean=(0.3053,), std=(0.3760,)),
}


def load_image(source: Source) -> np.ndarray:
    """`source` (a path, bytes, a Pillow image, or a uint8 array) as uint8 `[H, W, 3]`, turned upright by its EXIF tag.

    Deeper pictures are brought to 8 bits: 16-bit greys from 0 to 65,535 (or the largest value that a TIFF states), and
    floats from 0 to 1. Raises BbgError for a file that is missing, truncated, no image, or larger than 80 million
    pixels, and for a picture whose range is not known: integers of 32 bits, other floats, 16 bits of which fewer than
    13 are used.
    """
    return _pixels(_as("RGB", _open(source).image))


def image_size(source: Source) -> tuple[int, int]:
    """`(H, W)` of an image, upright. Of a file only the head is read, but a PNG tells at its end how it lies.

    Raises BbgError as `load_image`.
    """
    return _open(source, pixels=False).size[::-1]


class _Decoded(NamedTuple):
    """A picture, upright and with 8 bits a channel.

    `size`: width and height of the whole picture. `box`: where it lies in `image` (left, top, right, bottom), of which
    one decoded at a scale covers a fraction of a pixel more.
    """

    image: Image
    size: tuple[int, int]
    box: tuple[float, float, float, float]


def _open(
    source: Source, resized: Callable[[int, int], tuple[int, int]] | None = None, pixels: bool = True
) -> _Decoded:
    """Decode `source`; at a scale where `resized` tells the width and height that a picture will be resized to."""
    from PIL import Image

    if isinstance(source, np.ndarray):
        image = _from_array(source)
        return _Decoded(image, image.size, (0, 0, *image.size))
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
) -> _Decoded:
    """`opened` decoded, as `_open` says; `file`: what it was opened from, None for the caller's own image."""
    _check_pixels(*opened.size, max(DEEP.get(opened.format or "", BYTES), DEEP.get(opened.mode, BYTES)))
    tile = tiff_tag(opened, TILE_WIDTH), tiff_tag(opened, TILE_LENGTH)  # decoded whole, however small the picture is
    if all(type(side) is int for side in tile):
        _check_pixels(*tile)
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
    return _Decoded(image, (width, height), (left, top, left + width / scale, top + height / scale))


def _from_array(array: np.ndarray) -> Image:
    from PIL import Image

    channels = array.shape[2:] or (1,)
    if array.dtype != np.uint8 or array.size == 0 or array.ndim < 2 or channels not in ((1,), (3,)):
        raise BbgError(f"an image array is uint8 [H, W], [H, W, 1] or [H, W, 3], got {array.dtype} {list(array.shape)}")
    _check_pixels(array.shape[1], array.shape[0])
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


def _check_pixels(width: int, height: int, each: int = BYTES) -> None:
    most = min(MAX_PIXELS, MAX_BYTES // each)
    if width * height > most:
        raise BbgError(f"{width} x {height} pixels; allowed are at most {most:,}")
    if max(width, height) > MAX_SIDE:
        raise BbgError(f"{width} x {height} pixels; allowed are at most {MAX_SIDE:,} on a side")


def _as(mode: str, image: Image) -> Image:
    """`image` in that mode. Pillow's own conversion copies one that has it already."""
    return image if image.mode == mode else image.convert(mode)


def _pixels(image: Image) -> np.ndarray:
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
