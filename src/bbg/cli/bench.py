"""The verb bench."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bbg.cli.output import show
from bbg.cli.parser import JSON, MODEL, argument, count, duration, thread_count, verb
from bbg.zoo import resolve

if TYPE_CHECKING:
    import numpy as np

    from bbg.engine import Engine


@verb(
    argument("model", metavar="MODEL", help=MODEL),
    argument(
        "--threads", type=thread_count, default=1, metavar="N", help="threads, of torch too; default: %(default)s"
    ),
    argument("--batch", type=count, default=1, metavar="N", help="images per call; default: %(default)s"),
    argument("--seconds", type=duration, default=2.0, metavar="S", help="how long to measure; default: %(default)s"),
    JSON,
)
def bench(model: str, threads: int, batch: int, seconds: float, json: Path | None) -> None:
    """Time a packed model by layer and in all, beside its real-valued twin in torch where torch is installed."""
    from bbg.engine import load

    engine = load(resolve(model), threads)
    import numpy as np

    x = np.random.default_rng(0).normal(size=(batch, *engine.input_shape)).astype(np.float32)
    whole = times(lambda: engine(x), seconds)
    profiles = [engine.profile(x)]
    times(lambda: profiles.append(engine.profile(x)), seconds / 2)
    layers = []
    for ops in zip(*profiles, strict=True):
        one = {"layer": ops[0].name, "kind": ops[0].kind, "output": ops[0].shape, "kernels": ops[0].kernels}
        layers.append({**one, **spread([op.seconds for op in ops], "us", 1e6)})
    sides = [side("packed, bbg", whole)]
    twin = torch_twin(engine, x, threads)
    if twin is not None:
        sides.append(side("real-valued twin, torch", times(twin, seconds)))
    show({"layers": layers, "model": model, "threads": threads, "batch": batch, "whole_network": sides}, json)


def times(call: Callable[[], object], seconds: float, least: int = 5) -> list[float]:
    """Durations of repeated calls, for about `seconds`, at least `least` of them, after one warming call."""
    call()
    durations: list[float] = []
    end = time.perf_counter() + seconds
    while len(durations) < least or time.perf_counter() < end:
        began = time.perf_counter()
        call()
        durations.append(time.perf_counter() - began)
    return durations


def spread(durations: list[float], unit: str, factor: float) -> dict[str, float]:
    """Least and median, in a unit that is `factor` to the second."""
    from statistics import median  # here, since it takes 5 ms, which `bbg predict` need not spend

    return {f"min_{unit}": factor * min(durations), f"median_{unit}": factor * median(durations)}


def side(name: str, durations: list[float]) -> dict[str, Any]:
    """One row of a comparison."""
    return {"runs_as": name, **spread(durations, "ms", 1e3), "calls": len(durations)}


def torch_twin(engine: Engine, x: np.ndarray, threads: int) -> Callable[[], object] | None:
    """A call of the same network with real-valued layers in torch, or None without torch or for a network of others."""
    from importlib.util import find_spec

    name = engine.provenance.get("network")
    if name is None or find_spec("torch") is None:
        return None
    import torch

    from bbg.recipe import Recipe
    from bbg.training.factory import build

    if engine.preprocess is None or engine.labels is None:
        return None
    width = engine.provenance.get("width")
    recipe = Recipe(dataset="", network=str(name), method="float", width=None if width is None else int(width))
    twin = build(recipe, len(engine.labels), engine.preprocess).eval()
    torch.set_num_threads(threads)
    images = torch.from_numpy(x)

    def call() -> object:
        with torch.inference_mode():
            return twin(images)

    return call
