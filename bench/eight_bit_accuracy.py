"""What 8 bits cost in accuracy: float networks rounded behind their training, and trained in 8 bits for two epochs.

    python -m bench.eight_bit_accuracy --runs DIR --data DIR [--rows NAME ...] [--cache DIR] [--out FILE.json]

RUNS/NAME/last.ckpt is the checkpoint of a row of the study. It is packed with float32 edges, then in 8 bits with ranges
from 500 training images. Then it trains in 8 bits from those weights, and is packed again. Each file answers all test
images; the last one is compared with torch's simulation of 8 bits, image by image.
"""

from __future__ import annotations

import tempfile
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import torch

import bbg
from bbg.data import Split, open_recipe
from bbg.data.sets import ImageSet, read_batch
from bbg.training.checkpoint import Checkpoint
from bbg.training.evaluate import logits_of
from bbg.training.loop import train
from bench.markdown import Column, plain, table
from bench.record import Result, parser_of, run
from bench.study.row import trained

TITLE = "8 bits without training, and behind two epochs"
ROWS = ("resnet8-w16-float-20e-s0", "resnet20-w16-float-20e-s0", "resnet18-w16-float-20e-s0")
CALIBRATION = 500
TRAINING = {"bits": 8, "epochs": 2, "lr": 5e-3, "range_epochs": 0.5}


def answers(path: Path, split: Split) -> np.ndarray:
    """The class that the packed file names for each test image."""
    engine, count = bbg.load(path), len(split.test)
    batches = (read_batch(split.test, range(i, min(i + 250, count)))[0] for i in range(0, count, 250))
    return np.concatenate([np.asarray(engine(batch)).argmax(1) for batch in batches])


def calibration(split: Split) -> ImageSet:
    """The training images that ranges are taken from."""
    order = np.sort(np.random.default_rng(0).permutation(len(split.train))[:CALIBRATION])
    pixels, labels = read_batch(split.train, order)
    return ImageSet(pixels, np.asarray(labels), split.train.classes, split.preprocess)


def pack(network: torch.nn.Module, path: Path, images: ImageSet, edges: str) -> None:
    """`network` as a packed file; what is not 1 bit has 8 with edges "int8", by the ranges of `images`."""
    how, example = images.preprocess, torch.from_numpy(images.preprocess.normalize(images.images[:4]))
    ranges = images if edges == "int8" else None
    bbg.convert(network, path, example, edges=edges, calibration=ranges, preprocess=how)


def pack_row(runs: Path, name: str, path: Path, edges: str, data: Path, cache: Path | None) -> float:
    """Pack the network of a row of the study; the accuracy of the file on all test images."""
    state, network = trained(runs, name)
    split = open_recipe(state.recipe, data, cache)
    pack(network, path, calibration(split), edges)
    return float((answers(path, split) == np.asarray(split.test.labels)).mean())


def measured(name: str, checkpoint: Path, split: Split, folder: Path) -> Result:
    """All figures of one network."""
    state, path = Checkpoint.load(checkpoint), folder / "network.bbg"
    images, truth = calibration(split), np.asarray(split.test.labels)

    def packed(network: torch.nn.Module, edges: str) -> np.ndarray:
        pack(network, path, images, edges)
        return answers(path, split)

    def accuracy(named: np.ndarray) -> float:
        return float((named == truth).mean())

    real = packed(state.network(), "fp32")
    rounded = packed(state.network(), "int8")
    size = path.stat().st_size
    recipe = state.recipe.changed(TRAINING)
    learned = train(recipe, split, folder / "run", init=checkpoint, device="cpu", progress=False).network()
    simulated = logits_of(learned, split.test, state.preprocess).argmax(1).numpy()
    exact = packed(learned, "fp32")
    return {
        "row": name,
        "float": accuracy(real),
        "rounded": accuracy(rounded),
        "rounded_changed": float((rounded != real).mean()),
        "bytes": size,
        "trained": accuracy(simulated),
        "trained_packed": accuracy(exact),
        "trained_changed": float((exact != simulated).mean()),
    }


def rows(arguments: Namespace) -> Result:
    """The figures of each network."""
    torch.set_num_threads(arguments.threads)
    found = []
    for name in arguments.rows:
        checkpoint = arguments.runs / name / "last.ckpt"
        split = open_recipe(Checkpoint.load(checkpoint).recipe, arguments.data, arguments.cache)
        with tempfile.TemporaryDirectory() as folder:
            found.append(measured(name, checkpoint, split, Path(folder)))
        print(found[-1], flush=True)
    return {"threads": arguments.threads, "test_images": len(split.test), "training": TRAINING, "networks": found}


def render(result: Result) -> str:
    """The table of the page."""

    def share(key: str, heading: str) -> Column:
        return heading, lambda row: f"{100 * row[key]:.2f} %"

    def kilobytes(row: Any) -> str:
        return f"{row['bytes'] / 1000:,.0f}"

    how = result["training"]
    shown = table(
        result["networks"],
        plain("row", "row of the study"),
        share("float", "float32"),
        share("rounded", f"8 bits, ranges of {CALIBRATION} training images"),
        share("rounded_changed", "answers changed"),
        ("kB", kilobytes),
        share("trained", f"{how['epochs']} epochs in 8 bits, torch"),
        share("trained_packed", "the same, packed"),
        share("trained_changed", "answers changed by packing"),
    )
    return (
        f"Accuracy on {result['test_images']:,} test images. The training in 8 bits goes on from the float weights, "
        f"with the recipe of the row and a highest rate of {how['lr']}; it is judged after its last epoch.\n\n{shown}"
    )


def main() -> None:
    """The command line."""
    parser = parser_of("eight_bit_accuracy", __doc__, 1)
    parser.add_argument("--runs", type=Path, required=True, help="the runs of the study")
    parser.add_argument("--data", type=Path, required=True, help="the folder of CIFAR-10")
    parser.add_argument("--cache", type=Path, help="folder in which decoded images are kept")
    parser.add_argument("--rows", nargs="+", default=ROWS, metavar="NAME")
    parser.add_argument("--threads", type=int, default=2)
    run(parser, rows, ("numpy", "torch"))


if __name__ == "__main__":
    main()
