"""Small sets in the layout of ImageNet."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from support.pictures import picture

CLASSES = ("n01440764", "n02012849", "n03126707", "n07920052")


def write_imagenet(root: Path, train: int = 6, val: int = 2, classes: tuple[str, ...] = CLASSES) -> Path:
    """Pictures of some 40 x 50 pixels, each class of a colour of its own, as JPEG files of ImageNet's names."""
    for half, count in (("train", train), ("val", val)):
        for number, name in enumerate(classes):
            folder = root / half / name
            folder.mkdir(parents=True)
            for i in range(count):
                seed = 1000 * number + i + (500 if half == "val" else 0)
                pixels = picture(40 + i % 5, 50 - i % 7, seed)
                pixels[..., number % 3] = np.uint8(40 + 60 * number)
                Image.fromarray(pixels).save(folder / f"{name}_{i:04d}.JPEG", quality=90)
    return root
