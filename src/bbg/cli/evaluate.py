"""The verb eval."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from bbg.cli.output import show
from bbg.cli.parser import JSON, argument, verb
from bbg.cli.train import DATA
from bbg.data.sets import Split
from bbg.engine import Engine
from bbg.errors import BbgError
from bbg.training.checkpoint import Checkpoint

BATCH = 250  # images per call of the engine


@verb(
    argument("model", metavar="MODEL", help="a checkpoint, a packed file or a name of the zoo"),
    DATA,
    argument("--dataset", help="cifar10, cifar100, folders or digits; default: that of the training"),
    JSON,
)
def eval(model: str, data: Path | None, dataset: str | None, json: Path | None) -> None:
    """Score a checkpoint or a packed model over all test images."""
    if is_checkpoint(model):
        from bbg.training.checkpoint import Checkpoint

        trained = Checkpoint.load(Path(model))
        split = held_out(dataset or trained.recipe.dataset, data, trained.preprocess.size, trained.classes)
        logits = torch_logits(trained, split)
    else:
        from bbg.engine import load

        engine = load(model)
        name = dataset or engine.provenance.get("dataset")
        if name is None:
            raise BbgError(f"{model!r} does not say what it was trained on; say which images with --dataset")
        split = held_out(str(name), data, engine.input_shape[1:], engine.labels)
        logits = engine_logits(engine, split)
    show(
        {
            "model": model,
            "test_images": len(logits),
            "skipped": split.test.skipped,
            "accuracy": accuracy(logits, split),
        },
        json,
    )


def is_checkpoint(model: str) -> bool:
    """Whether `model` is a file that torch.save wrote, a zip archive, rather than a packed file or a name."""
    try:
        with open(model, "rb") as file:
            return file.read(2) == b"PK"
    except OSError:
        return False


def held_out(dataset: str, data: Path | None, size: Any, classes: Any) -> Split:
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
    import numpy as np

    images = split.test.images
    return np.concatenate([engine(images[i : i + BATCH]) for i in range(0, len(images), BATCH)])


def accuracy(logits: np.ndarray, split: Split) -> float:
    """Share of the test images whose largest logit is that of their class."""
    return float((logits.argmax(1) == split.test.labels).mean())
