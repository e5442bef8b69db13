"""The verbs of the runtime: predict, bench, inspect, zoo.

Only the comparison that bench makes and a look into a checkpoint import torch.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bbg.cli.output import show
from bbg.cli.parser import JSON, argument, count, new_file, verb
from bbg.errors import BbgError
from bbg.files import write_json

if TYPE_CHECKING:
    import numpy as np

    from bbg.engine import Engine

DEFAULT_MODEL = "resnet20-cifar10"
MODEL = "a packed file or a name of the zoo"


@verb(
    argument("images", nargs="+", metavar="IMAGE", help="image files"),
    argument("--model", default=DEFAULT_MODEL, help=f"{MODEL}; default: %(default)s"),
    argument("--top", type=count, default=5, metavar="N", help="classes to show; default: %(default)s"),
    JSON,
)
def predict(images: list[str], model: str, top: int, json: Path | None) -> None:
    """Say what is in an image: classes with their probabilities."""
    from bbg.engine import load

    # One image on one thread: waking others would cost more time than they save.
    engine = load(find(model), threads=1)
    found = dict(zip(images, engine.predict(images, top), strict=True))
    if json is not None:
        write_json({image: [p._asdict() for p in predictions] for image, predictions in found.items()}, json)
    for image, predictions in found.items():
        print(image)
        for label, score in predictions:
            print(f"  {100 * score:5.1f} %  {label}")


@verb(
    argument("model", metavar="MODEL", help=MODEL),
    argument("--threads", type=count, default=1, metavar="N", help="threads, of torch too; default: %(default)s"),
    argument("--batch", type=count, default=1, metavar="N", help="images per call; default: %(default)s"),
    argument("--seconds", type=float, default=2.0, metavar="S", help="how long to measure; default: %(default)s"),
    JSON,
)
def bench(model: str, threads: int, batch: int, seconds: float, json: Path | None) -> None:
    """Time a packed model by layer and in all, beside its real-valued twin in torch where torch is installed."""
    import numpy as np

    from bbg.engine import load

    engine = load(find(model), threads)
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


@verb(
    argument("model", nargs="?", metavar="MODEL", help=MODEL),
    argument("--cpu", action="store_true", help="show the kernel sets instead, and which one runs here"),
    argument("--checkpoint", type=Path, metavar="CKPT", help="look into a checkpoint of bbg train instead"),
    argument("--data", type=Path, metavar="DIR", help="with --checkpoint: folder of the images; 'digits' needs none"),
    argument("--histograms", type=new_file, metavar="FILE.png", help="with --checkpoint: also draw the distributions"),
    JSON,
)
def inspect(
    model: str | None,
    cpu: bool,
    checkpoint: Path | None,
    data: Path | None,
    histograms: Path | None,
    json: Path | None,
) -> None:
    """Show what a model is made of; of a checkpoint, also how its bits, gates and filters do."""
    if (model is not None) + cpu + (checkpoint is not None) != 1:
        raise BbgError("inspect takes either a MODEL or --cpu or --checkpoint CKPT; give one of them")
    if checkpoint is not None:
        from bbg.cli.inspect import examine

        show(examine(checkpoint, data, histograms), json)
        return
    if data is not None or histograms is not None:
        raise BbgError("inspect takes --data and --histograms with --checkpoint CKPT only; leave them out")
    if model is None:
        from bbg.engine import kernel_sets

        show({"kernel_sets": [s._asdict() for s in kernel_sets()]}, json)
        return
    from bbg.graph.file import items, read

    path = find(model)
    packed = read(path)
    costs = packed.graph.costs()
    layers = [{"layer": c.name, "kind": c.kind, "output": c.shape, "weight_bits": c.bits, "bytes": c.bytes,
               "operations": c.macs} for c in costs]  # fmt: skip
    show(
        {
            "layers": layers,
            "bytes": [item._asdict() for item in items(packed)],
            "file": str(path),
            "file_bytes": path.stat().st_size,
            "input": packed.graph.input_shape,
            "classes": None if packed.labels is None else len(packed.labels),
            "binary_operations": sum(c.macs for c in costs if c.bits == 1),
            "float_operations": sum(c.macs for c in costs if c.bits == 32),
            "provenance": [{"note": note, "value": value} for note, value in packed.provenance.items()],
        },
        json,
    )


@verb(JSON)
def zoo(json: Path | None) -> None:
    """List the models that come with bbg."""
    import bbg.zoo
    from bbg.graph.file import read

    rows = []
    for name in bbg.zoo.names():
        path = bbg.zoo.path(name)
        facts = read(path).provenance
        rows.append({"name": name, "bytes": path.stat().st_size, "data": facts.get("dataset"),
                     "accuracy": facts.get("accuracy")})  # fmt: skip
    show({"zoo": rows}, json)


def find(model: str) -> Path:
    """The packed file that `model` names: a path, or a model of the zoo; BbgError where it is neither."""
    from bbg import zoo

    path = Path(model)
    if path.exists():
        return path
    if model in zoo.names():
        return zoo.path(model)
    known = ", ".join(zoo.names()) or "none"
    raise BbgError(f"no file and no model of the zoo is called {model!r}; the zoo has {known}")


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
    from statistics import median

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

    from bbg.training.checkpoint import build
    from bbg.recipe import Recipe

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
