"""Augmentation: what is drawn for each image, and what is done to a batch of them.

Every draw is a hash of (seed, epoch, index of the image in its set, what it is for). It depends on nothing else: not on
the batch the image comes in, nor on the process that decodes it. So a sample gets the same pixels for any batch size
and any number of workers, and a training can be resumed at any step.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

ORDER, SHIFT_Y, SHIFT_X, MIRROR, STEP, PICTURE, MIX, SHARD = range(8)  # what a draw is for

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def draw(seed: int, epoch: int, index: np.ndarray, purpose: int) -> np.ndarray:
    """64 random bits, uint64, for each image number in `index`: a chain of the SplitMix64 finaliser.

    SplitMix64 (Steele, Lea and Flood, OOPSLA 2014) adds the golden ratio and mixes; here each of the four numbers is
    added to the state in turn and mixed in.
    """
    state = np.zeros(1, np.uint64)
    for word in (np.uint64(seed), np.uint64(epoch), np.uint64(purpose), np.asarray(index).astype(np.uint64)):
        state = state + _GOLDEN + word
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        state = state ^ (state >> np.uint64(31))
    return state


def integers(bits: np.ndarray, count: int) -> np.ndarray:
    """Random bits as integers from 0 to `count - 1`, int64: the upper 32 bits times `count`, over 2^32."""
    return (((bits >> np.uint64(32)) * np.uint64(count)) >> np.uint64(32)).astype(np.int64)


def permutation(seed: int, epoch: int, count: int) -> np.ndarray:
    """The order of the images in an epoch: those with the smallest draws come first."""
    return np.argsort(draw(seed, epoch, np.arange(count), ORDER), kind="stable")


class Crops(NamedTuple):
    """What is drawn for each image of a batch: where its crop begins, int64 `[N]`, and whether it is mirrored."""

    top: Tensor
    left: Tensor
    mirrored: Tensor

    def slice(self, begin: int, end: int) -> Crops:
        """The draws of the images from `begin` to `end`."""
        return Crops(self.top[begin:end], self.left[begin:end], self.mirrored[begin:end])


def draw_crops(seed: int, epoch: int, index: np.ndarray, padding: int, flip: bool) -> Crops:
    """The crops of the images `index` in an epoch; without `flip` none is mirrored."""
    top, left = (integers(draw(seed, epoch, index, p), 2 * padding + 1) for p in (SHIFT_Y, SHIFT_X))
    mirrored = integers(draw(seed, epoch, index, MIRROR), 2).astype(bool) & flip
    return Crops(torch.from_numpy(top), torch.from_numpy(left), torch.from_numpy(mirrored))


def crop_flip(images: Tensor, padding: int, crops: Crops, frame: float = 0) -> Tensor:
    """Each image cropped out of a frame of width `padding`, then mirrored; `[N, C, H, W]` to the same shape.

    `frame`: the number that it is of.
    """
    n, _, h, w = images.shape
    ys = torch.arange(h, device=images.device) + crops.top[:, None]
    xs = torch.arange(w, device=images.device) + crops.left[:, None]
    xs = torch.where(crops.mirrored[:, None], xs.flip(1), xs)
    padded = torch.nn.functional.pad(images, (padding,) * 4, value=frame)
    sample = torch.arange(n, device=images.device)[:, None, None]
    return padded.permute(0, 2, 3, 1)[sample, ys[:, :, None], xs[:, None, :]].permute(0, 3, 1, 2)


def shares(seed: int, epoch: int, index: np.ndarray, alpha: float) -> Tensor:
    """Mixup's share of each image in its mixture with another one, float32 `[N]`: drawn from Beta(alpha, alpha)."""
    bits = draw(seed, epoch, index, MIX).tolist()
    found = [np.random.Generator(np.random.PCG64(number)).beta(alpha, alpha) for number in bits]
    return torch.tensor(found, dtype=torch.float32)


def mix(images: Tensor, targets: Tensor, share: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Mixup (Zhang et al., arXiv 1710.09412) of N + 1 images, each with the next one.

    Image i becomes `share[i] * x[i] + (1 - share[i]) * x[i + 1]`, and so does its label.
    `targets`: classes `[N + 1]`. Returns N images, and for each the shares of the classes, float32 `[N, classes]`.
    """
    of_classes = torch.nn.functional.one_hot(targets, classes).float()
    ours, theirs = share[:, None, None, None], 1 - share[:, None, None, None]
    mixed = images[:-1] * ours + images[1:] * theirs
    return mixed, of_classes[:-1] * ours[:, :, 0, 0] + of_classes[1:] * theirs[:, :, 0, 0]


def normalize(pixels: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """uint8 `[N, H, W, C]` to float32 `[N, C, H, W]`: `(x / 255 - mean) / std`, the same bits as `Preprocess` gives."""
    return pixels.permute(0, 3, 1, 2).float().div_(255).sub_(mean).div_(std)
