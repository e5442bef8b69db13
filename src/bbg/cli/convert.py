"""The verb convert."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from bbg.cli.evaluate import accuracy, engine_logits, held_out, torch_logits
from bbg.cli.output import show
from bbg.cli.parser import JSON, argument, new_file, verb
from bbg.cli.train import DATA
from bbg.data.sets import Split
from bbg.training.checkpoint import Checkpoint

CHECK_IMAGES = 32


@verb(
    argument("checkpoint", type=Path, metavar="CKPT", help="a checkpoint of bbg train"),
    argument("-o", "--output", type=new_file, required=True, metavar="FILE", help="the packed file to write"),
    argument("--edges", help="precision of the layers that are not binary: int8 (default) or fp32"),
    DATA,
    JSON,
)
def convert(checkpoint: Path, output: Path, edges: str | None, data: Path | None, json: Path | None) -> None:
    """Convert a checkpoint to a packed file, checked layer by layer before it is written."""
    from bbg.conversion import convert as convert_model
    from bbg.engine import load
    from bbg.training.checkpoint import Checkpoint

    trained = Checkpoint.load(checkpoint)
    split = None
    if data is not None or trained.recipe.dataset == "digits":
        split = held_out(trained.recipe.dataset, data, trained.preprocess.size, trained.classes)
    report = convert_model(
        trained.network(),
        output,
        example(trained, split),
        edges=edges,
        preprocess=trained.preprocess,
        labels=trained.classes,
        provenance=provenance(trained),
    )
    facts: dict[str, Any] = {}
    if split is not None:
        facts = compare(torch_logits(trained, split), engine_logits(load(output), split), split)
    show({**report.as_dict(), **facts}, json)


def provenance(trained: Checkpoint) -> dict[str, str | int | float]:
    """Where a network comes from, for its packed file; bench and eval read it too."""
    recipe = trained.recipe
    notes = {key: getattr(recipe, key) for key in ("dataset", "network", "method", "act", "width", "seed")}
    notes["epochs"] = trained.epoch
    scored = trained.step == 0 and trained.epoch > recipe.activation_epochs
    if trained.history and scored:  # inside an epoch, or with real weights, it is another network that was scored
        notes["accuracy"] = trained.history[-1]["test_accuracy"]
    return {key: value for key, value in notes.items() if value is not None}


def compare(torch_side: np.ndarray, engine_side: np.ndarray, split: Split) -> dict[str, Any]:
    """Both accuracies, and on how many test images the two sides name another class."""
    return {
        "test_images": len(torch_side),
        "accuracy_torch": accuracy(torch_side, split),
        "accuracy_engine": accuracy(engine_side, split),
        "disagreements": int((torch_side.argmax(1) != engine_side.argmax(1)).sum()),
    }


def example(trained: Checkpoint, split: Split | None) -> Any:
    """The batch on which conversion is checked: test images where there are some, else seeded random pixels."""
    import numpy as np
    import torch

    preprocess = trained.preprocess
    if split is not None:
        pixels = split.test.images[:: max(1, len(split.test.images) // CHECK_IMAGES)][:CHECK_IMAGES]
    else:
        shape = (CHECK_IMAGES, *preprocess.size, len(preprocess.mean))
        pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    return torch.from_numpy(preprocess.normalize(pixels))
