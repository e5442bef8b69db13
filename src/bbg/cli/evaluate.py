"""The verb eval."""

from __future__ import annotations

from pathlib import Path

from bbg.cli.output import show
from bbg.cli.parser import DATA, DEVICE, FACTORY, JSON, argument, verb
from bbg.cli.scoring import engine_figures, held_out, is_checkpoint, torch_figures, trained_network
from bbg.errors import BbgError


@verb(
    argument("model", metavar="MODEL", help="a checkpoint, a packed file or a name of the zoo"),
    DATA,
    argument("--dataset", help="name of the data set; default: that of the training"),
    FACTORY,
    DEVICE,
    JSON,
)
def eval(
    model: str, data: Path | None, dataset: str | None, factory: str | None, device: str | None, json: Path | None
) -> None:
    """Score a checkpoint or a packed model over all test images."""
    if is_checkpoint(model):
        from bbg.training.checkpoint import Checkpoint
        from bbg.training.device import choose_device

        place = choose_device(device)
        trained = Checkpoint.load(Path(model))
        split = held_out(dataset or trained.recipe.dataset, data, trained.preprocess, trained.classes)
        figures = torch_figures(trained_network(trained, factory).to(place), trained, split)
    elif factory is not None:
        raise BbgError("--factory goes with a checkpoint; a packed file holds its network")
    elif device is not None:
        raise BbgError("--device goes with a checkpoint; a packed file runs on the CPU")
    else:
        from bbg.engine import load

        engine = load(model)
        name = dataset or engine.provenance.get("dataset")
        if name is None:
            raise BbgError(f"{model!r} does not say what it was trained on; say which images with --dataset")
        split = held_out(str(name), data, engine.preprocess, engine.labels)
        figures = engine_figures(engine, split)
    show({"model": model, "test_images": len(split.test), "skipped": split.test.skipped, **figures}, json)
