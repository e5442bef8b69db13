"""Handwritten digits: 1,797 real images of 8x8 pixels that come inside the package (`digits.npz`).

They are the test part of the UCI set "Optical Recognition of Handwritten Digits" (E. Alpaydin and C. Kaynak, 1998,
CC BY 4.0), as scikit-learn ships it, with its 17 grey levels spread over 0 to 255.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bbg.data.sets import Entry, ImageSet, Split
from bbg.image import Preprocess

FILE = Path(__file__).with_name("digits.npz")


def digits() -> Split:
    """Every fifth image is held out for testing: 1,437 training and 360 test images, `[N, 8, 8, 1]`."""
    with np.load(FILE) as stored:
        images, labels = stored["images"], stored["labels"].astype(np.int64)
    held_out = np.arange(len(images)) % 5 == 0
    classes, preprocess = tuple(str(i) for i in range(10)), Preprocess.of("digits")
    return Split(
        ImageSet(images[~held_out], labels[~held_out], classes, preprocess),
        ImageSet(images[held_out], labels[held_out], classes, preprocess),
    )


DIGITS = Entry(lambda root, wanted: digits(), needs_folder=False, title="digits")
