"""Batches of a data set: small sets live on the training device as uint8, others are decoded by worker processes.

Either way a batch is cropped, mirrored and mixed as a whole, by the same code (`bbg.data.augment`). What is done to
each picture by itself (`bbg.data.transforms`) is done by the worker processes.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from bbg.cpu import cores
from bbg.data.augment import Crops, crop_flip, draw_crops, mix, normalize, shares
from bbg.data.box_crops import BoxPictures
from bbg.data.damage import Skipped, damage_of
from bbg.data.order import order_of
from bbg.data.sets import Dataset, ImageSet, has_boxes, has_masks, read_batch
from bbg.data.transforms import Pictures
from bbg.errors import BbgError
from bbg.image import Preprocess
from bbg.maps import IGNORED

ON_DEVICE = 4 * 2**30  # bytes of pixels that are kept on an accelerator; larger sets stay in main memory
MOST_WORKERS = 8


@dataclass(frozen=True)
class Part:
    """Of several processes that share the images, number `rank` of `count`; `here`: how many are on this machine."""

    rank: int = 0
    count: int = 1
    here: int = 1

    def of(self, whole: int) -> tuple[int, int]:
        """The first of `whole` things that is its own, and the first behind that is not."""
        return whole * self.rank // self.count, whole * (self.rank + 1) // self.count


WHOLE = Part()


class Loader:
    """Epochs of `(images float32 [N, C, H, W] normalised, targets [N, ...])`, both on `device`.

    Training (`shuffle`): the order of an epoch is a function of (seed, epoch), what is drawn for an image one of
    (seed, epoch, its index), so an epoch entered at step `start` goes on exactly as if it had run from the beginning.
    A last batch shorter than `batch_size` is left out. Evaluation: every image once, in order, as it is.

    `workers`: processes that decode images of a set that is not in memory; 0: this process does; None: one per core,
    at most 8.

    `pictures`: what is done to each training picture. `mixup`: alpha of Mixup, 0 for none; targets are then shares of
    the classes, float32 `[N, classes]`. An image is mixed with the one behind it in the order of the epoch, which is a
    function of (seed, epoch, its index) too. Masks (uint8 `[H, W]`) are cropped and mirrored as their images; the frame
    of a crop is 255 there, which is no class. Boxes are changed by `BoxPictures`, picture by picture.

    `part`: of a training with several processes, which this one is. It gets a part of every batch, the batches being
    those of one process; of an evaluation, a part of the images. `batch_size` and `steps` of a training are those of
    all of them, `len(data)` is too.
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
        pictures: Pictures | BoxPictures | None = None,
        mixup: float = 0.0,
        workers: int | None = None,
        device: torch.device | str = "cpu",
        part: Part = WHOLE,
    ) -> None:
        self.data, self.shuffle, self.seed, self.padding, self.flip = data, shuffle, seed, padding, flip
        self.pictures = (pictures or None) if shuffle else None
        self.mixup = mixup if shuffle else 0.0
        if self.mixup and (np.ndim(data.labels) != 1 or not data.classes):
            raise BbgError("recipe key 'mixup' mixes classes; leave it out for images that are labelled otherwise")
        self.masks = has_masks(data)
        if has_boxes(data) and (padding or flip or isinstance(self.pictures, Pictures)):
            raise BbgError("images with boxes are cropped and mirrored by BoxPictures alone, with their boxes")
        if self.masks and self.pictures is not None and self.pictures.operations:
            raise BbgError("recipe key 'randaugment' turns images and not their masks; leave it out")
        self.batch_size = min(batch_size, len(data)) if shuffle else batch_size
        self.device = torch.device(device)
        self.part = part
        self.workers = max(1, min(cores() // part.here, MOST_WORKERS)) if workers is None else workers
        stated = preprocess or data.preprocess
        self.mean, self.std = (torch.tensor(v, device=device).reshape(-1, 1, 1) for v in (stated.mean, stated.std))
        self.arrays: tuple[Tensor, Tensor] | None = None
        if isinstance(data, ImageSet) and self.pictures is None:
            images, labels = torch.from_numpy(data.images), torch.from_numpy(data.labels)
            self.arrays = (images.to(device) if data.images.nbytes <= ON_DEVICE else images), labels.to(device)

    @property
    def steps(self) -> int:
        """Batches in a whole epoch; in evaluation, those of this process."""
        begin, end = (0, len(self.data)) if self.shuffle else self.part.of(len(self.data))
        return len(self.data) // self.batch_size if self.shuffle else -(-(end - begin) // self.batch_size)

    def whole(self) -> Loader:
        """The same, with all images for this process."""
        loader = copy.copy(self)
        loader.part = WHOLE
        return loader

    def epoch(self, epoch: int = 0, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of epoch number `epoch` (from 0), from step `start` on."""
        batches = self._indices(epoch, start)
        if not batches:
            return
        whole = np.concatenate(batches)
        crops = None
        if self.shuffle and (self.padding or self.flip):
            crops = Crops(*(x.to(self.device) for x in draw_crops(self.seed, epoch, whole, self.padding, self.flip)))
        begin = 0
        for (pixels, labels), batch in zip(self._batches(batches, epoch), batches, strict=True):
            images = normalize(pixels, self.mean, self.std)
            if crops is not None:
                # The zero frame of the crop stands for the mean colour, as in the field's recipes: normalise, then pad.
                images = crop_flip(images, self.padding, crops.slice(begin, begin + len(pixels)))
            targets = labels
            if crops is not None and self.masks:
                crop = crops.slice(begin, begin + len(pixels))
                targets = crop_flip(labels[:, None], self.padding, crop, frame=IGNORED)[:, 0]
            if self.mixup:
                share = shares(self.seed, epoch, batch[:-1], self.mixup).to(self.device)
                images, targets = mix(images, labels, share, len(self.data.classes))
            begin += len(pixels)
            # Channels last: the order that the pixels come in, and the faster one for convolutions on CPUs.
            yield images.contiguous(memory_format=torch.channels_last), targets

    def _indices(self, epoch: int, start: int) -> list[np.ndarray]:
        """The images of each batch. Of mixed ones each has one image more, the partner of its last one."""
        size, images = self.batch_size, len(self.data)
        if not self.shuffle:
            order = np.arange(*self.part.of(images))
            return [order[step * size : (step + 1) * size] for step in range(start, self.steps)]
        order = order_of(self.data, self.seed, epoch)
        begin, end = self.part.of(size)
        places = np.arange(begin, end + (1 if self.mixup else 0))
        return [order[(step * size + places) % images] for step in range(start, self.steps)]

    def _batches(self, batches: list[np.ndarray], epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """uint8 pixels `[N, H, W, C]` and targets of the images in each of `batches`, on the device."""
        if self.arrays is not None:
            images, labels = self.arrays
            index = torch.from_numpy(np.concatenate(batches))
            of_images, of_labels = index.to(images.device), index.to(labels.device)
            end = 0
            for batch in batches:
                begin, end = end, end + len(batch)
                yield images[of_images[begin:end]].to(self.device), labels[of_labels[begin:end]]
            return
        # DataLoader draws a seed for its workers from torch's global generator, unless it is given one.
        workers = DataLoader(
            _Batches(self.data, self.pictures, self.seed, epoch),
            batch_size=None,
            sampler=[batch.tolist() for batch in batches],
            num_workers=min(self.workers, len(batches)),
            generator=torch.Generator(),
            pin_memory=self.device.type == "cuda",
        )
        for found in workers:
            if isinstance(found, str):
                raise BbgError(found)
            damage_of(self.data).add(found[2])
            yield found[0].to(self.device, non_blocking=True), found[1].to(self.device, non_blocking=True)


class _Batches(torch.utils.data.Dataset[tuple[Tensor, Tensor, list[Skipped]] | str]):
    """What a worker does: it reads a whole batch, and tells of the images that others stood in for while it did.

    An image that cannot be read makes a sentence instead.

    An exception would reach the training wrapped into the worker's traceback.
    """

    def __init__(self, data: Dataset, pictures: Pictures | BoxPictures | None, seed: int, epoch: int) -> None:
        self.data, self.pictures, self.seed, self.epoch = data, pictures, seed, epoch

    def __getitem__(self, indices: list[int]) -> tuple[Tensor, Tensor, list[Skipped]] | str:
        known = len(damage_of(self.data))
        try:
            if self.pictures is None:
                images, targets = read_batch(self.data, indices)
            elif isinstance(self.pictures, Pictures) and not has_masks(self.data):
                images = np.stack([self.pictures.read(self.data, i, self.seed, self.epoch) for i in indices])
                targets = np.asarray(self.data.labels)[indices]
            else:
                read: Any = self.pictures.read_pair
                found = [read(self.data, i, self.seed, self.epoch) for i in indices]
                images, targets = (np.stack(part) for part in zip(*found, strict=True))
        except BbgError as error:
            return str(error)
        return torch.from_numpy(images), torch.from_numpy(targets), damage_of(self.data).since(known)
