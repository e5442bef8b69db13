"""What a training on ImageNet takes, from the images per second of this machine.

    python -m bench.imagenet [--recipe imagenet_resnet18] [--batch 64] [--steps 4] [--speed 1000]

It measures two rates: that of training steps on this device, at 224 pixels by the recipe, and that at which the
processes of this machine decode, crop and colour photographs of ImageNet's size. `--speed` states the first one
instead. Then it does the sum for 1, 8 and 64 devices, each of the same rate. It is not among the benchmarks of
`python -m bench`: its figures are of use on the machine that will train.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from lightning_fabric import Fabric
from PIL import Image

import bbg
from bbg.data import Split, open_recipe
from bbg.data.sets import ImageSet
from bbg.image import Preprocess
from bbg.recipe import Recipe
from bbg.training.factory import build
from bbg.training.loop import make_step, training_loader
from bbg.training.resume import first_state
from bbg.training.schedule import set_lr
from bbg.training.tasks import make_task
from bench.record import Result, parser_of, run

IMAGES, TESTS, CLASSES = 1_281_167, 50_000, 1000  # of ILSVRC 2012
TAR_BYTES = (
    147_897_477_120 + 6_744_924_160
)  # of its archives for training and validation, which hold the files as they are
SHARD_BYTES = 2**28
HEADERS = 5 * 512  # of an image in a shard: three headers, and a block each for its class and its name
TEST_COST = 1 / 3  # of an image in evaluation beside one in training: a forward pass, without the backward one
DEVICES = (1, 8, 64)
SIDES = (375, 500)  # of a usual image


class Cost(NamedTuple):
    """What a training takes on so many devices."""

    devices: int
    steps_per_epoch: int
    steps: int
    device_hours: float
    hours: float
    loaded_per_s: float  # images that have to be decoded each second, or the devices wait


def cost(images_per_s: float, epochs: int, batch: int, devices: int = 1, efficiency: float = 1.0) -> Cost:
    """A training of `epochs` at the whole batch `batch`, where one device alone trains on `images_per_s`.

    `efficiency`: the share of it that each of several devices keeps beside the others. Each epoch ends with a pass over
    the test images.
    """
    steps = IMAGES // batch
    seconds = epochs * (steps * batch + TEST_COST * TESTS) / (images_per_s * efficiency)
    return Cost(
        devices, steps, epochs * steps, seconds / 3600, seconds / 3600 / devices, images_per_s * efficiency * devices
    )


def disk() -> dict[str, float]:
    """Bytes of the images in folders and in shards, and the number of shards."""
    shards = TAR_BYTES + (IMAGES + TESTS) * HEADERS
    return {"folders_gb": TAR_BYTES / 1e9, "shards_gb": shards / 1e9, "shards": -(-shards // SHARD_BYTES)}


def training_speed(recipe: Recipe, batch: int, steps: int, rounds: int) -> float:
    """Images per second of the best of `rounds` turns of `steps` training steps on this device."""
    recipe = recipe.changed({"batch_size": batch})
    preprocess = Preprocess.of("imagenet")
    draws = np.random.default_rng(0)
    pixels = draws.integers(0, 256, (batch, *preprocess.size, 3), dtype=np.uint8)
    names = tuple(map(str, range(CLASSES)))
    data = ImageSet(pixels, draws.integers(0, CLASSES, batch), names, preprocess)
    split = Split(data, data)
    torch.manual_seed(0)
    model = build(recipe, CLASSES, preprocess).to(memory_format=torch.channels_last)
    fabric = Fabric(accelerator="auto", devices=1)
    state = first_state(model, recipe, split, None, resume=False, overwrite=False, custom=False)
    optimizer, step = make_step(fabric, model, make_task(recipe, CLASSES), state, batch)
    x, y = next(training_loader(split, recipe.changed({"crop": "none"}), fabric.device).epoch())
    model.train()
    best = 0.0
    for turn in range(rounds + 1):  # the first one warms up
        began = time.perf_counter()
        for number in range(steps):
            set_lr(optimizer, recipe, number, 10**6)
            step(x, y, 0, number)
        if fabric.device.type == "cuda":
            torch.cuda.synchronize()
        best = max(best, steps * batch / (time.perf_counter() - began)) if turn else 0.0
    return best


def photographs(root: Path, count: int) -> Path:
    """A set in ImageNet's layout: the sample picture at a usual size, `count` times in each of two classes."""
    with Image.open(bbg.zoo.sample()) as sample:
        picture = sample.convert("RGB").resize(SIDES[::-1])
    for half in ("train", "val"):
        for name in ("n0", "n1"):
            folder = root / half / name
            folder.mkdir(parents=True)
            for i in range(count):
                picture.save(folder / f"{i}.JPEG", quality=95)
    return root


def loading_speed(recipe: Recipe, batch: int, count: int) -> float:
    """Images per second that the processes of this machine decode and change as the recipe says."""
    with tempfile.TemporaryDirectory() as folder:
        split = open_recipe(recipe, photographs(Path(folder), count))
        loader = training_loader(split, recipe.changed({"batch_size": min(batch, count)}))

        def images(epoch: int) -> Iterator[int]:
            for x, _ in loader.epoch(epoch):
                yield len(x)

        sum(images(0))  # the files are in memory then
        began = time.perf_counter()
        return sum(images(1)) / (time.perf_counter() - began)


def rows(arguments: argparse.Namespace) -> Result:
    """Both rates, and a row for each number of devices."""
    recipe = Recipe.find(arguments.recipe)
    speed = arguments.speed or training_speed(recipe, arguments.batch, arguments.steps, arguments.rounds)
    costs = [cost(speed, recipe.epochs, recipe.batch_size, count, arguments.efficiency)._asdict() for count in DEVICES]
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    return {
        "recipe": arguments.recipe,
        "device": device if arguments.speed is None else "as stated",
        "trained_per_s": speed,
        "loaded_per_s": loading_speed(recipe, arguments.batch, arguments.pictures),
        **disk(),
        "costs": costs,
    }


if __name__ == "__main__":
    parser = parser_of("imagenet", __doc__, rounds=3)
    parser.add_argument("--recipe", default="imagenet_resnet18")
    parser.add_argument("--batch", type=int, default=64, help="images of a step on one device; default: %(default)s")
    parser.add_argument("--steps", type=int, default=4, help="steps of a turn; default: %(default)s")
    parser.add_argument("--speed", type=float, help="images per second of one device, which is not measured then")
    parser.add_argument("--efficiency", type=float, default=1.0, help="share that each of several devices keeps")
    parser.add_argument("--pictures", type=int, default=256, help="of each of two classes, for loading")
    run(parser, rows, ("torch", "pillow"))
