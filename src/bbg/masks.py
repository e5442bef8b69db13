"""The answer of a segmentation: the class of each pixel of a picture.

mask = bbg.load("cells.bbg").segment("blood.jpg")
mask.shares                                   # {'background': 0.71, 'red cell': 0.26, 'white cell': 0.03}
mask.save("mask.png")                         # the classes as a PNG with a palette
mask.overlay("blood.jpg").save("seen.png")    # the picture with the classes in colour
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bbg.errors import BbgError
from bbg.files import write_bytes
from bbg.image import Source, load_image
from bbg.maps import IGNORED

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True, eq=False)
class Mask:
    """The class of each pixel of a picture.

    `classes`: uint8 `[H, W]`, of the picture's own size, upright; 255 where the preprocessing cropped the picture, so
    that the network did not see it. `labels`: the names of the classes, as many as the network has.
    """

    classes: np.ndarray = field(repr=False)
    labels: tuple[str, ...]

    @property
    def shares(self) -> dict[str, float]:
        """The share of each name of a class among the pixels that the network saw, in the order of the classes."""
        counts = np.bincount(self.classes.reshape(-1), minlength=IGNORED + 1)[:IGNORED]
        shares = dict.fromkeys(self.labels, 0.0)
        for label, count in zip(self.labels, counts.tolist(), strict=False):
            shares[label] += count / max(int(counts.sum()), 1)
        return shares

    def image(self) -> Image:
        """A Pillow image of mode P whose pixels are the classes, with VOC's colours."""
        from bbg import drawing

        return drawing.mask(self.classes)

    def overlay(self, picture: Source, strength: float = 0.5) -> Image:
        """The picture with the colours of the classes over it, their edges in full colour, as a Pillow image.

        `picture`: the one that was segmented: a path, bytes, a Pillow image or a uint8 array. `strength`: of the
        colours, 0 to 1. Class 0, which is black, leaves the picture as it is. Raises BbgError for a picture of another
        size, and for what is no image.
        """
        from bbg import drawing

        pixels = load_image(picture)
        if pixels.shape[:2] != self.classes.shape:
            came = " x ".join(map(str, pixels.shape[:2]))
            wanted = " x ".join(map(str, self.classes.shape))
            raise BbgError(f"the picture is {came}, the mask {wanted}; give the picture that was segmented")
        if not isinstance(strength, (int, float, np.number)) or not 0 <= strength <= 1:
            raise BbgError(f"strength is {strength!r}, allowed is 0 to 1")
        return drawing.overlay(pixels, self.classes, strength)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write `image()` to `path` as a PNG file, whole or not at all.

        Raises BbgError where the path cannot be written, and where its name does not end as that of a PNG file: other
        formats, as JPEG, change the numbers of the classes.
        """
        from bbg import drawing

        if Path(path).suffix.lower() != ".png":
            raise BbgError(f"a mask is written as PNG, got the path {str(path)!r}; give one that ends with .png")
        write_bytes(path, drawing.encoded(self.image()))
