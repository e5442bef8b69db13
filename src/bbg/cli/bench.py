"""The verb bench."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bbg.budget import Budget
from bbg.cli.output import show
from bbg.cli.parser import JSON, LIMITS, MODEL, argument, count, duration, thread_count, verb
from bbg.errors import BbgError
from bbg.log import LOGGER
from bbg.zoo import names, path

if TYPE_CHECKING:
    import numpy as np

    from bbg.engine import Engine
    from bbg.limits import Limits

WIDEST, LARGEST = 1024, 50_000_000  # width and parameters of the real-valued twin that is made of a model's notes


@verb(
    argument("model", nargs="?", metavar="MODEL", help=MODEL),
    argument(
        "--budget",
        metavar="200us",
        help="without MODEL: time the models of the zoo, and list those that take no longer",
    ),
    argument("--bytes", metavar="100kB", help="without MODEL: list the models of the zoo that are no larger"),
    argument(
        "--threads", type=thread_count, default=1, metavar="N", help="threads, of torch too; default: %(default)s"
    ),
    argument("--batch", type=count, default=1, metavar="N", help="images per call; default: %(default)s"),
    argument("--seconds", type=duration, default=2.0, metavar="S", help="how long to measure; default: %(default)s"),
    LIMITS,
    JSON,
)
def bench(
    model: str | None,
    budget: str | None,
    bytes: str | None,
    threads: int,
    batch: int,
    seconds: float,
    limits: Limits | None,
    json: Path | None,
) -> None:
    """Time a packed model by layer, and in all beside its real-valued twin in torch; or list what fits a budget."""
    from bbg.engine import load

    budgets = [Budget.of(text) for text in (budget, bytes) if text is not None]
    if bytes is not None and budgets[-1].what != "bytes":
        raise BbgError(f"--bytes got {bytes!r}, a time; give a number of B, kB or MB")
    if budget is not None and budgets[0].what == "bytes":
        raise BbgError(f"--budget got {budget!r}, a size; give a time in us or ms, or the size to --bytes")
    if (model is None) == (not budgets):
        raise BbgError("bench takes a model, or --budget or --bytes to choose one by; give one of them")
    if model is None:
        show({"threads": threads, "batch": batch, "fit": fitting(budgets, threads, batch, seconds)}, json)
        return
    engine = load(model, threads, limits)
    x = noise(engine, batch)
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


def noise(engine: Engine, batch: int) -> np.ndarray:
    """A batch of images of the engine's shape."""
    import numpy as np

    return np.random.default_rng(0).standard_normal((batch, *engine.input_shape), np.float32)


def fitting(budgets: list[Budget], threads: int, batch: int, seconds: float) -> list[dict[str, Any]]:
    """The models of the zoo that fit all `budgets` on this CPU, the most accurate on each data set first.

    The time is the least per image of those measured for `seconds`.
    """
    from bbg.engine import load

    amounts = dict(budgets)
    rows = []
    for name in names():
        size = path(name).stat().st_size
        if size > amounts.get("bytes", size):
            continue
        try:
            engine = load(name, threads)
        except BbgError as error:  # one of those that were added; the others are still good
            LOGGER.warning("%s", error)
            continue
        durations = times(partial(engine, noise(engine, batch)), seconds)
        took = min(durations) / batch
        if took <= amounts.get("seconds", took):
            facts = engine.provenance
            row = {"name": name, "data": facts.get("dataset"), "accuracy": facts.get("accuracy")}
            rows.append({**row, "bytes": size, "min_us": 1e6 * took})

    def order(row: dict[str, Any]) -> tuple[str, float, float]:
        known = row["accuracy"] if isinstance(row["accuracy"], (int, float)) else 0  # a note may be any text
        return str(row["data"]), -known, row["min_us"]

    return sorted(rows, key=order)


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

    name, width, heads = (engine.provenance.get(key) for key in ("network", "width", "heads"))
    if name is None or find_spec("torch") is None or engine.preprocess is None or engine.labels is None:
        return None
    import torch

    from bbg.recipe import Recipe
    from bbg.training.factory import build

    if width is not None and (type(width) is not int or not 1 <= width <= WIDEST):
        return None
    try:
        recipe = Recipe(dataset="", network=str(name), method="float", width=width).changed({"heads": heads})
        with torch.device("meta"):  # without memory
            size = sum(p.numel() for p in build(recipe, len(engine.labels), engine.preprocess).parameters())
        if size > LARGEST:
            return None
        twin = build(recipe, len(engine.labels), engine.preprocess).eval()
    except (BbgError, RuntimeError):  # notes are a stranger's word
        return None
    torch.set_num_threads(threads)
    images = torch.from_numpy(x)

    def call() -> object:
        with torch.inference_mode():
            return twin(images)

    return call
