"""SSD's random transforms of a picture with boxes (arXiv 1512.02325, section 3.6), by torchvision.

What is drawn for a picture is a function of (seed, epoch, its index) alone, as in `bbg.data.transforms`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision import tv_tensors
from torchvision.transforms import v2

from bbg.data.augment import PICTURE, draw
from bbg.data.boxed import COLUMNS, BoxSet
from bbg.data.transforms import seeded
from bbg.image import Preprocess

LEAST_CROPPED = 32  # pixels of the short side of a picture that is cropped
SMALLEST = 1.0  # pixels of the input that a side of a box has at least behind a crop


@dataclass(frozen=True)
class BoxPictures:
    """What is done to each training picture with its boxes, in this order.

    `expand`: every second picture is laid into a frame of the mean colour, of up to `expand` times its sides; 1 for
    none. `scale`: a crop of `scale` to 1 of either side, whose IoU with a box is at least a number that is drawn, or
    the whole picture; of the boxes those stay whose middle is in it. None: neither of both. `flip`: every second
    picture is mirrored. `colour`: brightness, contrast, saturation and hue are changed, at 0.5 as much as in SSD.
    """

    scale: float | None = None
    expand: float = 1.0
    flip: bool = False
    colour: float = 0.0

    operations = 0  # of RandAugment, which moves pixels and not boxes

    def __bool__(self) -> bool:
        return self.scale is not None or self.flip or self.colour > 0

    def read_pair(self, data: BoxSet, index: int, seed: int, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Training picture `index` of an epoch, uint8 `[H, W, C]` of the size of the input, and its target."""
        item, (high, wide) = data.items[index], data.preprocess.size
        if self.scale is None:
            pixels, rows = data.read(index)
            rows = rows[rows[:, 0] >= 0]
            boxes = rows[:, 1:5] * (wide, high, wide, high)
            classes, difficult = rows[:, 0], rows[:, 5]
        else:
            pixels = data.picture(index)
            stretch = (pixels.shape[1] / item.size[1], pixels.shape[0] / item.size[0]) * 2  # decoded at a scale
            boxes, classes, difficult = item.truth.boxes * stretch, item.truth.classes, item.truth.difficult
        sample: dict[str, Any] = {
            "image": Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels),
            "boxes": tv_tensors.BoundingBoxes(
                torch.from_numpy(np.asarray(boxes, np.float32)), format="XYXY", canvas_size=pixels.shape[:2]
            ),
            "labels": torch.arange(len(classes)),
        }
        with seeded(int(draw(seed, epoch, np.array([index]), PICTURE)[0] >> np.uint64(1))):
            for step in _steps(self, data.preprocess):
                if isinstance(step, v2.RandomIoUCrop) and min(sample["image"].size) < LEAST_CROPPED:
                    continue  # it would divide by a side of no pixels
                sample = step(sample)
        changed = np.array(sample["image"])
        kept = sample["labels"].numpy()
        target = np.zeros((data.labels.shape[1], COLUMNS), np.float32)
        target[:, 0] = -1
        target[: len(kept), 0], target[: len(kept), 5] = classes[kept], difficult[kept]
        target[: len(kept), 1:5] = sample["boxes"].numpy() / np.array((wide, high, wide, high), np.float32)
        return changed.reshape(*changed.shape[:2], -1), target


@lru_cache(maxsize=4)
def _steps(pictures: BoxPictures, preprocess: Preprocess) -> list[torch.nn.Module]:
    steps: list[torch.nn.Module] = []
    if pictures.scale is not None:
        if pictures.expand > 1:
            mean = [round(255 * mean) for mean in preprocess.mean]
            steps.append(v2.RandomZoomOut(fill=mean if len(mean) > 1 else mean[0], side_range=(1.0, pictures.expand)))
        steps += [
            v2.RandomIoUCrop(min_scale=pictures.scale),
            v2.SanitizeBoundingBoxes(min_size=SMALLEST),
            v2.Resize(preprocess.size, antialias=True),
        ]
    if pictures.flip:
        steps.append(v2.RandomHorizontalFlip())
    if c := pictures.colour:
        light: Any = {"brightness": (1 - c / 4, 1 + c / 4), "contrast": (1 - c, 1 + c)}
        if preprocess.mode == "L":
            steps.append(v2.ColorJitter(**light))
        else:
            steps.append(v2.RandomPhotometricDistort(**light, saturation=(1 - c, 1 + c), hue=(-c / 10, c / 10)))
    steps += [v2.ClampBoundingBoxes(), v2.SanitizeBoundingBoxes(min_size=SMALLEST)]
    return steps
