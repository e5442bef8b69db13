"""Small sets of images with masks, and a small network for them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

CLASSES = ("ground", "disc", "square")


def scene(seed: int, height: int = 40, width: int = 48) -> tuple[np.ndarray, np.ndarray]:
    """A picture with a disc and a square of colours of their own on noise, and its mask; 255 lies around the square."""
    draws = np.random.default_rng(seed)
    picture = draws.integers(60, 120, (height, width, 3)).astype(np.uint8)
    mask = np.zeros((height, width), np.uint8)
    ys, xs = np.mgrid[:height, :width]
    y, x, r = draws.integers(10, height - 10), draws.integers(8, width // 2 - 4), draws.integers(5, 9)
    disc = (ys - y) ** 2 + (xs - x) ** 2 < r**2
    picture[disc], mask[disc] = (220, 40, 40), 1
    y, x, r = draws.integers(10, height - 10), draws.integers(width // 2 + 8, width - 8), draws.integers(4, 8)
    far = np.maximum(abs(ys - y), abs(xs - x))
    mask[far == r] = 255
    picture[far <= r], mask[far < r] = (40, 60, 220), 2
    return picture, mask


def write_scenes(root: Path, train: int = 24, test: int = 8) -> Path:
    """`root` as a set of masks: JPEG images, PNG masks with and without a palette."""
    for half, seeds in (("train", range(train)), ("test", range(1000, 1000 + test))):
        for name in ("images", "masks"):
            (root / half / name).mkdir(parents=True)
        for seed in seeds:
            picture, mask = scene(seed)
            Image.fromarray(picture).save(root / half / "images" / f"{seed}.jpg", quality=95)
            stored = Image.fromarray(mask)
            if seed % 2:
                stored.putpalette([i * 7 % 256 for i in range(768)])
            stored.save(root / half / "masks" / f"{seed}.png")
    (root / "classes.txt").write_text("\n".join(CLASSES) + "\n")
    return root


class SmallUNet(nn.Module):
    """Down, across and up again, with the maps of the way down beside those of the way up."""

    def __init__(self, num_classes: int, width: int = 8) -> None:
        super().__init__()
        self.enter, self.down, self.across = block(3, width), block(width, 2 * width), block(2 * width, 2 * width)
        self.pool, self.up = nn.MaxPool2d(2), nn.Upsample(scale_factor=2, mode="bilinear")
        self.join, self.leave = block(4 * width, width), block(2 * width, width)
        self.head = nn.Conv2d(width, num_classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        fine = self.enter(x)
        middle = self.down(self.pool(fine))
        coarse = self.up(self.across(self.pool(middle)))
        joined = self.up(self.join(torch.cat([middle, coarse], 1)))
        found: Tensor = self.head(self.leave(torch.cat([fine, joined], 1)))
        return found


def block(inputs: int, outputs: int) -> nn.Sequential:
    """A convolution with batch norm and ReLU."""
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU())


def small_unet(num_classes: int) -> nn.Module:
    """The factory that recipes of the tests name."""
    return SmallUNet(num_classes)


class Coarse(nn.Module):
    """A network whose maps have a quarter of the input's sides."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.body = nn.Sequential(block(3, 8), nn.MaxPool2d(4), nn.Conv2d(8, num_classes, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.body(x)
        return found
