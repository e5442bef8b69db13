"""How the time of the packed ResNet-18 grows with the image and with the batch, on one thread.

    python bench/sizes.py [--rounds 30] [--out bench/results/sizes.json]

The network is packed anew for each size of image. All engines take turns, and so do the batches, which share the same
images out: whoever gets one at a time finds none of them in the first caches either.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import finish, machine, options
from networks import NETWORKS, build

import bbg
from bbg.engine import Engine
from bbg.image import Preprocess

SIDES = (112, 160, 224, 320, 448, 640, 896)
BATCHES = (1, 2, 4, 8, 16, 32)
SECONDS = 0.05  # of one turn


def pack(side: int, path: Path) -> None:
    """ResNet-18 for images of `side` x `side`."""
    preset = NETWORKS["resnet18"].preprocess
    preprocess = Preprocess(side, mean=preset.mean, std=preset.std)
    example = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    bbg.convert(build("resnet18", "bbg"), path, example, preprocess=preprocess)


def turn(engine: Engine, calls: list[np.ndarray]) -> list[float]:
    """Durations of all calls, again and again as long as they fit in a turn, after one that warms up."""
    engine(calls[0])
    durations: list[float] = []
    while sum(durations) < SECONDS:
        for images in calls:
            began = time.perf_counter()
            engine(images)
            durations.append(time.perf_counter() - began)
    return durations


def main() -> None:
    """The command line."""
    arguments = options(__doc__, "sizes").parse_args()
    result: dict[str, Any] = {**machine(), "threads": 1, "rounds": arguments.rounds}
    engines = {}
    with tempfile.TemporaryDirectory() as place:
        for side in SIDES:
            pack(side, Path(place) / f"{side}.bbg")
            engines[side] = bbg.load(Path(place) / f"{side}.bbg", threads=1)
    entrants = [(side, 1) for side in SIDES] + [(224, batch) for batch in BATCHES[1:]]
    rng = np.random.default_rng(0)
    pixels = {side: rng.integers(0, 256, (BATCHES[-1], side, side, 3), dtype=np.uint8) for side in SIDES}
    calls = {(side, batch): np.split(pixels[side], BATCHES[-1] // batch) for side, batch in entrants}
    times: dict[tuple[int, int], list[float]] = {key: [] for key in entrants}
    for _ in range(arguments.rounds):
        for key in entrants:
            times[key] += turn(engines[key[0]], calls[key])
    result["sizes"] = [
        {
            "side": side,
            "batch": batch,
            "min_us": 1e6 * min(taken) / batch,
            "median_us": 1e6 * statistics.median(taken) / batch,
            "ns_per_pixel": 1e9 * min(taken) / batch / side**2,
        }
        for (side, batch), taken in times.items()
    ]
    finish(result, arguments.out)


if __name__ == "__main__":
    main()
