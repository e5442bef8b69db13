"""Scoring a network on the test images of a data set: a checkpoint in torch, or a packed file in the engine.

Everything that needs torch is imported when it is used, so that the verbs of the runtime start without torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bbg.errors import BbgError
from bbg.graph.file import looks_like_checkpoint

if TYPE_CHECKING:
    from torch import nn

    from bbg.data import Split
    from bbg.engine import Engine
    from bbg.image import Preprocess
    from bbg.training.checkpoint import Checkpoint
    from bbg.training.tasks import Task

BATCH = 250  # images per call of the engine


def is_checkpoint(model: str) -> bool:
    """Whether `model` is a file that torch.save wrote, a zip archive, rather than a packed file or a name."""
    try:
        with open(model, "rb") as file:
            return looks_like_checkpoint(file.read(4))
    except OSError:
        return False


def held_out(dataset: str, data: Path | None, preprocess: Preprocess | None, classes: Sequence[str] | None) -> Split:
    """The images of `dataset` as the model's own preprocessing brings them to pixels, as `predict` does.

    BbgError for a model without preprocessing, or of other classes.
    """
    from bbg.data import open_data

    if preprocess is None:
        raise BbgError("the model was packed without preprocessing, so images cannot be scored; convert it with one")
    split = open_data(dataset, data, preprocess=preprocess)
    if classes is not None and list(split.classes) != list(classes):
        raise BbgError(f"the model has the classes {', '.join(classes)}; {dataset!r} has {', '.join(split.classes)}")
    return split


def trained_network(trained: Checkpoint, factory: str | None) -> nn.Module:
    """The trained network; `factory` names what makes it where it is a module of one's own."""
    from bbg.training.factory import find_factory

    return trained.network(None if factory is None else find_factory(factory))


def trained_task(trained: Checkpoint) -> Task:
    """What the network was trained for."""
    from bbg.training.tasks import make_task

    return make_task(trained.recipe, len(trained.classes))


def torch_figures(network: nn.Module, trained: Checkpoint, split: Split) -> dict[str, float]:
    """The figures of the task over all test images, by torch on the device of the network, in float32."""
    from bbg.data.loader import Loader
    from bbg.training.evaluate import EVALUATION_BATCH, full_precision

    device = next(network.parameters()).device
    loader = Loader(split.test, EVALUATION_BATCH, preprocess=trained.preprocess, device=device)
    with full_precision():
        found = trained_task(trained).evaluate(network, loader)
    return {name: value for name, value in found.items() if name != "loss"}


def engine_figures(engine: Engine, split: Split) -> dict[str, float]:
    """The figures of the engine's head over all test images, without torch."""
    if engine.head is None:
        raise BbgError("the model was packed without a head, which says how to score its outputs; score its checkpoint")
    return engine.head.score(engine_logits(engine, split), split.test.labels)


def torch_logits(network: nn.Module, trained: Checkpoint, split: Split) -> np.ndarray:
    """Logits of the test images from torch, float32 `[N, classes]`."""
    from bbg.training.evaluate import logits_of

    return logits_of(network, split.test, trained.preprocess).numpy()


def engine_logits(engine: Engine, split: Split) -> np.ndarray:
    """Logits of the test images from the engine, float32 `[N, classes]`."""
    from bbg.data import read_batch

    batches = np.array_split(np.arange(len(split.test)), -(-len(split.test) // BATCH))
    return np.concatenate([engine(read_batch(split.test, indices)[0]) for indices in batches])
