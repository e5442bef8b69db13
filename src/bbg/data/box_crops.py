"""SSD's random transforms of a picture with boxes (arXiv 1512.02325, section 3.6), by torchvision.

What is drawn for a picture is a function of (seed, epoch, its index) alone, as in `bbg.data.transforms`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision import tv_tensors
from torchvision.transforms import v2

from bbg.boxes import iou
from bbg.data.augment import PICTURE, draw
from bbg.data.boxed import COLUMNS, BoxSet
from bbg.data.transforms import seeded
from bbg.image import Preprocess

LEAST_CROPPED = 32  # pixels of the short side of a picture that is cropped
LEAST_IOUS = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0)  # of a crop with a box; 1: the whole picture is taken
TRIALS = 40  # crops that are drawn for one of them
SMALLEST = 1.0  # pixels of the input that a side of a box has at least behind a crop

Step = Callable[[dict[str, Any]], dict[str, Any]]


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
                sample = step(sample)
        changed = np.array(sample["image"])
        kept = sample["labels"].numpy()
        target = np.zeros((data.labels.shape[1], COLUMNS), np.float32)
        target[:, 0] = -1
        target[: len(kept), 0], target[: len(kept), 5] = classes[kept], difficult[kept]
        target[: len(kept), 1:5] = sample["boxes"].numpy() / np.array((wide, high, wide, high), np.float32)
        return changed.reshape(*changed.shape[:2], -1), target


@dataclass(frozen=True)
class IoUCrop:
    """A crop with sides of `scale` to 1 of the picture's, neither over twice the other, that has the middle of a box in
    it and an IoU with such a box of at least a number drawn of LEAST_IOUS; or the whole picture.

    As torchvision's RandomIoUCrop, which takes half of the time of a training on small boxes: here all trials for a
    number are drawn and judged at once.
    """

    scale: float

    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        """`sample` behind the crop; boxes whose middle is not in it have no area."""
        wide, high = sample["image"].size
        boxes: np.ndarray = sample["boxes"].numpy()
        if min(wide, high) < LEAST_CROPPED or not len(boxes):
            return sample
        middles = (boxes[:, :2] + boxes[:, 2:]) / 2
        while (least := LEAST_IOUS[int(torch.randint(len(LEAST_IOUS), ()))]) < 1:
            drawn = torch.rand(TRIALS, 4).numpy()
            sides = ((self.scale + (1 - self.scale) * drawn[:, :2]) * (wide, high)).astype(np.int64).clip(1)
            corner = ((np.array((wide, high)) - sides) * drawn[:, 2:]).astype(np.int64)
            crops = np.concatenate([corner, corner + sides], 1)
            inside = ((middles > crops[:, None, :2]) & (middles < crops[:, None, 2:])).all(2)
            shapes = sides[:, 0] / sides[:, 1]
            best = np.where(inside, iou(crops.astype(np.float32), boxes), -1).max(1)
            right = (shapes >= 0.5) & (shapes <= 2) & (best >= least)
            if right.any():
                first = int(right.argmax())
                left, top, width, height = (int(n) for n in (*corner[first], *sides[first]))
                image, moved = (v2.functional.crop(sample[k], top, left, height, width) for k in ("image", "boxes"))
                moved[torch.from_numpy(~inside[first])] = 0
                return {**sample, "image": image, "boxes": moved}
        return sample


@lru_cache(maxsize=4)
def _steps(pictures: BoxPictures, preprocess: Preprocess) -> list[Step]:
    steps: list[Step] = []
    if pictures.scale is not None:
        if pictures.expand > 1:
            mean = [round(255 * mean) for mean in preprocess.mean]
            steps.append(v2.RandomZoomOut(fill=mean if len(mean) > 1 else mean[0], side_range=(1.0, pictures.expand)))
        steps += [
            IoUCrop(pictures.scale),
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
