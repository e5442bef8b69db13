"""Random transforms of one picture at a time, by torchvision: crops of any size, colours, RandAugment.

torchvision draws from torch's global generator. Here it is seeded for each picture, and restored behind it, so that
what a picture gets is a function of (seed, epoch, its index) alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from PIL import Image

from bbg.data.augment import PICTURE, draw
from bbg.data.pairs import PairSet
from bbg.data.sets import Dataset, picture_of
from bbg.image import Preprocess
from bbg.maps import nearest

RATIO = (3 / 4, 4 / 3)  # of the sides of a resized crop
HUE = 0.1  # of the strength of the other colours


@dataclass(frozen=True)
class Pictures:
    """What is done to each training picture, in this order.

    `scale`: a crop of random place, of `scale` to 1 of the picture's area and a ratio of 3:4 to 4:3, is resized to the
    input (RandomResizedCrop); None: the pixels are those of evaluation. `operations`, `magnitude`: RandAugment.
    `colour`: brightness, contrast and saturation are changed by up to this share, the hue by a tenth of it of the
    colour circle.
    """

    scale: float | None = None
    operations: int = 0
    magnitude: int = 9
    colour: float = 0.0

    def __bool__(self) -> bool:
        return self.scale is not None or self.operations > 0 or self.colour > 0

    def read(self, data: Dataset, index: int, seed: int, epoch: int) -> np.ndarray:
        """Training picture `index` of an epoch, uint8 `[H, W, C]` of the size of the input."""
        pixels = data.read(index)[0] if self.scale is None else picture_of(data, index)
        return self._changed(data, index, seed, epoch, pixels, None)[0]

    def read_pair(self, data: Dataset, index: int, seed: int, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """The same with the mask of the picture, which is cropped as it is, by the nearest."""
        pixels, mask = data.whole(index) if self.scale is not None and isinstance(data, PairSet) else data.read(index)
        if mask.shape != pixels.shape[:2]:  # of a JPEG that is decoded at a scale
            rows, columns = (nearest(*sides) for sides in zip(mask.shape, pixels.shape[:2], strict=True))
            mask = mask[np.ix_(rows, columns)]
        changed, classes = self._changed(data, index, seed, epoch, pixels, mask)
        assert classes is not None
        return changed, classes

    def _changed(
        self, data: Dataset, index: int, seed: int, epoch: int, pixels: np.ndarray, mask: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray | None]:
        from torchvision import tv_tensors

        image: Any = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
        classes: Any = None if mask is None else tv_tensors.Mask(torch.from_numpy(mask)[None])
        steps = _steps(self, data.preprocess)
        with seeded(int(draw(seed, epoch, np.array([index]), PICTURE)[0] >> np.uint64(1))):
            for step in steps:
                if classes is None:
                    image = step(image)
                else:
                    image, classes = step(image, classes)
        changed = np.array(image)
        return changed.reshape(*changed.shape[:2], -1), None if classes is None else classes[0].numpy()


@lru_cache(maxsize=4)
def _steps(pictures: Pictures, preprocess: Preprocess) -> list[torch.nn.Module]:
    from torchvision.transforms import v2

    steps: list[torch.nn.Module] = []
    if pictures.scale is not None:
        steps.append(v2.RandomResizedCrop(preprocess.size, (pictures.scale, 1.0), RATIO))
    if pictures.operations:
        grey = [round(255 * mean) for mean in preprocess.mean]  # what a turned picture leaves empty
        steps.append(v2.RandAugment(pictures.operations, pictures.magnitude, fill=grey))
    if pictures.colour:
        steps.append(v2.ColorJitter(pictures.colour, pictures.colour, pictures.colour, HUE * pictures.colour))
    return steps


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Torch's generator for the CPU with this seed; as it was before, afterwards."""
    before = torch.get_rng_state()
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(before)
