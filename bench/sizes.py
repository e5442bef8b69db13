"""How the time of the packed ResNet-18 grows with the image and with the batch, on one thread.

    python -m bench.sizes [--rounds 30] [--out bench/results/sizes.json]

The network is packed anew for each size of image. All engines take turns, and so do the batches, which share the same
images out: whoever gets one at a time finds none of them in the first caches either.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from itertools import cycle
from pathlib import Path

import numpy as np
import torch

import bbg
from bbg.engine import Engine
from bbg.image import Preprocess
from bench.markdown import MEDIAN, figure, number, plain, table
from bench.measure import durations, spread
from bench.networks import NETWORKS, build
from bench.record import Result, parser_of, run

TITLE = "Size of the image and of the batch"
SIDES = (112, 160, 224, 320, 448, 640, 896)
BATCHES = (1, 2, 4, 8, 16, 32)
SECONDS = 0.05  # of one turn


def pack(side: int, path: Path) -> None:
    """ResNet-18 for images of `side` x `side`."""
    preset = NETWORKS["resnet18"].preprocess
    preprocess = Preprocess(side, mean=preset.mean, std=preset.std)
    example = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    bbg.convert(build("resnet18", "bbg"), path, example, edges="int8", preprocess=preprocess)


def one_after_another(engine: Engine, batches: list[np.ndarray]) -> Callable[[], object]:
    """A call that runs the next of `batches` each time, and begins anew after the last."""
    following = cycle(batches)
    return lambda: engine(next(following))


def rows(arguments: argparse.Namespace) -> Result:
    """A row per size of image at batch 1, then one per batch at 224x224."""
    engines = {}
    with tempfile.TemporaryDirectory() as folder:
        for side in SIDES:
            pack(side, Path(folder) / f"{side}.bbg")
            engines[side] = bbg.load(Path(folder) / f"{side}.bbg", threads=1)
    entrants = [(side, 1) for side in SIDES] + [(224, batch) for batch in BATCHES[1:]]
    rng = np.random.default_rng(0)
    pixels = {side: rng.integers(0, 256, (BATCHES[-1], side, side, 3), dtype=np.uint8) for side in SIDES}
    calls = {
        (side, batch): one_after_another(engines[side], np.split(pixels[side], BATCHES[-1] // batch))
        for side, batch in entrants
    }
    times: dict[tuple[int, int], list[float]] = {entrant: [] for entrant in entrants}
    for _ in range(arguments.rounds):
        for entrant, call in calls.items():
            times[entrant] += durations(call, SECONDS, warm=1)
    sizes = []
    for (side, batch), taken in times.items():
        per_image = spread(taken, parts=batch)
        sizes.append({"side": side, "batch": batch, **per_image, "ns_per_pixel": 1e3 * per_image["min_us"] / side**2})
    return {"threads": 1, "sizes": sizes}


def render(result: Result) -> str:
    """A sentence on what grows, and a row per size and batch."""
    single = [r for r in result["sizes"] if r["batch"] == 1]
    first, last = single[0], single[-1]
    text = (
        "ResNet-18, one thread. All batches share the same 32 images out, one at a time among them. Time grows with "
        f"the pixels: at {last['side']}x{last['side']} one of them takes {number(last['ns_per_pixel'])} ns, at "
        f"{first['side']}x{first['side']} {number(first['ns_per_pixel'])} ns."
    )
    rows = table(
        result["sizes"],
        ("image", lambda r: f"{r['side']}x{r['side']}"),
        plain("batch"),
        figure("min_us", "per image: min, us"),
        MEDIAN,
        figure("ns_per_pixel", "ns per pixel"),
    )
    return f"{text}\n\n{rows}"


if __name__ == "__main__":
    run(parser_of("sizes", __doc__, rounds=30), rows)
