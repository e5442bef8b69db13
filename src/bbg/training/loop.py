"""A whole training: recipe in, checkpoints, history and curves out.

    bbg train cifar10_resnet20 --data DIR --out runs/resnet20       bbg.fit(module, recipe, data, out=...)

Every random draw is a function of (seed, epoch, index of the image) or of (seed, epoch, step), and the learning rate
one of the step. So a checkpoint needs weights, optimizer state and two counters, and a run resumed on the CPU ends
with the same bits as an undisturbed one (same thread count). Only the training loss, accuracy and seconds that the
history tells of a resumed epoch are those of its steps since then.
"""

from __future__ import annotations

import time
from contextlib import closing, nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from bbg.data.augment import STEP, draw
from bbg.data.box_crops import BoxPictures
from bbg.data.loader import WHOLE, Loader, Part
from bbg.data.sets import Dataset, Split, has_boxes
from bbg.data.transforms import Pictures
from bbg.errors import BbgError
from bbg.layers.byte import fix_pixels
from bbg.log import LOGGER, terminal
from bbg.recipe import Recipe
from bbg.tracing.neutral import neutral, refuse_untrainable
from bbg.training.best import hold_out, last_is_best
from bbg.training.check import check_parts, check_start, check_width
from bbg.training.checkpoint import Checkpoint
from bbg.training.device import choose_device, fabric_on
from bbg.training.evaluate import EVALUATION_BATCH, full_precision, reestimate_statistics
from bbg.training.factory import binarized, build, call_factory, find_factory
from bbg.training.folder import LAST, keep, refuse_own, session, tell_damaged
from bbg.training.images import check_images, check_targets
from bbg.training.interrupt import stop_request
from bbg.training.monitor import LOG_STEPS, Monitor
from bbg.training.optimizer import portable_state
from bbg.training.packed import pack, recorded_ranges
from bbg.training.plots import write_history
from bbg.training.processes import ALONE, Processes
from bbg.training.progress import Progress
from bbg.training.resume import first_state
from bbg.training.schedule import present_schedule, set_lr, set_stage
from bbg.training.step import diverged, make_step
from bbg.training.tasks import Task, make_task
from bbg.training.teacher import SELF, keep_teacher, passed_by, read_by, teacher_of
from bbg.training.transfer import Weights


@neutral(grad=True)
def train(
    recipe: Recipe,
    split: Split,
    out: Path,
    *,
    init: Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    device: str | None = None,
    progress: bool = True,
    name: str = "",
    teacher: nn.Module | None = None,
    processes: Processes = ALONE,
) -> Checkpoint:
    """Train the recipe's network, or what its `factory` makes, binarized, on `split`; see `fit` for the rest.

    `name`: what its lines begin with, where it is one training of many. `processes`: those that train together, each
    of which calls this; the first one writes. All of them return the last checkpoint.
    """
    torch.manual_seed(recipe.seed)
    check_start(recipe, out, init, resume, overwrite)
    weights = _weights(recipe, init, resume)
    if recipe.factory is None:
        model = build(recipe, len(split.classes), split.preprocess)
    else:
        model = call_factory(find_factory(recipe.factory), len(split.classes), split.preprocess)
        if weights is not None and weights.plan(model).fits():  # those of the network before it becomes binary
            _give(weights, model, split)
            weights = None
        model = binarized(model, recipe, split.preprocess)
    custom = recipe.factory is not None
    given = (resume, overwrite, device, teacher, progress, name, custom)
    return _fit(model, recipe, split, out, weights, *given, processes)


@neutral(grad=True)
def fit(
    module: nn.Module,
    recipe: Recipe | str | Path,
    data: Split,
    *,
    out: Path | str | None = None,
    init: Path | str | None = None,
    resume: bool = False,
    overwrite: bool = False,
    device: str | None = None,
    teacher: nn.Module | Path | str | None = None,
    progress: bool = True,
) -> Checkpoint:
    """Train `module` by `recipe` on `data`, from the weights that it holds; it is changed in place.

    `module`: any network that makes the outputs of the recipe's task from images, such as one of `bbg.create`, of
    `bbg.binarize`, or one's own. `recipe`: a Recipe, its name or its file; its keys `network`, `factory`, `method`,
    `keep`, `act`, `width` and `shortcut` say nothing here. `data`: training and test images (`bbg.data.open_data`).

    `out`: the folder for what `bbg.training.folder` lists: checkpoints, recipe, facts, curves; None: nothing is
    written. `init`: a checkpoint, a state dict or a safetensors file whose weights are the start, where they fit by
    name and shape (`bbg.training.transfer`); None: the recipe's `weights`, if any. `resume`: go on from
    `out/last.ckpt`; a run that was finished goes on where the recipe has more epochs, with its schedule anew.
    `overwrite`: put the new run in the place of the one in `out`. `device`: cpu, cuda, cuda:1 or mps; None: a GPU where
    there is one. `teacher`: any network that makes logits of the same classes from the same inputs, or a value of the
    recipe key `teacher`: a checkpoint, or "self", the float network that `bbg.binarize` was given, with the weights
    that it had then. A run keeps these in its folder, so `resume` takes them from there. None: that of the recipe, if
    any. The teacher is a copy in evaluation mode; `distill` and `temperature` of the recipe say how it teaches.

    `progress`: print a line after each epoch, and show a bar on a terminal. The lines are messages of the logger "bbg",
    level INFO; a program that handles them itself gets them with or without `progress`.

    Returns the last checkpoint, whose last row of `history` holds the accuracy over all test images after the last
    epoch: the figure to quote. Ctrl-C (or SIGTERM) ends the training behind the present step, with a checkpoint, and
    raises KeyboardInterrupt. Raises BbgError where `out` holds a run already and neither `resume` nor `overwrite` is
    given, or a run of another recipe or other images, where `out` cannot be written, where the device is not there, the
    teacher or `init` does not fit, where `teacher` is "self" and the module is not one of `bbg.binarize`, has been
    trained since or is given `init`, and where the loss or a weight is no longer finite.
    """
    chosen = recipe if isinstance(recipe, Recipe) else Recipe.find(recipe)
    if isinstance(teacher, (str, Path)):
        chosen, teacher = replace(chosen, teacher=str(teacher)), None
    folder = None if out is None else Path(out)
    check_start(chosen, folder, init, resume, overwrite)
    weights = _weights(chosen, init, resume)
    return _fit(module, chosen, data, folder, weights, resume, overwrite, device, teacher, progress, "", custom=True)


def _fit(
    model: nn.Module,
    recipe: Recipe,
    split: Split,
    out: Path | None,
    weights: Weights | None,
    resume: bool,
    overwrite: bool,
    device: str | None,
    teacher: nn.Module | None,
    progress: bool,
    name: str,
    custom: bool,
    processes: Processes = ALONE,
) -> Checkpoint:
    kept = out if processes.first else None  # where this process writes
    with terminal() if progress else nullcontext():
        check_images(split)
        refuse_untrainable(model)
        check_width(model)
        if not isinstance(teacher, nn.Module | None):
            raise BbgError(f"the teacher is a {type(teacher).__name__}; give a network, a path or {SELF!r}")
        if out is not None and not resume:
            source = None if weights is None else weights.source
            refuse_own(out, [("the weights", source), ("the teacher", read_by(recipe))])
        place = choose_device(device, processes)
        own = teacher is None and recipe.teacher == SELF
        if own and weights is not None:
            raise passed_by(weights.source)
        teacher = teacher_of(recipe, split, model, out if resume else None) if teacher is None else teacher
        task = make_task(recipe, len(split.classes), teacher, model, processes)
        check_targets(split, task)
        model.to(memory_format=torch.channels_last)
        if weights is not None:
            _give(weights, model, split)
        state = first_state(model, recipe, split, out, resume, overwrite or kept is None, custom, teacher)
        mean, std = torch.tensor(split.preprocess.mean), torch.tensor(split.preprocess.std)
        fix_pixels(model, torch.zeros(1, len(mean), *split.preprocess.size), mean, std)
        with session(kept, state, split, place, overwrite, processes.count):
            processes.begin(out)
            if own and kept is not None and teacher is not None:
                keep_teacher(teacher, kept)
            del teacher  # the task has a copy
            if state.epoch < recipe.epochs:
                run(model, task, split, state, kept, place, name, processes)
            elif kept is not None:
                write_history(state.history, kept)  # a run may have been killed behind its last checkpoint
    return state


def _weights(recipe: Recipe, init: Path | str | None, resume: bool) -> Weights | None:
    """What a new run starts from: `init`, or else the recipe's `weights`."""
    chosen = recipe.weights if init is None else init
    return None if resume or chosen is None else Weights.read(chosen)


def _give(weights: Weights, model: nn.Module, split: Split) -> None:
    """Load the weights into `model`, and say what was taken."""
    plan = weights.give_to(model)
    LOGGER.info("%s", plan)
    for remark in weights.remarks(plan, split.classes, (split.preprocess.mean, split.preprocess.std)):
        LOGGER.info("weights of %r: %s", weights.source, remark)


def run(
    model: nn.Module,
    task: Task,
    split: Split,
    state: Checkpoint,
    out: Path | None,
    device: torch.device,
    name: str,
    processes: Processes = ALONE,
) -> None:
    """The training itself, from `state` on."""
    recipe, schedule = state.recipe, present_schedule(state.recipe, state.since)
    fabric = fabric_on(device)
    split, held_out = hold_out(split, recipe)
    loader, judged = loaders(split, held_out, recipe, device, processes)
    optimizer, step_on = make_step(fabric, model, task, state, loader.batch_size, processes)
    steps = loader.steps
    if state.step >= steps:
        raise BbgError(f"the checkpoint is at step {state.step:,} of an epoch of {steps:,}; give one of these images")
    monitor = Monitor(model, state, None if out is None else out / "tensorboard")
    bar = Progress(recipe.epochs, steps, state.epoch * steps + state.step, name)

    def end_if(asked: bool) -> None:
        if asked:
            kept = "" if out is None else f", and kept {str(out / LAST)!r}; go on with --resume"
            processes.wait()  # for the one that writes
            LOGGER.info("stopped%s", kept)
            raise KeyboardInterrupt

    with closing(monitor), stop_request() as stop, bar:
        for epoch in range(state.epoch, recipe.epochs):
            began, images, totals = time.monotonic(), 0, Totals()
            set_stage(model, schedule, epoch - state.since)
            monitor.begin_epoch()
            model.train()
            for step, (x, y) in enumerate(loader.epoch(epoch, state.step), state.step):
                total = epoch * steps + step
                seed_step(recipe.seed, epoch, step, processes.rank)
                lr = set_lr(optimizer, schedule, total - state.since * steps, schedule.epochs * steps)
                figures = step_on(x, y, epoch, total)
                state.step, images = step + 1, images + loader.batch_size
                totals.add(figures, loader.batch_size)
                asked = processes.any(stop.asked)
                speed = images / (time.monotonic() - began)
                if (total + 1) % LOG_STEPS == 0:
                    monitor.log_step(total, {"loss_step": figures["loss"], "lr": lr, "images/s": speed})
                bar.trained(epoch, step, speed, figures)
                if state.step < steps and (asked or state.step % recipe.checkpoint_steps == 0):
                    keep_state(state, model, optimizer, out, epoch, total)
                    end_if(asked)
            tested = figures_of(model, task, loader, judged, recipe, epoch, processes)
            row = {"epoch": epoch + 1, **totals.means(), **tested, "lr": lr, "seconds": time.monotonic() - began}
            monitor.end_epoch(epoch * steps + steps - 1, row)
            state.history.append(row)
            state.epoch, state.step = epoch + 1, 0
            if state.epoch == recipe.epochs and processes.first:
                state.ranges = recorded_ranges(model, split)
            keep_state(state, model, optimizer, out, epoch, epoch * steps + steps - 1)
            if out is not None and held_out is not None:
                keep_best(state, model, task, split, out)
            bar.epoch(row, images)
            tell_damaged(out, split, processes)
            end_if(processes.any(stop.asked))


def keep_best(state: Checkpoint, model: nn.Module, task: Task, split: Split, out: Path) -> None:
    """Write the best checkpoint to `out` where the last epoch is the best by the task's figure."""
    if last_is_best(state.history, task.figure, state.recipe.activation_epochs):
        keep(out, replace(state, ranges=state.ranges or recorded_ranges(model, split)), best=True)


def loaders(
    split: Split, held_out: Dataset | None, recipe: Recipe, device: torch.device, processes: Processes
) -> tuple[Loader, dict[str, Loader]]:
    """What the network is trained on, and what it is judged by, by name: of all that, the part of this process."""
    part = Part(processes.rank, processes.count, processes.local_count)
    training = training_loader(split, recipe, device, part)
    check_parts(training.batch_size, processes)
    sets = {"test": split.test} if held_out is None else {"test": split.test, "held_out": held_out}
    return training, {
        name: Loader(data, EVALUATION_BATCH, preprocess=split.preprocess, device=device, part=part)
        for name, data in sets.items()
    }


def figures_of(
    model: nn.Module,
    task: Task,
    loader: Loader,
    judged: dict[str, Loader],
    recipe: Recipe,
    epoch: int,
    processes: Processes = ALONE,
) -> dict[str, float]:
    """The task's figures behind epoch number `epoch` on each set of `judged`, called `<set>_<figure>`."""
    with full_precision():
        if recipe.bn_batches and (recipe.keep_best or epoch + 1 == recipe.epochs):
            reestimate_statistics(model, loader, epoch, recipe.bn_batches, processes, recipe.sync_bn)
        by_engine = recipe.evaluation == "packed" and loader.device.type == "cpu"
        middle = recipe.activation_epochs <= epoch < recipe.epochs - 1
        network = pack(model, judged["test"]) if by_engine and middle else model
        found = {name: task.evaluate(network, images) for name, images in judged.items()}
    return {f"{name}_{figure}": value for name, figures in found.items() for figure, value in figures.items()}


def keep_state(
    state: Checkpoint, model: nn.Module, optimizer: torch.optim.Optimizer, out: Path | None, epoch: int, step: int
) -> None:
    """Take weights and optimizer into `state` and write it to `out`, with the history behind a whole epoch."""
    state.model = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
    for name, tensor in state.model.items():
        if not torch.isfinite(tensor).all():
            raise diverged(f"{name!r} is not finite", epoch, step)
    state.optimizer = portable_state(optimizer)
    keep(out, state)


def training_loader(split: Split, recipe: Recipe, device: torch.device | str = "cpu", part: Part = WHOLE) -> Loader:
    """The training images of `split`, shuffled and augmented as the recipe says."""
    crop = recipe.crop
    if crop == "auto":  # photographs are those images that a larger picture is cropped to
        crop = "padded" if split.preprocess.resize is None else "resized"
    if has_boxes(split.train):
        return boxes_loader(split, recipe, device, part)
    pictures = Pictures(
        scale=recipe.crop_scale if crop == "resized" else None,
        operations=recipe.randaugment,
        magnitude=recipe.randaugment_magnitude,
        colour=recipe.colour,
    )
    return Loader(
        split.train,
        recipe.batch_size,
        shuffle=True,
        seed=recipe.seed,
        padding=recipe.crop_padding if crop == "padded" else 0,
        flip=recipe.flip,
        pictures=pictures,
        mixup=recipe.mixup,
        device=device,
        part=part,
    )


def boxes_loader(split: Split, recipe: Recipe, device: torch.device | str, part: Part) -> Loader:
    """The training images of `split` with their boxes."""
    if recipe.randaugment or recipe.crop == "padded":
        raise BbgError(
            "recipe keys 'randaugment' and crop = \"padded\" move images and not their boxes; leave them out, and take "
            'crop = "resized"'
        )
    scale = recipe.crop_scale if recipe.crop in ("auto", "resized") else None
    pictures = BoxPictures(scale, recipe.expand, recipe.flip, recipe.colour)
    return Loader(
        split.train,
        recipe.batch_size,
        shuffle=True,
        seed=recipe.seed,
        pictures=pictures,
        mixup=recipe.mixup,
        device=device,
        part=part,
    )


def seed_step(seed: int, epoch: int, step: int, rank: int = 0) -> None:
    """Make what the network itself draws, such as its dropout, a function of (seed, epoch, step, process)."""
    number = np.array([step + (rank << 40)])
    torch.manual_seed(int(draw(seed, epoch, number, STEP)[0] >> np.uint64(1)))


class Totals:
    """Means over the images of an epoch, added up on the device."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.images = 0

    def add(self, figures: dict[str, Tensor], images: int) -> None:
        """Add the means over a batch of `images`."""
        self.images += images
        for name, value in figures.items():
            self.sums[name] = self.sums.get(name, 0.0) + value * images

    def means(self) -> dict[str, float]:
        """The means over all batches."""
        return {name: float(value) / self.images for name, value in self.sums.items()}
