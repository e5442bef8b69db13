"""An image set in memory."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from bbg.image import Preprocess


class ImageSet(NamedTuple):
    """`images` uint8 `[N, H, W, C]`, `labels` int64 `[N]`, `skipped` files that could not be read."""

    images: np.ndarray
    labels: np.ndarray
    skipped: int = 0


class Split(NamedTuple):
    """Training and test images of one set, its class names, and the evaluation preprocessing that goes with it."""

    train: ImageSet
    test: ImageSet
    classes: tuple[str, ...]
    preprocess: Preprocess
