"""Trainings by several processes of one machine: `python -m support.processes FOLDER` runs all of CASES.

Each process leaves what a case returns in `FOLDER/<case>.<rank>.pt`. They are forked from one that has imported torch
and not used it, since an import takes seconds.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from bbg.data import ImageSet, Split, open_data, open_recipe
from bbg.data.loader import Loader, Part
from bbg.errors import BbgError
from bbg.image import Preprocess
from bbg.log import LOGGER
from bbg.recipe import Recipe
from bbg.training import step as step_of
from bbg.training.checkpoint import Checkpoint
from bbg.training.device import fabric_on
from bbg.training.evaluate import reestimate_statistics
from bbg.training.factory import build
from bbg.training.loop import train, training_loader
from bbg.training.processes import Processes, joined
from bbg.training.step import Step, make_step
from bbg.training.tasks import make_task
from support.detectors import Spots, head
from support.imagenet import CLASSES, write_imagenet
from support.paths import ROOT

DIGITS = Recipe(
    dataset="digits", network="resnet8", width=4, batch_size=33, crop_padding=1, flip=False, optimizer="sgd", lr=0.1
)


class Net(nn.Module):
    """Smooth, in float64, without batch norm."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 6, 3), nn.Softplus(), nn.AvgPool2d(3), nn.Flatten(), nn.LazyLinear(16), nn.Tanh()
        )
        self.last, self.unused = nn.Linear(16, classes), nn.Linear(16, 2)
        self.layers(torch.zeros(1, 3, 8, 8))
        self.double()

    def forward(self, x: Tensor) -> Any:
        return self.last(self.layers(x.double()))


class Maps(nn.Module):
    """A map for each of three classes."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.norm, self.two = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Conv2d(4, 3, 1)

    def forward(self, x: Tensor) -> Any:
        return self.two(self.norm(self.one(x)).tanh())


class Detector(Spots):
    """Boxes of `Spots`, with a detection of its own."""

    detection = head()


def random_set(count: int, side: int = 8, targets: str = "classes") -> ImageSet:
    """Noise, with classes, masks or boxes."""
    draws = np.random.default_rng(0)
    images = draws.integers(0, 256, (count, side, side, 3)).astype(np.uint8)
    labels: Any = draws.integers(0, 10, count)
    names = tuple(map(str, range(10)))
    if targets == "masks":
        labels, names = draws.integers(0, 4, (count, side, side)).astype(np.uint8), tuple("abc")
        labels[labels == 3] = 255
        labels[: count // 3, : side // 2] = 255  # so that the processes do not have the same number of pixels
    if targets == "boxes":
        corners = np.sort(draws.random((count, 3, 2, 2)), axis=2).reshape(count, 3, 4)
        labels = np.concatenate([draws.integers(-1, 2, (count, 3, 1)), corners, np.zeros((count, 3, 1))], 2)
        labels, names = labels.astype(np.float32), ("red", "green")
    return ImageSet(images, labels, names, Preprocess(side))


def stepping(
    model: nn.Module, recipe: Recipe, split: Split, processes: Processes
) -> tuple[Step, Loader, torch.optim.Optimizer]:
    """The step of a training that has just begun."""
    state = Checkpoint(recipe, 0, 0, {}, {}, list(split.classes), split.preprocess)
    task = make_task(recipe, len(split.classes), None, model, processes)
    loader = training_loader(split, recipe, "cpu", Part(processes.rank, processes.count, processes.local_count))
    optimizer, step = make_step(fabric_on(torch.device("cpu")), model, task, state, loader.batch_size, processes)
    return step, loader, optimizer


def after_steps(
    model: nn.Module, recipe: Recipe, split: Split, processes: Processes, train: bool, steps: int = 1
) -> dict[str, Any]:
    """Losses, and the gradients and the whole state behind the last of some steps."""
    step, loader, _ = stepping(model, recipe, split, processes)
    model.train(train)
    losses, epoch = [], 0
    while len(losses) < steps:
        for x, y in loader.epoch(epoch):
            losses.append({name: float(value) for name, value in step(x, y, epoch, len(losses)).items()})
            if len(losses) == steps:
                break
        epoch += 1
    gradients = {name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()}
    return {"losses": losses, "gradients": gradients, "state": {k: v.clone() for k, v in model.state_dict().items()}}


def digits_step(method: str, train: bool, **changes: Any) -> Callable[[Processes], Any]:
    """The first step on handwritten digits, 33 images of them."""

    def run(processes: Processes) -> Any:
        torch.manual_seed(1)
        recipe, split = DIGITS.changed({"method": method, **changes}), open_data("digits", None)
        model = build(recipe, 10, split.preprocess)
        return after_steps(model, recipe, split, processes, train)

    return run


def other_task(task: str, targets: str, network: type[nn.Module], sync: bool) -> Callable[[Processes], Any]:
    """The first step of another task."""

    def run(processes: Processes) -> Any:
        torch.manual_seed(1)
        half = random_set(9, 16, targets)
        recipe = Recipe("masks", task=task, batch_size=9, crop="none", flip=False, sync_bn=sync, optimizer="sgd")
        model = network()
        if isinstance(model, Spots):
            model = Detector(4)
        found = after_steps(model, recipe, Split(half, half), processes, train=True)
        part = Part(processes.rank, processes.count, processes.local_count)
        judge = make_task(recipe, len(half.classes), None, model, processes)
        found["figures"] = judge.evaluate(model, Loader(half, 4, part=part))
        return found

    return run


def smooth(processes: Processes) -> Any:
    """20 steps of a smooth network in float64."""
    torch.manual_seed(1)
    split = Split(random_set(100), random_set(10))
    recipe = Recipe("digits", batch_size=20, lr=0.1, optimizer="sgd", mixup=0.2, crop_padding=1)
    return after_steps(Net(), recipe, split, processes, train=True, steps=20)


def evaluation(processes: Processes) -> Any:
    """8,000 images, each of which tells that it was seen."""
    seen: list[Tensor] = []
    split = random_set(8000, 8)

    class Seeing(Net):
        def forward(self, x: Tensor) -> Any:
            seen.append((x * split.preprocess.std[0] * 255).round().flatten(1)[:, :8].clone())
            return super().forward(x)

    torch.manual_seed(1)
    model, recipe = Seeing(), Recipe("digits")
    part = Part(processes.rank, processes.count, processes.local_count)
    figures = make_task(recipe, 10, None, None, processes).evaluate(model, Loader(split, 250, part=part))
    return {"figures": figures, "seen": torch.cat(seen[1:] if len(seen[0]) == 1 else seen)}


def statistics(sync: bool) -> Callable[[Processes], Any]:
    """Statistics taken anew over three batches."""

    def run(processes: Processes) -> Any:
        torch.manual_seed(1)
        recipe, split = DIGITS.changed({"method": "bbg-plus"}), open_data("digits", None)
        model = build(recipe, 10, split.preprocess)
        part = Part(processes.rank, processes.count, processes.local_count)
        loader = training_loader(split, recipe, "cpu", part)
        reestimate_statistics(model, loader, 0, 3, processes, sync)
        return {"state": model.state_dict()}

    return run


TRAINED = DIGITS.changed({"epochs": 3, "checkpoint_steps": 4, "bn_batches": 2})


class Place:
    """Where the cases leave their files."""

    folder = Path()


def trained(processes: Processes) -> Any:
    """A whole training, whose folder stays."""
    train(TRAINED, open_data("digits", None), Place.folder / "undisturbed", progress=False, processes=processes)


def stopped(processes: Processes) -> Any:
    """A training of 6 steps in which one process is asked to end within the third; every image that was seen."""
    whole = random_set(50)
    return {"seen": seen_in(RECORDED, Split(whole, whole), Place.folder / "stopped", processes, 3)}


RECORDED = DIGITS.changed({"batch_size": 8, "crop": "none", "epochs": 1})


def seen_in(
    recipe: Recipe, split: Split, out: Path, processes: Processes, ask: int = 0, resume: bool = False
) -> Tensor:
    """The images that this process trains on, as they came in; the last process gets SIGTERM within step `ask`."""
    seen: list[Tensor] = []
    name = "train_step" if processes.alone else "shared_step"
    step = getattr(step_of, name)

    def recorded(*args: Any) -> Any:
        seen.append(args[-4].flatten(1).clone())
        if len(seen) == ask and processes.rank == processes.count - 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(*args)

    setattr(step_of, name, recorded)
    try:
        with suppress(KeyboardInterrupt):
            train(recipe, split, out, progress=False, processes=processes, resume=resume)
    finally:
        setattr(step_of, name, step)
    return torch.cat(seen)


def diverged(processes: Processes) -> Any:
    """What each process says where the images of the last one are no numbers."""
    torch.manual_seed(1)
    split = Split(random_set(100), random_set(10))
    model, recipe = Net(), Recipe("digits", batch_size=20, optimizer="sgd")
    step, loader, _ = stepping(model, recipe, split, processes)
    x, y = next(loader.epoch())
    try:
        step(x * np.nan if processes.rank == processes.count - 1 else x, y, 0, 6)
    except BbgError as error:
        return {"error": str(error)}


PHOTOGRAPHS = Recipe("imagenet", "resnet8", width=4, size=16, epochs=2, batch_size=8, crop_scale=0.5)


def write_damaged(root: Path) -> Path:
    """24 training images and 8 test images, of each class two and one cut short."""
    write_imagenet(root)
    for name in CLASSES:
        for path in (*sorted((root / "train" / name).iterdir())[1:4:2], root / "val" / name / f"{name}_0001.JPEG"):
            path.write_bytes(path.read_bytes()[:400])
    return root


def damaged(processes: Processes) -> Any:
    """A training over images that are damaged in part, whose folder stays; what each process says."""
    said: list[str] = []
    heard = logging.Handler(logging.WARNING)
    heard.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    root = processes.decided(lambda: write_damaged(Place.folder / "damaged images"))
    LOGGER.addHandler(heard)
    try:
        train(
            PHOTOGRAPHS, open_recipe(PHOTOGRAPHS, root), Place.folder / "damaged", device="cpu",
            progress=False, processes=processes,
        )  # fmt: skip
    finally:
        LOGGER.removeHandler(heard)
    return {"said": said}


class Case(NamedTuple):
    """What is done, and by how many processes."""

    run: Callable[[Processes], Any]
    count: int = 2


CASES: dict[str, Case] = {
    "eval mode": Case(digits_step("bbg", train=False)),
    "eval mode, 3 processes": Case(digits_step("bbg-plus", train=False), 3),
    "synchronised, float": Case(digits_step("float", train=True, sync_bn=True)),
    "synchronised, bbg": Case(digits_step("bbg", train=True, sync_bn=True)),
    "synchronised, bbg-plus": Case(digits_step("bbg-plus", train=True, sync_bn=True)),
    "local": Case(digits_step("bbg-plus", train=True)),
    "segmentation": Case(other_task("segmentation", "masks", Maps, True)),
    "detection": Case(other_task("detection", "boxes", Spots, True)),
    "smooth": Case(smooth),
    "evaluation": Case(evaluation, 3),
    "statistics": Case(statistics(True)),
    "trained": Case(trained),
    "stopped": Case(stopped),
    "diverged": Case(diverged),
    "damaged": Case(damaged),
}


def paths() -> dict[str, str]:
    """The environment of a process that finds the package and the tests."""
    known = [str(ROOT / "src"), str(ROOT / "tests"), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(known), "OMP_NUM_THREADS": "1"}


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
    return port


def environment(rank: int, count: int, port: int) -> dict[str, str]:
    """What torchrun would say to process `rank`."""
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_RESTART_COUNT": "0",
    }


def run_case(name: str, folder: Path) -> list[int]:
    """The exit statuses of its processes."""
    case, port, children = CASES[name], free_port(), []
    for rank in range(case.count):
        child = os.fork()
        if child == 0:
            status = 1
            try:
                os.environ.update(environment(rank, case.count, port))
                torch.set_num_threads(1)
                with joined() as processes:
                    torch.save(case.run(processes), folder / f"{name}.{rank}.pt")
                status = 0
            finally:
                sys.stderr.flush()
                os._exit(status)
        children.append(child)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def main() -> None:
    Place.folder = Path(sys.argv[1])
    for name in CASES:
        if name != "trained":  # which takes seconds
            print(name, run_case(name, Place.folder), flush=True)


if __name__ == "__main__":
    main()
