"""What float weights are worth as the start of a binarized network, and its float self as its teacher.

    python -m bench.finetuning --data DIR [--cache DIR] [--images 10000] [--test-images 8000] [--epochs 4]

torchvision's resnet18 with a head of 10 classes takes CIFAR-10 (class folders) at 32 x 32 pixels as it is: stem and
max-pool leave maps of 8 x 8. It is trained in float32 from random weights. Then `bbg.binarize` makes it binary, and the
same recipe and seed train it from random weights, from the float ones, and from these with teacher="self". A row is
written to --out as soon as it is done.
"""

from __future__ import annotations

import argparse
import copy
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from torch import nn

import bbg
from bbg.data import Split, open_data
from bbg.data.sets import Dataset, ImageSet, read_batch
from bbg.recipe import Recipe
from bench.markdown import Row, plain, table
from bench.record import Result, machine, parser_of, run, write

TITLE = "From float weights to bits"
CLASSES, SIDE = 10, 32
PACKAGES = ("numpy", "torch", "torchvision")
ROWS = {  # what is trained, from which weights, by which teacher
    "float": ("float32", "random", None),
    "random": ("1 bit", "random", None),
    "float start": ("1 bit", "float", None),
    "float start and teacher": ("1 bit", "float", "self"),
}


def chosen(data: Dataset, count: int) -> ImageSet:
    """`count` images of a set, drawn once for all, in memory."""
    order = np.random.default_rng(0).permutation(len(data))[:count]
    images, labels = read_batch(data, order)
    return ImageSet(images, np.asarray(labels), data.classes, data.preprocess)


def resnet18(seed: int) -> nn.Module:
    """The float network with random weights."""
    torch.manual_seed(seed)
    return torchvision.models.resnet18(num_classes=CLASSES)


def rows(arguments: argparse.Namespace) -> Result:
    """A row per training."""
    torch.set_num_threads(arguments.threads)
    opened = open_data("cifar10", arguments.data, cache=arguments.cache)
    split = Split(chosen(opened.train, arguments.images), chosen(opened.test, arguments.test_images))
    recipe = Recipe(dataset="cifar10", epochs=arguments.epochs, batch_size=64, lr=arguments.lr, seed=arguments.seed)
    example = torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    result: Result = {
        "network": "resnet18 of torchvision",
        "threads": arguments.threads,
        "epochs": recipe.epochs,
        "batch_size": recipe.batch_size,
        "optimizer": recipe.optimizer,
        "lr": recipe.lr,
        "distill": recipe.distill,
        "seed": recipe.seed,
        "training_images": len(split.train),
        "test_images": len(split.test),
        "trainings": [],
    }
    real = resnet18(recipe.seed)
    for name, (width, start, teacher) in ROWS.items():
        given = real if name == "float" else copy.deepcopy(real) if start == "float" else resnet18(recipe.seed)
        network = given if name == "float" else bbg.binarize(given, example=example)
        began = time.monotonic()
        last = bbg.fit(network, recipe, split, teacher=teacher, progress=False).history[-1]
        result["trainings"].append(
            {
                "training": name,
                "layers": width,
                "start": start,
                "teacher": teacher,
                "accuracy": last["test_accuracy"],
                "train_loss": last["loss"],
                "seconds": time.monotonic() - began,
            }
        )
        write({**machine(PACKAGES), **result}, arguments.out)
    return result


def render(result: Result) -> str:
    """A row per training."""

    def accuracy(row: Row) -> str:
        return f"{100 * row['accuracy']:.1f} %"

    def error(row: Row) -> float:
        share: float = row["accuracy"]
        return math.sqrt(share * (1 - share) / result["test_images"])

    columns: list[Any] = [
        plain("layers"),
        ("starts from", lambda row: f"{row['start']} weights"),
        ("teacher", lambda row: "its float self" if row["teacher"] else "none"),
        ("test accuracy", accuracy),
    ]
    return (
        f"resnet18 of torchvision as it is, with {CLASSES} classes, on CIFAR-10 (JPEG) at {SIDE} x {SIDE}: "
        f"{result['training_images']:,} training images, {result['epochs']} epochs, batch {result['batch_size']}, "
        f"{result['optimizer']} at {result['lr']:g}, seed {result['seed']}, {result['threads']} thread; accuracy of "
        f"the last epoch on {result['test_images']:,} test images. The float network of the first row is the start of "
        "the last two, which have its epochs behind them, and the teacher of the last, whose loss is the teacher's by "
        f"{100 * result['distill']:.0f} % (`distill`). One seed; one standard error over so many images is up to "
        f"{100 * max(map(error, result['trainings'])):.1f} points.\n\n{table(result['trainings'], *columns)}"
    )


def main() -> None:
    """The command line."""
    parser = parser_of("finetuning", __doc__, 1)
    parser.add_argument("--data", type=Path, required=True, help="the folder of CIFAR-10, as class folders of JPEGs")
    parser.add_argument("--cache", type=Path, help="folder in which decoded images are kept")
    parser.add_argument("--images", type=int, default=10_000, help="training images")
    parser.add_argument("--test-images", type=int, default=8_000)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    run(parser, rows, PACKAGES)


if __name__ == "__main__":
    main()
