"""The one evaluation preprocessing: decode, resize, crop, normalise (numpy and Pillow, no torch).

    x = (uint8 / 255 - mean) / std,    uint8 = crop(resize(image))

`Preprocess` states it, travels in the packed file, and yields the pixels of torchvision's evaluation transform on
Pillow images: bilinear resize with antialiasing, then a centre crop.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

from bbg.errors import BbgError, allowed
from bbg.image.decoder import CHANNELS, Decoded, Source, check_pixels, in_mode, open_image, pixels_of
from bbg.maps import IGNORED, nearest

MAX_RESIZED = 32_000_000  # pixels of a square picture that is resized, which a packed file chooses
DECODE = ("whole", "scaled")


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
        check_pixels(*resized)
        image = in_mode(self.mode, decoded.image).resize(resized, Resampling.BILINEAR, decoded.box)
        if resized != (width, height):
            top, left = self._cropped(resized[1], resized[0])
            image = image.crop((left, top, left + width, top + height))
        return pixels_of(image)

    def picture(self, source: Source) -> np.ndarray:
        """The picture that `apply` would resize: decoded as `decode` says, upright, uint8 `[H, W, channels]`."""
        return pixels_of(in_mode(self.mode, self._decoded(source).image))

    def mask(self, classes: np.ndarray) -> np.ndarray:
        """The classes of a picture, uint8 `[H, W]`, brought to `size` as `apply` brings its pixels, by the nearest."""
        high, wide = classes.shape
        sides = zip(classes.shape, self._resized(wide, high)[::-1], strict=True)
        rows, columns = (nearest(have, want) for have, want in sides)
        top, left = self._cropped(len(rows), len(columns))
        found: np.ndarray = classes[np.ix_(rows[top:][: self.size[0]], columns[left:][: self.size[1]])]
        return found

    def restored(self, classes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """The classes of the pixels that `apply` made of a picture of `size` (H, W), back in the picture: uint8 `size`.

        By the nearest. What the crop left out is 255.
        """
        high, wide = self._resized(size[1], size[0])[::-1]
        places = []
        for want, resized, begin, have in zip(size, (high, wide), self._cropped(high, wide), self.size, strict=True):
            place = nearest(resized, want) - begin
            places.append(np.where((place >= 0) & (place < have), place, have))
        frame = np.pad(classes, ((0, 1), (0, 1)), constant_values=IGNORED)
        found: np.ndarray = frame[np.ix_(*places)]
        return found

    def located(self, boxes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """Boxes `[K, 4]` (left, top, right, bottom) in shares of the sides of what `apply` makes of a picture of `size`
        (H, W), in pixels of the picture: float64 `[K, 4]`.
        """
        wide, high = self._resized(size[1], size[0])
        top, left = self._cropped(high, wide)
        crop, stretch = (left, top, left, top), (size[1] / wide, size[0] / high) * 2
        found: np.ndarray = (boxes.astype(np.float64) * (self.size[::-1] * 2) + crop) * stretch
        return found

    def placed(self, boxes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """The inverse of `located`: boxes in pixels of a picture of `size`, in shares of the sides of the result."""
        wide, high = self._resized(size[1], size[0])
        top, left = self._cropped(high, wide)
        crop, stretch = (left, top, left, top), (wide / size[1], high / size[0]) * 2
        found: np.ndarray = (boxes.astype(np.float64) * stretch - crop) / (self.size[::-1] * 2)
        return found

    def _cropped(self, high: int, wide: int) -> tuple[int, int]:
        """Where the crop of a picture resized to `high` x `wide` begins: row and column."""
        return round((high - self.size[0]) / 2), round((wide - self.size[1]) / 2)

    def _decoded(self, source: Source) -> Decoded:
        return open_image(source, self._resized if self.decode == "scaled" else None)

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
