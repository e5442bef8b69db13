"""An older checkout against this one, in alternating rounds: engines, the start of `bbg predict`, and training.

    python -m bench.against --old DIR [--rounds 20] [--restarts 4] [--threads 1] [--networks resnet18 resnet20]
                            [--parts engines start training] [--out FILE.json]

DIR is a checkout with an environment of its own in DIR/.venv (`make demo` there makes it), or the Python of one. Either
side converts its own packed files from the same seeds, so the older one may have another format. Only public names of
`bbg` are used, which both sides have.

Three processes take turns: old, new, and old once more. A round gives a ratio of the best time of the old side over
that of the new one: above 1, the new one is faster. Its median over all rounds is reported, beside the ratio of old
over old, whose distance from 1 is chance. The processes are started anew several times, because where a process finds
its memory changes its speed for as long as it lives.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from bench.interleave import Runner, Turns, run_interleaved, serve
from bench.measure import durations
from bench.record import ROOT, Result, commit, parser_of, run

FOREIGN = ("mobilenet_v2", "densenet121", "shufflenet_v2_x1_0")  # of torchvision
NETWORKS = ("resnet18", "resnet20", "vgg_small", *FOREIGN)
CIFAR = {"resnet20": {"act": "rprelu"}, "vgg_small": {"act": "prelu"}}  # those for small images, and their options
OLD, NEW, AGAIN = "old", "new", "old again"
LEAST = 0.98  # of the old side's speed
START = "from bbg.cli import main; main()"
RECIPE = """
dataset = "digits"
network = "resnet8"
method = "bbg"
act = "rprelu"
epochs = 3
batch_size = 64
lr = 5e-3
"""


def pack(name: str, path: Path) -> None:
    """The binary network called `name` with random weights and 8-bit edges, for a thousand classes or ten."""
    import torch

    import bbg

    network: torch.nn.Module
    torch.manual_seed(0)
    side, classes = (32, 10) if name in CIFAR else (224, 1000)
    images = torch.randn(8, 3, side, side)
    if name in FOREIGN:
        import torchvision

        plain = torchvision.models.get_model(name, num_classes=classes)
        network = bbg.binarize(plain, "bbg", example=images[:1])
    else:
        network = bbg.create(name, "bbg", num_classes=classes, **CIFAR.get(name, {}))
    # Norms with the statistics of these images keep the numbers in a trained network's range.
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        network.train()(images)
    preset = "cifar10" if name in CIFAR else "imagenet"
    bbg.convert(network.eval(), path, images[:4], edges="int8", preprocess=preset)


def call_of(path: Path, threads: int) -> tuple[Callable[[], object], dict[str, Any]]:
    """A call of the packed network on the bytes of one image, and what the process says of itself."""
    import numpy as np

    import bbg

    engine = bbg.load(path, threads=threads)
    channels, height, width = engine.input_shape
    image = np.random.default_rng(0).integers(0, 256, (1, height, width, channels), dtype=np.uint8)
    logits = np.asarray(engine(image)).ravel()
    facts = {"commit": commit(Path(bbg.__file__).parents[2]), "package": bbg.__file__, "logits": logits.tolist()}
    return lambda: engine(image), facts


class Command:
    """A command whose turn is one run of it; `figure` reads the duration from what it left, else its own counts."""

    def __init__(self, command: list[str], figure: Callable[[], float] | None = None) -> None:
        self._command, self._figure = command, figure

    def turn(self, seconds: float) -> list[float]:
        """How long it takes, once."""
        return durations(self._run, 0, least=1, warm=0)

    def _run(self) -> float | None:
        done = subprocess.run(self._command, cwd=ROOT, env=environment(), capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError((done.stderr.strip().splitlines() or ["it failed"])[-1])
        return None if self._figure is None else self._figure()


def environment() -> dict[str, str]:
    """This process's variables, but for the one that would give either side the other's package."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def ratios(above: list[list[float]], below: list[list[float]]) -> list[float]:
    """For each round the least time of the one over that of the other."""
    return [min(one) / min(other) for one, other in zip(above, below, strict=True)]


def verdict(times: Mapping[str, list[list[float]]]) -> dict[str, Any]:
    """The median of the paired ratios, and between which values nine of ten ratios of old over old lie.

    `holds`: the new side has at least LEAST of the old one's speed, or differs by less than old does from old.
    """
    ratio = median(ratios(times[OLD], times[NEW]))
    chance = ratios(times[OLD], times[AGAIN])
    low, *_, high = quantiles(chance, n=20, method="inclusive")
    return {
        "old_us": 1e6 * median(min(turn) for turn in times[OLD]),
        "new_us": 1e6 * median(min(turn) for turn in times[NEW]),
        "ratio": ratio,
        "old_over_old": median(chance),
        "old_over_old_low": low,
        "old_over_old_high": high,
        "rounds": len(chance),
        "holds": ratio >= min(LEAST, low),
    }


def alternate(start: Callable[[str], Turns], rounds: int, restarts: int) -> dict[str, list[list[float]]]:
    """The rounds of the three, started `restarts` times: `start(OLD)` or `start(NEW)` makes one that takes turns."""
    times: dict[str, list[list[float]]] = {OLD: [], NEW: [], AGAIN: []}
    for _ in range(restarts):
        sides: dict[str, Turns] = {}
        try:
            for name in times:
                sides[name] = start(NEW if name == NEW else OLD)
            for name, own in run_interleaved(sides, max(1, rounds // restarts)).items():
                times[name] += own
        finally:
            for side in sides.values():
                if isinstance(side, Runner):
                    side.close()
    return times


def work(*words: str) -> list[str]:
    """The arguments that make a Python a process of this file."""
    return ["-m", "bench.against", "--work", *words]


def pack_both(pythons: Mapping[str, str], name: str, folder: Path) -> dict[str, Path]:
    """The network's packed file of either side, made where it is not there yet."""
    paths = {side: folder / f"{name}.{side}.bbg" for side in (OLD, NEW)}
    for side in (side for side, path in paths.items() if not path.exists()):
        command = [pythons[side], *work("pack", name, str(paths[side]))]
        done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{side}, {name}: {(done.stderr.strip().splitlines() or ['it failed'])[-1]}")
    return paths


def engines(pythons: Mapping[str, str], arguments: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """A row per network; `same` tells whether both sides give the same logits for the same image."""
    import numpy as np

    rows = []
    for name in arguments.networks:
        paths = pack_both(pythons, name, folder)
        facts: dict[str, dict[str, Any]] = {}

        def start(side: str, paths: dict[str, Path] = paths, facts: dict[str, Any] = facts) -> Runner:
            runner = Runner([pythons[side], *work("serve", str(paths[side]), str(arguments.threads))], PYTHONPATH="")
            facts[side] = runner.facts
            return runner

        times = alternate(start, arguments.rounds, arguments.restarts)
        if facts[OLD]["package"] == facts[NEW]["package"]:
            raise RuntimeError(f"both sides run {facts[OLD]['package']}")
        logits = [np.array(facts[side]["logits"]) for side in (OLD, NEW)]
        same = float(np.abs(logits[0] - logits[1]).max() / np.abs(logits[0]).max())
        commits = {side: facts[side]["commit"] for side in (OLD, NEW)}
        rows.append({"what": name, **verdict(times), "logits_differ_by": same, **commits})
        print(json.dumps(rows[-1]), flush=True)
    return rows


def start_time(pythons: Mapping[str, str], arguments: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """A row: `bbg predict` of one picture, from the start of Python to its end."""
    import numpy as np
    from PIL import Image

    picture = folder / "picture.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(picture)
    paths = pack_both(pythons, "resnet20", folder)

    def start(side: str) -> Command:
        return Command([pythons[side], "-c", START, "predict", str(picture), "--model", str(paths[side])])

    return [{"what": "bbg predict", **verdict(alternate(start, arguments.rounds, 1))}]


def training(pythons: Mapping[str, str], arguments: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """A row: the fastest epoch of a short training on the digits, as its history tells."""
    recipe = folder / "digits.toml"
    recipe.write_text(RECIPE)

    def fastest_epoch(out: Path) -> float:
        heading, *lines = (out / "history.csv").read_text().split()
        column = heading.split(",").index("seconds")
        return min(float(line.split(",")[column]) for line in lines)

    runs = iter(range(10**6))

    class Training(Command):
        def __init__(self, side: str) -> None:
            self._side = side

        def turn(self, seconds: float) -> list[float]:
            out = folder / f"run-{next(runs)}"
            command = [pythons[self._side], "-c", START, "train", str(recipe), "--out", str(out)]
            return Command(command, lambda: fastest_epoch(out)).turn(seconds)

    times = alternate(Training, arguments.training_rounds, 1)
    return [{"what": "training, an epoch of the digits", **verdict(times)}]


PARTS = {"engines": engines, "start": start_time, "training": training}


def rows(arguments: argparse.Namespace) -> Result:
    """The rows of all parts."""
    old = arguments.old / ".venv" / "bin" / "python" if arguments.old.is_dir() else arguments.old
    if not old.exists():
        raise SystemExit(f"{old} does not exist; --old takes a checkout with .venv, or a Python")
    pythons = {OLD: str(old.absolute()), NEW: sys.executable}
    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for part in arguments.parts:
            found += PARTS[part](pythons, arguments, Path(folder))
    return {"threads": arguments.threads, "against": found}


def main() -> None:
    """The command line; with --work, that of a process of either side."""
    if sys.argv[1:2] == ["--work"]:
        task, *words = sys.argv[2:]
        if task == "pack":
            return pack(words[0], Path(words[1]))
        call, facts = call_of(Path(words[0]), int(words[1]))
        return serve(call, facts)
    parser = parser_of("against", __doc__, rounds=20)
    parser.add_argument("--old", type=Path, required=True, metavar="DIR", help="a checkout with .venv, or a Python")
    parser.add_argument(
        "--restarts", type=int, default=4, help="how often all engines start anew; default: %(default)s"
    )
    parser.add_argument("--training-rounds", type=int, default=5, help="default: %(default)s")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.set_defaults(out=ROOT / "build" / "against.json")
    return run(parser, rows, ("torch", "torchvision", "numpy"))


if __name__ == "__main__":
    main()
