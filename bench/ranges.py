"""What 8-bit edges cost, by where their ranges come from, over networks, methods and examples.

    python -m bench.ranges [--cifar DIR] [--epochs 4] [--images 6400] [--threads 2]

Each network is trained in short (the digits; with --cifar also CIFAR-10, on --images of its training images), then
converted with each example: one training image, 32 of them, zeros and noise. Without calibration `edges=None` must lose
nothing and `edges="int8"` must be called unverified. With 500 training images as calibration, the file is scored on all
test images, beside the one with float32 edges.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

import bbg
from bbg.conversion import Calibration
from bbg.data import Split, open_data
from bbg.data.sets import Dataset, ImageSet, read_batch
from bbg.recipe import Recipe
from bench.markdown import Row, plain, table
from bench.record import Result, parser_of, run

TITLE = "8-bit edges and their ranges"
CALIBRATION = 500
NETWORKS: dict[str, dict[str, int]] = {  # name, and its width on the digits and on CIFAR-10
    "resnet8": {"digits": 8, "cifar10": 16},
    "resnet20": {"digits": 8, "cifar10": 16},
    "resnet18_cifar": {"digits": 8, "cifar10": 16},
    "vgg_small": {"digits": 16, "cifar10": 32},
}
METHODS = ("bbg", "xnor")


class Sets(NamedTuple):
    """Training and test images in memory."""

    train: ImageSet
    test: ImageSet


def in_memory(data: Dataset) -> ImageSet:
    """All images of a set, decoded."""
    images, labels = read_batch(data, np.arange(len(data)))
    return ImageSet(images, np.asarray(labels), data.classes, data.preprocess)


def split_of(dataset: str, folder: Path | None, count: int | None) -> Sets:
    """Training and test images in memory, the training images in a mixed order."""
    opened = open_data(dataset, folder)
    order = np.random.default_rng(0).permutation(len(opened.train))[: count or len(opened.train)]
    images, labels = read_batch(opened.train, order)
    train = ImageSet(images, np.asarray(labels), opened.train.classes, opened.preprocess)
    return Sets(train, in_memory(opened.test))


def trained(network: str, method: str, dataset: str, split: Sets, epochs: int) -> torch.nn.Module:
    """The network after a short training."""
    small = dataset == "digits"
    recipe = Recipe(
        dataset=dataset,
        network=network,
        method=method,
        act="rprelu",
        width=NETWORKS[network][dataset],
        epochs=epochs,
        batch_size=64 if small else 128,
        lr=4e-3,
        crop_padding=1 if small else 4,
        flip=not small,
        bn_batches=20,
        precision="fp32" if small else "bf16",
        compile=not small,
        evaluation="torch" if small else "packed",
    )
    torch.manual_seed(0)
    size, channels = split.train.images.shape[1], split.train.images.shape[3]
    options: dict[str, Any] = {"size": size} if network == "vgg_small" else {}
    options |= {"in_channels": channels, "width": recipe.width, "act": recipe.act}
    model = bbg.create(network, method, num_classes=len(split.train.classes), **options)
    bbg.fit(model, recipe, Split(*split), progress=False)
    return model.eval()


def scored(path: Path, split: Sets) -> np.ndarray:
    """Which test images the packed file answers rightly, and its answers: `[2, N]`."""
    engine = bbg.load(path, 1)
    batches = np.array_split(split.test.images, -(-len(split.test) // 250))
    answers = np.concatenate([np.asarray(engine(batch)).argmax(1) for batch in batches])
    return np.stack([answers == split.test.labels, answers])


def measured(network: str, method: str, dataset: str, split: Sets, epochs: int, folder: Path) -> Result:
    """All figures of one network."""
    model = trained(network, method, dataset, split, epochs)
    how = split.train.preprocess
    real = torch.from_numpy(how.normalize(split.train.images[:32]))
    examples = {"one image": real[:1], "32 images": real, "zeros": torch.zeros_like(real[:1]),
                "noise": torch.randn(1, *real.shape[1:], generator=torch.Generator().manual_seed(0))}  # fmt: skip
    path = folder / "net.bbg"

    def converted(example: torch.Tensor, edges: str | None, calibration: Calibration | None = None) -> Any:
        return bbg.convert(model, path, example, edges=edges, calibration=calibration, preprocess=how)

    with torch.no_grad():
        parts = np.array_split(split.test.images, 40)
        logits = torch.cat([model(torch.from_numpy(how.normalize(part))) for part in parts])
    in_torch = float((logits.argmax(1).numpy() == split.test.labels).mean())
    by_example = {}
    for name, example in examples.items():
        converted(example, None)
        kept = float(scored(path, split)[0].mean())
        forced = converted(example, "int8")
        by_example[name] = {
            "default": kept,
            "int8": float(scored(path, split)[0].mean()),
            "int8_is_called_unverified": not forced.edges.verified and "unverified" in str(forced),
        }
    converted(real, "fp32")
    exact = scored(path, split)
    report = converted(real, None, ImageSet(split.train.images[:CALIBRATION], split.train.labels[:CALIBRATION],
                                            split.train.classes, how))  # fmt: skip
    rounded = scored(path, split)
    differences = rounded[0].astype(float) - exact[0].astype(float)
    return {
        "dataset": dataset,
        "network": network,
        "method": method,
        "width": NETWORKS[network][dataset],
        "epochs": epochs,
        "training_images": len(split.train),
        "test_images": len(split.test),
        "torch": in_torch,
        "float_edges": float(exact[0].mean()),
        "calibrated": float(rounded[0].mean()),
        "standard_error": float(differences.std() / math.sqrt(len(differences))),
        "changed": float((rounded[1] != exact[1]).mean()),
        "clipped": report.edges.clipped,
        "warns": any("change the best class" in warning for warning in report.warnings),
        "examples": by_example,
    }


def rows(arguments: argparse.Namespace) -> Result:
    """The figures of all networks."""
    torch.set_num_threads(arguments.threads)
    sets = {"digits": split_of("digits", None, None)}
    if arguments.cifar is not None:
        sets["cifar10"] = split_of("cifar10", arguments.cifar, arguments.images)
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for dataset, split in sets.items():
            for network in NETWORKS:
                for method in METHODS:
                    epochs = arguments.epochs * (4 if dataset == "digits" else 1)
                    found.append(measured(network, method, dataset, split, epochs, Path(folder)))
                    print(found[-1], flush=True)
    return {"threads": arguments.threads, "networks": found}


def render(result: Result) -> str:
    """The table of the page."""

    def per_cent(key: str) -> Any:
        return lambda row: f"{100 * row[key]:.2f} %"

    def least(key: str) -> Any:
        return lambda row: ", ".join(f"{100 * one[key]:.1f}" for one in row["examples"].values())

    def warned(row: Row) -> str:
        return "yes" if row["warns"] else "no"

    networks = result["networks"]
    names = ", ".join(networks[0]["examples"])
    shown = table(
        networks,
        plain("dataset", "images"),
        plain("network"),
        plain("method"),
        ("float32 edges", per_cent("float_edges")),
        ("8 bits, calibrated", per_cent("calibrated")),
        ("answers changed", per_cent("changed")),
        ("warned on 100 others", warned),
        (f"default, without ranges ({names})", least("default")),
        ("forced 8 bits", least("int8")),
    )
    trainings = ", ".join(
        f"{name}: {row['epochs']} epochs on {row['training_images']:,} images"
        for name, row in {row["dataset"]: row for row in networks}.items()
    )
    return (
        f"Short trainings ({trainings}; one seed, last epoch; CIFAR-10 in bf16), then the packed file over all test "
        f"images. Calibrated: ranges of {CALIBRATION} training images, a fifth of which judges them in the report. "
        "Without ranges the default rounds only what reads pixels, whose range is known, whatever the example is; "
        f"forced 8 bits are called unverified.\n\n{shown}"
    )


def main() -> None:
    """The command line."""
    parser = parser_of("ranges", __doc__, 1)
    parser.add_argument("--cifar", type=Path, help="the folder of CIFAR-10; without it the digits alone")
    parser.add_argument("--epochs", type=int, default=4, help="epochs on CIFAR-10, a quarter of those on the digits")
    parser.add_argument("--images", type=int, default=6_400, help="training images of CIFAR-10")
    parser.add_argument("--threads", type=int, default=2)
    run(parser, rows, ("numpy", "torch"))


if __name__ == "__main__":
    main()
