"""The one evaluation preprocessing: decode, resize, crop, normalise (numpy and Pillow, no torch).

    x = (uint8 / 255 - mean) / std,    uint8 = crop(resize(image))

`Preprocess` states it, travels in the packed file, and yields the pixels of torchvision's evaluation transform on
Pillow images: bilinear resize with antialiasing, then a centre crop.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from io import BytesIO
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from bbg.errors import BbgError, allowed

if TYPE_CHECKING:
    from PIL.Image import Image

# A path, an encoded image, a Pillow image, or a uint8 array [H, W] or [H, W, 1 or 3].
Source: TypeAlias = "str | os.PathLike[str] | bytes | bytearray | Image | np.ndarray"

MAX_PIXELS = 80_000_000  # below Pillow's own limit for a "decompression bomb", and checked before anything is decoded
CHANNELS = {"RGB": 3, "L": 1}
ORIENTATION, MAX_SAMPLE_VALUE = 0x0112, 281  # tags of EXIF and of TIFF


def plain(value: Any) -> Any:
    """A number of numpy or torch as Python's own, an array as a list; anything else as it is."""
    return value.tolist() if hasattr(value, "tolist") else value


def _tuple(values: Any) -> tuple[Any, ...]:
    values = plain(values)
    return tuple(map(plain, values)) if isinstance(values, (list, tuple)) else (values,)


def _finite(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 2**63 and math.isfinite(value)


@dataclass(frozen=True)
class Preprocess:
    """From an image to the network's input.

    `size`: `(H, W)` of the result. `resize`: the short side's length before the centre crop; None resizes the whole
    image to `size`. `mode`: "RGB" or "L". `mean`, `std`: per channel, of pixels in [0, 1].
    """

    size: tuple[int, int]
    resize: int | None
    mode: str
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __init__(
        self,
        size: int | Sequence[int] | np.ndarray,
        resize: int | None = None,
        mode: str = "RGB",
        mean: Sequence[float] | np.ndarray = (0.0, 0.0, 0.0),
        std: Sequence[float] | np.ndarray = (1.0, 1.0, 1.0),
    ) -> None:
        values = {
            "size": (plain(size), plain(size)) if isinstance(plain(size), int) else _tuple(size),
            "resize": plain(resize),
            "mode": mode,
            "mean": _tuple(mean),
            "std": _tuple(std),
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)
        self._check()

    def _check(self) -> None:
        if self.mode not in CHANNELS:
            raise BbgError(f"preprocess mode is {self.mode!r}, allowed are 'RGB' and 'L'")
        if len(self.size) != 2 or not all(type(n) is int and 1 <= n < 2**16 for n in self.size):
            raise BbgError(f"preprocess size is {self.size!r}, allowed is (H, W) of integers from 1 to 65535")
        if self.resize is not None and not (type(self.resize) is int and max(self.size) <= self.resize < 2**16):
            raise BbgError(f"preprocess resize is {self.resize!r}, allowed is None or an integer >= {max(self.size)}")
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
        if given not in PRESETS:
            choice = allowed(given, PRESETS, "give a bbg.Preprocess or one of")
            raise BbgError(f"unknown preprocessing {given!r}; {choice}")
        return PRESETS[given]

    @classmethod
    def from_json(cls, value: Any) -> Preprocess:
        """The inverse of `to_json`; BbgError for anything else."""
        names = [f.name for f in fields(cls)]
        if not isinstance(value, dict) or sorted(value) != sorted(names):
            raise BbgError(f"preprocess is {value!r:.80}, it must be an object of {', '.join(names)}")
        if not isinstance(value["size"], list) or not isinstance(value["mode"], str):
            raise BbgError(f"preprocess has size {value['size']!r:.60}, mode {value['mode']!r:.60}; not [H, W], 'RGB'")
        return cls(**value)

    def to_json(self) -> dict[str, Any]:
        """A JSON object with the fields of this class."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(self).items()}

    def apply(self, source: Source) -> np.ndarray:
        """The pixels that the network sees: uint8 `[*size, channels]`. BbgError for what is no image."""
        from PIL import Image

        image = _open(source).convert(self.mode)
        height, width = self.size
        if self.resize is None:
            image = image.resize((width, height), Image.Resampling.BILINEAR)
        else:
            short = min(image.size)
            scaled = [self.resize if side == short else int(self.resize * side / short) for side in image.size]
            _check_pixels(scaled[0], scaled[1])
            image = image.resize((scaled[0], scaled[1]), Image.Resampling.BILINEAR)
            left, top = round((scaled[0] - width) / 2), round((scaled[1] - height) / 2)
            image = image.crop((left, top, left + width, top + height))
        return _pixels(image)

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
    return _pixels(_open(source).convert("RGB"))


def _open(source: Source) -> Image:
    from PIL import Image

    if isinstance(source, np.ndarray):
        return _from_array(source)
    file: BytesIO | str | os.PathLike[str] | None = None
    name = "image"
    if isinstance(source, (bytes, bytearray)):
        file = BytesIO(source)
    elif isinstance(source, (str, os.PathLike)):
        file, name = source, os.fspath(source)
    elif not isinstance(source, Image.Image):
        kind = type(source).__name__
        raise BbgError(f"an image is a path, bytes, a Pillow image or a uint8 array [H, W, 3], got {kind}")
    try:
        opened = source if isinstance(source, Image.Image) else Image.open(file)  # type: ignore[arg-type]
        _check_pixels(*opened.size)
        return _eight_bits(_upright(opened), opened)
    except BbgError as error:
        raise BbgError(f"{name}: {error}") from None
    except Exception as error:  # decoders raise whatever they like on damaged data
        raise BbgError(f"{name}: is missing, damaged or no image ({error}); give a readable image file") from error


def _from_array(array: np.ndarray) -> Image:
    from PIL import Image

    channels = array.shape[2:] or (1,)
    if array.dtype != np.uint8 or array.size == 0 or array.ndim < 2 or channels not in ((1,), (3,)):
        raise BbgError(f"an image array is uint8 [H, W], [H, W, 1] or [H, W, 3], got {array.dtype} {list(array.shape)}")
    return Image.fromarray(np.ascontiguousarray(array.reshape(array.shape[:2]) if channels == (1,) else array))


def _upright(image: Image) -> Image:
    """The pixels turned as the EXIF tag says. Pillow's own function writes all tags anew, and fails on odd ones."""
    from PIL.Image import Transpose

    try:
        orientation = image.getexif().get(ORIENTATION, 1)
    except Exception:  # a damaged block of tags says nothing of the pixels
        return image
    turn = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }.get(orientation)
    return image if turn is None else image.transpose(turn)


def _eight_bits(image: Image, file: Image) -> Image:
    """`image` decoded, with deeper greys brought to 8 bits, which Pillow's own conversion clips to black or white.

    `file`: the image as it was opened, which knows its format and its tags.
    """
    from PIL import Image

    image.load()
    if image.mode == "F":
        values = np.asarray(image)
        if not (values.min() >= 0 and values.max() <= 1):  # NaN is neither
            raise BbgError("a picture of floats is taken from 0 to 1, this one has others; scale it to 8 bits first")
        return Image.fromarray(np.rint(values * 255).astype(np.uint8))
    if not image.mode.startswith("I"):
        return image
    values = np.asarray(image).astype(np.int64)
    stated = getattr(file, "tag_v2", {}).get(MAX_SAMPLE_VALUE)
    largest = int(stated[0] if isinstance(stated, tuple) else stated or 65_535)
    if image.mode == "I" and file.format not in (None, "PPM") and stated is None:
        raise BbgError("a picture of 32-bit integers has no known range; scale it to 8 bits first")
    if values.min() < 0 or values.max() > largest:
        came = f"{values.min():,} to {values.max():,}"
        raise BbgError(f"a picture of 16 bits is taken from 0 to {largest:,}, this one has {came}; scale it to 8 bits")
    if stated is None and 0 < values.max() < 2**12:
        raise BbgError(
            f"a picture of 16 bits is taken from 0 to 65,535, but its largest value is {values.max():,}, as if it had "
            "fewer bits; scale it to 8 bits first"
        )
    return Image.fromarray((values * 256 // (largest + 1)).astype(np.uint8))


def _check_pixels(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise BbgError(f"{width} x {height} pixels; allowed are at most {MAX_PIXELS:,}")


def _pixels(image: Image) -> np.ndarray:
    array = np.array(image)
    return array if array.ndim == 3 else array[:, :, None]
