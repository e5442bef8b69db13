"""Scikit-learn's handwritten digits: 1,797 real images of 8x8 pixels that come inside the package."""

from __future__ import annotations

import numpy as np

from bbg.data.sets import ImageSet, Split
from bbg.image import Preprocess


def digits() -> Split:
    """Every fifth image is held out for testing: 1,437 training and 360 test images, `[N, 8, 8, 1]`."""
    from sklearn.datasets import load_digits

    raw = load_digits()
    # The set stores 17 grey levels, 0 to 16.
    images = np.clip(np.round(raw.images * (255 / 16)), 0, 255).astype(np.uint8)[..., None]
    labels = raw.target.astype(np.int64)
    held_out = np.arange(len(images)) % 5 == 0
    return Split(
        ImageSet(images[~held_out], labels[~held_out]),
        ImageSet(images[held_out], labels[held_out]),
        tuple(str(i) for i in range(10)),
        Preprocess.of("digits"),
    )
