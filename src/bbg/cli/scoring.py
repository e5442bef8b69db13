"""Scoring a network on the test images of a data set: a checkpoint in torch, or a packed file in the engine.

Everything that needs torch is imported when it is used, so that the verbs of the runtime start without torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bbg.errors import BbgError

if TYPE_CHECKING:
    from bbg.data import Split
    from bbg.engine import Engine
    from bbg.training.checkpoint import Checkpoint

BATCH = 250  # images per call of the engine


def is_checkpoint(model: str) -> bool:
    """Whether `model` is a file that torch.save wrote, a zip archive, rather than a packed file or a name."""
    try:
        with open(model, "rb") as file:
            return file.read(2) == b"PK"
    except OSError:
        return False


def held_out(dataset: str, data: Path | None, size: Sequence[int], classes: Sequence[str] | None) -> Split:
    """The images of `dataset` at the model's size; BbgError where they or their classes do not fit the model."""
    from bbg.data import open_data

    split = open_data(dataset, data, size[0])
    if split.preprocess.size != tuple(size):
        raise BbgError(f"the model takes images of {list(size)}, {dataset!r} has {list(split.preprocess.size)}")
    if classes is not None and list(split.classes) != list(classes):
        raise BbgError(f"the model has the classes {', '.join(classes)}; {dataset!r} has {', '.join(split.classes)}")
    return split


def torch_logits(trained: Checkpoint, split: Split) -> np.ndarray:
    """Logits of the test images from torch, float32 `[N, classes]`."""
    from bbg.training.evaluate import logits_of

    return logits_of(trained.network(), split.test, trained.preprocess).numpy()


def engine_logits(engine: Engine, split: Split) -> np.ndarray:
    """Logits of the test images from the engine, float32 `[N, classes]`."""
    images = split.test.images
    return np.concatenate([engine(images[i : i + BATCH]) for i in range(0, len(images), BATCH)])


def accuracy(logits: np.ndarray, split: Split) -> float:
    """Share of the test images whose largest logit is that of their class."""
    return float((logits.argmax(1) == split.test.labels).mean())
