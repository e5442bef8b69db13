"""Pictures that are drawn, and their files."""

from __future__ import annotations

from io import BytesIO

import numpy as np
from PIL import Image


def picture(height: int = 40, width: int = 60, seed: int = 0) -> np.ndarray:
    """A smooth random RGB picture, uint8 `[H, W, 3]`."""
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 7, 3)).astype(np.uint8)
    return np.array(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def encoded(array: np.ndarray, form: str = "PNG", **options: object) -> bytes:
    buffer = BytesIO()
    Image.fromarray(array).save(buffer, form, **options)
    return buffer.getvalue()
