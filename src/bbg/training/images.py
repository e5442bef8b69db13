"""Whether images can be trained on, and their network packed: asked before the first step."""

from __future__ import annotations

import numpy as np

from bbg.data.sets import Dataset, Split, has_boxes, has_masks
from bbg.errors import BbgError
from bbg.graph import checked_json as checked
from bbg.heads import Classification, Detection, Segmentation
from bbg.log import LOGGER
from bbg.maps import IGNORED
from bbg.training.tasks.base import Task


def check_images(split: Split) -> None:
    """Raise BbgError for names of classes that a packed file cannot hold, halves of different classes, a half without
    images, and labels that are no classes.

    A class without a training image is a warning. Targets that are no single class each are not looked at.
    """
    for name in split.classes:
        checked.name(name, "the name of a class")
    twice = [name for i, name in enumerate(split.classes) if name in split.classes[:i]]
    if twice:
        raise BbgError(f"class {twice[0]!r} is there twice; give each class a name of its own")
    if odd := sorted(set(split.train.classes).symmetric_difference(split.test.classes)):
        raise BbgError(f"class {odd[0]!r} is in only one of training and test images; give both the same classes")
    if split.train.classes != split.test.classes:
        raise BbgError("training and test images have their classes in another order; give both the same")
    for half, data in (("training", split.train), ("test", split.test)):
        if not len(data):
            raise BbgError(f"there are no {half} images; give some")
        _check_labels(half, data)


def check_targets(split: Split, task: Task) -> None:
    """Raise BbgError where the targets of the images are not what the task is about: a class each, masks or boxes.

    Of masks: where they have fewer than 2 or more than 255 classes, which no file of masks tells apart.
    """
    detects = isinstance(task.head, Detection)
    if detects and not has_boxes(split.train):
        raise BbgError("the task 'detection' takes images with boxes, float32 [M, 6]; give such, or another task")
    if has_boxes(split.train) and isinstance(task.head, (Classification, Segmentation)):
        raise BbgError('the images have boxes, and no class each; give the recipe the key task = "detection"')
    segments = isinstance(task.head, Segmentation)
    if segments and not has_masks(split.train):
        raise BbgError("the task 'segmentation' takes images with masks, uint8 [H, W]; give such, or another task")
    if has_masks(split.train) and isinstance(task.head, Classification):
        raise BbgError('the images have masks, and no class each; give the recipe the key task = "segmentation"')
    if segments and not 2 <= len(split.classes) <= IGNORED:
        raise BbgError(
            f"the masks are of {len(split.classes)} classes; allowed are 2 to {IGNORED}, of which the background is one"
        )


def _check_labels(half: str, data: Dataset) -> None:
    if isinstance(data.labels, np.ndarray) and has_masks(data) and data.classes:
        _check_masks(half, data)
    if np.ndim(data.labels) != 1:
        return
    labels, count = np.asarray(data.labels), len(data.classes)
    if labels.ndim != 1 or not count:
        return
    if not np.issubdtype(labels.dtype, np.integer) or labels.min() < 0 or labels.max() >= count:
        came = f"{labels.dtype} from {labels.min()} to {labels.max()}"
        raise BbgError(
            f"the labels of the {half} images are {came}; {count} classes have integers from 0 to {count - 1}"
        )
    if half != "training":
        return
    if count == 1:
        raise BbgError(f"there is one class only, {data.classes[0]!r}; a network that tells classes apart needs two")
    empty = [
        name for name, images in zip(data.classes, np.bincount(labels, minlength=count), strict=True) if not images
    ]
    if empty:
        LOGGER.warning("no training image is of class %s: it will not be learned", ", ".join(empty))


def _check_masks(half: str, data: Dataset) -> None:
    """Masks that are in memory."""
    shape, size = data.labels.shape[1:], data.read(0)[0].shape[:2]
    if shape != size:
        ours, theirs = (" x ".join(map(str, sides)) for sides in (shape, size))
        raise BbgError(f"the masks of the {half} images are {ours}, the images {theirs}; give both the same size")
    counts = data.labels != IGNORED
    if half == "training" and not counts.any():
        raise BbgError(
            f"all pixels of the training masks are {IGNORED}, which is for pixels that do not count; give masks with "
            "the numbers of classes"
        )
    largest = int(data.labels.max(where=counts, initial=0))
    if largest >= len(data.classes):
        raise BbgError(
            f"the masks of the {half} images have the number {largest}; {len(data.classes)} classes have 0 to "
            f"{len(data.classes) - 1}, and {IGNORED} is for pixels that do not count"
        )
