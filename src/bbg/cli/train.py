"""The verbs that need torch: train, eval, convert."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bbg.cli.output import show
from bbg.cli.parser import JSON, argument, new_file, verb
from bbg.errors import BbgError

if TYPE_CHECKING:
    import numpy as np

    from bbg.training.checkpoint import Checkpoint
    from bbg.conversion import Report
    from bbg.data import Split
    from bbg.engine import Engine

DATA = argument("--data", type=Path, metavar="DIR", help="folder of the images; 'digits' needs none")

CHECK_IMAGES = 32
BATCH = 250


@verb(
    argument("recipe", type=Path, metavar="RECIPE", help="a TOML file, such as those of recipes/"),
    DATA,
    argument("--set", dest="changes", action="append", default=[], metavar="KEY=VALUE", help="change a recipe key"),
    argument("--epochs", type=int, metavar="N", help="short for --set epochs=N"),
    argument("--seed", type=int, metavar="N", help="short for --set seed=N"),
    argument("--init", type=Path, metavar="CKPT", help="start from the weights of this checkpoint"),
    argument("--resume", action="store_true", help="go on with the run in --out"),
    argument("--out", type=Path, metavar="DIR", help="folder of the run; default: runs/<recipe>"),
    JSON,
)
def train(
    recipe: Path,
    data: Path | None,
    changes: list[str],
    epochs: int | None,
    seed: int | None,
    init: Path | None,
    resume: bool,
    out: Path | None,
    json: Path | None,
) -> None:
    """Train a network by a recipe."""
    from bbg.recipe import Recipe

    chosen = Recipe.load(recipe).changed(changes_of(changes, epochs=epochs, seed=seed))
    from bbg.data import open_data
    from bbg.training.loop import train as train_by

    split = open_data(chosen.dataset, data, chosen.size)
    if skipped := split.train.skipped + split.test.skipped:
        print(f"skipped {skipped} files that are no readable images")
    print("\n".join(f"{key} = {value}" for key, value in chosen.to_dict().items() if value is not None), flush=True)
    folder = out or Path("runs") / recipe.stem
    state = train_by(chosen, split, folder, init=init, resume=resume, progress=sys.stdout.isatty())
    show(
        {
            "checkpoint": str(folder / "last.ckpt"),
            "epochs": state.epoch,
            "test_images": len(split.test.labels),
            "test_accuracy": state.history[-1]["test_accuracy"],
        },
        json,
    )


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


@verb(
    argument("checkpoint", type=Path, metavar="CKPT", help="a checkpoint of bbg train"),
    argument("-o", "--output", type=new_file, required=True, metavar="FILE", help="the packed file to write"),
    argument("--edges", help="precision of the layers that are not binary: int8 (default) or fp32"),
    DATA,
    JSON,
)
def convert(checkpoint: Path, output: Path, edges: str | None, data: Path | None, json: Path | None) -> None:
    """Convert a checkpoint to a packed file, checked layer by layer before it is written."""
    from bbg.training.checkpoint import Checkpoint
    from bbg.conversion import convert as convert_model
    from bbg.engine import load

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
    total = {"part": "total", "bits": None, "float32": report.before, "packed": report.after}
    rows = [{"part": p.name, "bits": p.bits, "float32": p.before, "packed": p.after} for p in report.parts]
    show(
        {
            "bytes": [*rows, total],
            "file": report.path,
            "values_compared_with_torch": len(report.findings),
            "largest_difference_in_a_layer": report.difference,
            "near_ties_that_fell_the_other_way": report.ties,
            "images_compared_end_to_end": report.agreement.images,
            "largest_difference_of_outputs": report.agreement.largest,
            "percentile_99_of_it": report.agreement.percentile99,
            "share_with_the_same_best_class": report.agreement.top1,
            **_cost(report),
            **facts,
        },
        json,
    )


def _cost(report: Report) -> dict[str, Any]:
    """What 8-bit edges cost, against float32 edges."""
    if report.edges is None:
        return {}
    cost = report.edges.difference
    return {
        "bytes_spared_by_8-bit_edges": report.edges.bytes - report.after,
        "outputs_move_by_at_most": cost.largest,
        "percentile_99_of_that": cost.percentile99,
        "share_that_keeps_its_best_class": cost.top1,
    }


def provenance(trained: Checkpoint) -> dict[str, str | int | float]:
    """Where a network comes from, for its packed file; bench and eval read it too."""
    recipe = trained.recipe
    notes = {key: getattr(recipe, key) for key in ("dataset", "network", "method", "act", "width", "seed")}
    notes["epochs"] = trained.epoch
    scored = trained.step == 0 and trained.epoch > recipe.activation_epochs
    if trained.history and scored:  # inside an epoch, or with real weights, it is another network that was scored
        notes["accuracy"] = trained.history[-1]["test_accuracy"]
    return {key: value for key, value in notes.items() if value is not None}


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
    from bbg.training.loop import logits_of

    return logits_of(trained.network(), split.test, trained.preprocess).numpy()


def engine_logits(engine: Engine, split: Split) -> np.ndarray:
    """Logits of the test images from the engine, float32 `[N, classes]`."""
    import numpy as np

    images = split.test.images
    return np.concatenate([engine(images[i : i + BATCH]) for i in range(0, len(images), BATCH)])


def accuracy(logits: np.ndarray, split: Split) -> float:
    """Share of the test images whose largest logit is that of their class."""
    return float((logits.argmax(1) == split.test.labels).mean())


def compare(torch_side: np.ndarray, engine_side: np.ndarray, split: Split) -> dict[str, Any]:
    """Both accuracies, and on how many test images the two sides name another class."""
    return {
        "test_images": len(torch_side),
        "accuracy_in_torch": accuracy(torch_side, split),
        "accuracy_in_the_engine": accuracy(engine_side, split),
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


def changes_of(pairs: list[str], **more: int | None) -> dict[str, Any]:
    """The changes to a recipe that `--set KEY=VALUE` and its short forms ask for."""
    changes: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise BbgError(f"--set got {pair!r}; it takes key=value, such as --set lr=0.001")
        changes[key.strip()] = value.strip()
    return changes | {key: value for key, value in more.items() if value is not None}
