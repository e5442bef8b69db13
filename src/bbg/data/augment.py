"""Batches out of memory, augmented a batch at a time, every random draw a function of (seed, epoch, step)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from bbg.data.sets import ImageSet
from bbg.image import Preprocess


def crop_flip(images: Tensor, padding: int, flip: bool, generator: torch.Generator) -> Tensor:
    """Random crop out of a frame of `padding` zeros and random mirroring, `[N, C, H, W]` to the same shape."""
    n, _, h, w = images.shape
    dy, dx = torch.randint(0, 2 * padding + 1, (2, n), generator=generator)
    ys = torch.arange(h) + dy[:, None]
    xs = torch.arange(w) + dx[:, None]
    if flip:
        mirrored = torch.rand(n, generator=generator) < 0.5
        xs = torch.where(mirrored[:, None], xs.flip(1), xs)
    padded = torch.nn.functional.pad(images, (padding,) * 4)
    sample = torch.arange(n)[:, None, None]
    return padded.permute(0, 2, 3, 1)[sample, ys[:, :, None], xs[:, None, :]].permute(0, 3, 1, 2)


class Batches:
    """An iterable over one epoch of `(images float32 [N, C, H, W] normalised, labels int64 [N])`.

    Training: order and augmentation of batch s of epoch e are functions of (seed, e, s), so an epoch entered at
    `start` goes on exactly as if it had run from the beginning; a last batch shorter than `batch_size` is left out.
    Evaluation (`shuffle=False`): every image once, in order.
    """

    def __init__(
        self,
        data: ImageSet,
        preprocess: Preprocess,
        batch_size: int,
        *,
        shuffle: bool,
        seed: int = 0,
        padding: int = 0,
        flip: bool = False,
    ) -> None:
        self.images = torch.from_numpy(data.images)
        self.labels = torch.from_numpy(data.labels)
        self.batch_size = min(batch_size, len(self.labels)) if shuffle else batch_size
        self.shuffle, self.seed, self.padding, self.flip = shuffle, seed, padding, flip
        self.mean = torch.tensor(preprocess.mean).reshape(-1, 1, 1)
        self.std = torch.tensor(preprocess.std).reshape(-1, 1, 1)
        self.epoch = 0
        self.start = 0

    @property
    def steps(self) -> int:
        """Batches in a whole epoch."""
        return len(self.labels) // self.batch_size if self.shuffle else -(-len(self.labels) // self.batch_size)

    def __len__(self) -> int:
        """Batches from `start` on."""
        return self.steps - self.start

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches from `start` on."""
        order = self._generator(0).permutation(len(self.labels)) if self.shuffle else np.arange(len(self.labels))
        for step in range(self.start, self.steps):
            index = torch.from_numpy(order[step * self.batch_size : (step + 1) * self.batch_size])
            yield self._batch(index, step), self.labels[index]

    def _generator(self, stream: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, self.epoch, stream])

    def _batch(self, index: Tensor, step: int) -> Tensor:
        # The zero frame of the crop stands for the mean colour, as in the field's recipes: normalise, then pad.
        images = self.images[index].permute(0, 3, 1, 2).float().div_(255).sub_(self.mean).div_(self.std)
        if self.shuffle and (self.padding or self.flip):
            drawn = torch.Generator().manual_seed(int(self._generator(step + 1).integers(2**62)))
            images = crop_flip(images, self.padding, self.flip, drawn)
        # Channels last: the order that the pixels come in, and the faster one for convolutions on CPUs.
        return images.contiguous(memory_format=torch.channels_last)
