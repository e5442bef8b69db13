"""Small sets in the layout of Pascal VOC: rectangles of two colours on noise."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("blue", "red")
COLOURS = {"red": (230, 40, 40), "blue": (40, 60, 230)}

Object = tuple[str, float, float, float, float]  # class, xmin, ymin, xmax, ymax


def annotation(objects: Sequence[Object], difficult: Sequence[int] = ()) -> str:
    """An annotation with these objects."""
    rows = [
        f"<object><name>{name}</name><truncated>1</truncated><difficult>{int(i in difficult)}</difficult><bndbox>"
        f"<xmin>{a}</xmin><ymin>{b}</ymin><xmax>{c}</xmax><ymax>{d}</ymax></bndbox></object>"
        for i, (name, a, b, c, d) in enumerate(objects)
    ]
    return f"<annotation><segmented>0</segmented>{''.join(rows)}</annotation>"


def scene(seed: int, height: int = 48, width: int = 64) -> tuple[np.ndarray, list[Object]]:
    """A picture with up to three rectangles that do not overlap, and its objects."""
    draws = np.random.default_rng(seed)
    picture = draws.integers(90, 150, (height, width, 3)).astype(np.uint8)
    objects: list[Object] = []
    for third in range(3):
        if draws.random() < 0.3:
            continue
        name = CLASSES[draws.integers(0, 2)]
        wide, high = draws.integers(10, 18), draws.integers(12, 30)
        left, top = third * width // 3 + draws.integers(0, 3), draws.integers(0, height - high)
        picture[top : top + high, left : left + wide] = COLOURS[name]
        objects.append((name, int(left) + 1, int(top) + 1, int(left + wide), int(top + high)))
    return picture, objects


def write_image(home: Path, name: str, picture: np.ndarray, text: str) -> None:
    """An image and its annotation."""
    for folder in ("JPEGImages", "Annotations"):
        (home / folder).mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(home / "JPEGImages" / f"{name}.jpg", quality=95)
    (home / "Annotations" / f"{name}.xml").write_text(text)


def write_list(home: Path, half: str, names: Sequence[str]) -> None:
    """A list of images."""
    (home / "ImageSets" / "Main").mkdir(parents=True, exist_ok=True)
    (home / "ImageSets" / "Main" / f"{half}.txt").write_text("".join(f"{name}\n" for name in names))


def write_voc(home: Path, train: int = 24, val: int = 8) -> Path:
    """`home` as a set with the lists `train` and `val`."""
    for half, seeds in (("train", range(train)), ("val", range(1000, 1000 + val))):
        for seed in seeds:
            picture, objects = scene(seed)
            write_image(home, str(seed), picture, annotation(objects))
        write_list(home, half, [str(seed) for seed in seeds])
    return home
