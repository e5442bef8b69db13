"""Batches of a data set: small sets live on the training device as uint8, others are decoded by worker processes.

Either way a batch is augmented as a whole, by the same code (`bbg.data.augment`).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from bbg.cpu import cores
from bbg.data.augment import Crops, crop_flip, draw_crops, normalize, permutation
from bbg.data.sets import Dataset, ImageSet, read_batch
from bbg.errors import BbgError
from bbg.image import Preprocess

ON_DEVICE = 4 * 2**30  # bytes of pixels that are kept on an accelerator; larger sets stay in main memory
MOST_WORKERS = 8


class Loader:
    """Epochs of `(images float32 [N, C, H, W] normalised, targets [N, ...])`, both on `device`.

    Training (`shuffle`): the order of an epoch is a function of (seed, epoch), what is drawn for an image one of
    (seed, epoch, its index), so an epoch entered at step `start` goes on exactly as if it had run from the beginning.
    A last batch shorter than `batch_size` is left out. Evaluation: every image once, in order, as it is.

    `workers`: processes that decode images of a set that is not in memory; 0: this process does; None: one per core,
    at most 8.
    """

    def __init__(
        self,
        data: Dataset,
        batch_size: int,
        *,
        preprocess: Preprocess | None = None,
        shuffle: bool = False,
        seed: int = 0,
        padding: int = 0,
        flip: bool = False,
        workers: int | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.data, self.shuffle, self.seed, self.padding, self.flip = data, shuffle, seed, padding, flip
        self.batch_size = min(batch_size, len(data)) if shuffle else batch_size
        self.device = torch.device(device)
        self.workers = min(cores(), MOST_WORKERS) if workers is None else workers
        stated = preprocess or data.preprocess
        self.mean, self.std = (torch.tensor(v, device=device).reshape(-1, 1, 1) for v in (stated.mean, stated.std))
        self.arrays: tuple[Tensor, Tensor] | None = None
        if isinstance(data, ImageSet):
            images, labels = torch.from_numpy(data.images), torch.from_numpy(data.labels)
            self.arrays = (images.to(device) if data.images.nbytes <= ON_DEVICE else images), labels.to(device)

    @property
    def steps(self) -> int:
        """Batches in a whole epoch."""
        return len(self.data) // self.batch_size if self.shuffle else -(-len(self.data) // self.batch_size)

    def epoch(self, epoch: int = 0, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of epoch number `epoch` (from 0), from step `start` on."""
        order = permutation(self.seed, epoch, len(self.data)) if self.shuffle else np.arange(len(self.data))
        order = order[start * self.batch_size : self.steps * self.batch_size]
        crops = None
        if self.shuffle and (self.padding or self.flip):
            crops = Crops(*(x.to(self.device) for x in draw_crops(self.seed, epoch, order, self.padding, self.flip)))
        for i, (pixels, targets) in enumerate(self._batches(order)):
            images = normalize(pixels, self.mean, self.std)
            if crops is not None:
                # The zero frame of the crop stands for the mean colour, as in the field's recipes: normalise, then pad.
                begin = i * self.batch_size
                images = crop_flip(images, self.padding, crops.slice(begin, begin + len(pixels)))
            # Channels last: the order that the pixels come in, and the faster one for convolutions on CPUs.
            yield images.contiguous(memory_format=torch.channels_last), targets

    def _batches(self, order: np.ndarray) -> Iterator[tuple[Tensor, Tensor]]:
        """uint8 pixels `[N, H, W, C]` and targets of the images in `order`, on the device."""
        size = self.batch_size
        if self.arrays is not None:
            images, labels = self.arrays
            index = torch.from_numpy(order)
            of_images, of_labels = index.to(images.device), index.to(labels.device)
            for begin in range(0, len(order), size):
                end = begin + size
                yield images[of_images[begin:end]].to(self.device), labels[of_labels[begin:end]]
            return
        batches = [order[begin : begin + size].tolist() for begin in range(0, len(order), size)]
        # DataLoader draws a seed for its workers from torch's global generator, unless it is given one.
        workers = DataLoader(
            _Batches(self.data),
            batch_size=None,
            sampler=batches,
            num_workers=min(self.workers, len(batches)),
            generator=torch.Generator(),
            pin_memory=self.device.type == "cuda",
        )
        for found in workers:
            if isinstance(found, str):
                raise BbgError(found)
            yield found[0].to(self.device, non_blocking=True), found[1].to(self.device, non_blocking=True)


class _Batches(torch.utils.data.Dataset[tuple[Tensor, Tensor] | str]):
    """What a worker does: it reads a whole batch. An image that cannot be read makes a sentence instead.

    An exception would reach the training wrapped into the worker's traceback.
    """

    def __init__(self, data: Dataset) -> None:
        self.data = data

    def __getitem__(self, indices: list[int]) -> tuple[Tensor, Tensor] | str:
        try:
            images, targets = read_batch(self.data, indices)
        except BbgError as error:
            return str(error)
        return torch.from_numpy(images), torch.from_numpy(targets)
