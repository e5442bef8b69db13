"""Training steps per second of a network by each path that this machine has, in turns.

    python -m bench.training [--networks resnet20 vgg_small resnet18_cifar] [--rounds 5] [--steps 4]

A step is everything between two batches: the augmentation, the forward and backward pass and the optimizer. Images are
drawn at random; the network is `bbg` at batch 128. Paths: step by step of torch in float32 or bf16 ("eager"), through
torch.compile ("compiled"), and on a GPU the same as one CUDA graph ("captured").
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor

from bbg.data import Split
from bbg.data.sets import ImageSet
from bbg.image import Preprocess
from bbg.recipe import Recipe
from bbg.training.captured import CapturedStep
from bbg.training.factory import build
from bbg.training.loop import make_step, training_loader
from bbg.training.resume import first_state
from bbg.training.schedule import set_lr
from bbg.training.tasks import make_task
from bench.markdown import plain, table
from bench.record import Result, parser_of, run

TITLE = "Training"
CLASSES, IMAGES, BATCH = 10, 12_800, 128
NETWORKS = {"resnet20": 16, "vgg_small": None, "resnet18_cifar": 32}  # and their widths; None: their own
PATHS = {  # precision, compile, captured where there is a GPU
    "eager float32": ("fp32", False, False),
    "eager bf16": ("bf16", False, False),
    "compiled bf16": ("bf16", True, False),
    "captured bf16": ("bf16", False, True),
    "captured compiled bf16": ("bf16", True, True),
}


def images() -> Split:
    """Random images in memory, of the shape of CIFAR's."""
    draws = np.random.default_rng(0)
    pixels = draws.integers(0, 256, (IMAGES, 32, 32, 3), dtype=np.uint8)
    data = ImageSet(pixels, draws.integers(0, CLASSES, IMAGES), tuple("0123456789"), Preprocess.of("cifar10"))
    return Split(data, data)


def steps_of(network: str, path: str, split: Split) -> Callable[[int], float]:
    """A function that trains a number of steps and returns its seconds; the first ones compile."""
    precision, compiled, captured = PATHS[path]
    recipe = Recipe(
        dataset="cifar10",
        network=network,
        width=NETWORKS[network],
        act="rprelu",
        batch_size=BATCH,
        precision=precision,
        compile=compiled,
    )
    torch.manual_seed(0)
    model = build(recipe, CLASSES, split.preprocess).to(memory_format=torch.channels_last)
    fabric = Fabric(accelerator="auto", devices=1)
    state = first_state(model, recipe, split, None, resume=False, overwrite=False, custom=False)
    optimizer, step = make_step(fabric, model, make_task(recipe, CLASSES), state, BATCH)
    if isinstance(step, CapturedStep):
        step.possible = captured
    loader = training_loader(split, recipe, fabric.device)

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        epoch = 0
        while True:
            yield from loader.epoch(epoch)
            epoch += 1

    stream = batches()
    model.train()

    def go(count: int) -> float:
        began = time.perf_counter()
        for number in range(count):
            set_lr(optimizer, recipe, number, 10**6)
            step(*next(stream), 0, number)
        if fabric.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - began

    go(3)
    return go


def rows(arguments: argparse.Namespace) -> Result:
    """A row per network and path: images per second of the best turn, and how many times those of eager float32."""
    gpu = torch.cuda.is_available()
    split, measured = images(), []
    for network in arguments.networks:
        paths = {path: steps_of(network, path, split) for path, how in PATHS.items() if gpu or not how[2]}
        seconds: dict[str, list[float]] = {path: [] for path in paths}
        for _ in range(arguments.rounds):
            for path, go in paths.items():
                seconds[path].append(go(arguments.steps))
        speed = {path: arguments.steps * BATCH / min(turns) for path, turns in seconds.items()}
        measured += [
            {"network": network, "path": path, "images_per_s": round(value), "times": value / speed["eager float32"]}
            for path, value in speed.items()
        ]
        print(measured, flush=True)
    device = torch.cuda.get_device_name() if gpu else "cpu"
    return {"device": device, "threads": torch.get_num_threads(), "batch": BATCH, "training": measured}


def render(result: Result) -> str:
    """A row per network and path."""
    text = f"Device {result['device']}, {result['threads']} threads, batch {result['batch']}."
    columns = (
        plain("network"),
        plain("path"),
        ("images/s", lambda r: f"{r['images_per_s']:,}"),
        ("times eager float32", lambda r: f"{r['times']:.2f}"),
    )
    return f"{text}\n\n{table(result['training'], *columns)}"


if __name__ == "__main__":
    parser = parser_of("training", __doc__, rounds=5)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--steps", type=int, default=4, help="steps of a turn; default: %(default)s")
    run(parser, rows, ("torch",))
