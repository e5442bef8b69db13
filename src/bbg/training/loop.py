"""A whole training: recipe in, checkpoints, logs and curves out.

    bbg train recipes/cifar10_resnet20.toml --data DIR --out runs/resnet20

Every random draw is a function of (seed, epoch, step) and the learning rate one of the step, so a checkpoint needs
weights, optimizer state and two counters, and a run resumed on the CPU ends with the same bits as an undisturbed one
(same thread count). The weight signs that an epoch began with travel along, so that its sign flips are counted alike
(watch.py). Only the training loss, accuracy and seconds that `history` tells of a resumed epoch are those of its
steps since then.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, RichProgressBar
from pytorch_lightning.loggers import TensorBoardLogger
from rich.console import Console
from torch import nn

from bbg.data import Batches, Split
from bbg.errors import BbgError
from bbg.recipe import Recipe
from bbg.training.checkpoint import Checkpoint, build, load_weights
from bbg.training.evaluate import EVALUATION_BATCH, reestimate_norms
from bbg.training.monitor import Watch
from bbg.training.plots import write_history
from bbg.training.tasks.classification import Classification, diverged

LAST = "last.ckpt"


class _Images(pl.LightningDataModule):
    """Hands the Trainer each epoch's batches; the first epoch starts at `start`."""

    def __init__(self, split: Split, recipe: Recipe, start: int) -> None:
        super().__init__()
        self.split, self.recipe, self.start = split, recipe, start

    def train_dataloader(self) -> Batches:
        assert self.trainer is not None
        batches = training_batches(self.split, self.recipe)
        batches.epoch, batches.start, self.start = self.trainer.current_epoch, self.start, 0
        return batches

    def val_dataloader(self) -> Batches:
        return Batches(self.split.test, self.split.preprocess, EVALUATION_BATCH, shuffle=False)


class _Recorder(Callback):
    """Writes checkpoints, the table of epochs as CSV and the curves as PNG."""

    def __init__(self, out: Path, state: Checkpoint, console: Console) -> None:
        self.out, self.state, self.console = out, state, console
        self.began = time.monotonic()
        self.images = 0
        self.stop = False

    def on_train_epoch_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.began, self.images = time.monotonic(), 0

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.state.step += 1
        self.images += len(batch[0])
        module.log("images/s", self.images / (time.monotonic() - self.began), prog_bar=True)
        due = self.stop or self.state.step % self.state.recipe.checkpoint_steps == 0
        if due and self.state.step < training_batches_of(trainer).steps:
            self.save(trainer, module)
            self.end_if_asked()

    def on_validation_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        recipe = self.state.recipe
        if recipe.bn_batches and self.state.epoch + 1 == recipe.epochs:
            assert isinstance(module, Classification)
            reestimate_norms(module.model, training_batches_of(trainer), recipe.bn_batches)

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        seconds = time.monotonic() - self.began
        metrics = {k: float(v) for k, v in trainer.callback_metrics.items()}
        row = {
            "epoch": self.state.epoch + 1,
            "loss": metrics["loss_epoch"],
            "accuracy": metrics["accuracy"],
            "test_loss": metrics["test_loss"],
            "test_accuracy": metrics["test_accuracy"],
            "seconds": seconds,
        }
        if "flips" in metrics:
            row["flips"] = metrics["flips"]
        self.state.history.append(row)
        self.state.epoch, self.state.step = self.state.epoch + 1, 0
        self.save(trainer, module)
        write_history(self.state.history, self.out)
        self.console.print(
            f"epoch {row['epoch']:3.0f}/{self.state.recipe.epochs}  loss {row['loss']:.3f}  "
            f"accuracy {row['accuracy']:.4f}  test accuracy {row['test_accuracy']:.4f}  "
            f"{self.images / seconds:.0f} images/s"
        )
        self.end_if_asked()

    def save(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        assert isinstance(module, Classification)
        self.state.model = module.model.state_dict()
        for name, tensor in self.state.model.items():
            if not torch.isfinite(tensor).all():
                raise diverged(f"{name!r} is not finite", trainer.current_epoch, module.global_step - 1)
        self.state.optimizer = trainer.optimizers[0].state_dict()
        self.state.save(self.out / LAST)

    def end_if_asked(self) -> None:
        if self.stop:
            self.console.print(f"stopped, and kept {str(self.out / LAST)!r}; go on with --resume")
            raise KeyboardInterrupt


def training_batches(split: Split, recipe: Recipe) -> Batches:
    """The training images of `split`, shuffled and augmented as the recipe says."""
    return Batches(
        split.train,
        split.preprocess,
        recipe.batch_size,
        shuffle=True,
        seed=recipe.seed,
        padding=recipe.crop_padding,
        flip=recipe.flip,
    )


def training_batches_of(trainer: pl.Trainer) -> Batches:
    """The batches that the trainer is going through."""
    batches = trainer.train_dataloader
    assert isinstance(batches, Batches)
    return batches


def train(
    recipe: Recipe,
    split: Split,
    out: Path,
    *,
    init: Path | None = None,
    resume: bool = False,
    progress: bool = True,
    teacher: nn.Module | None = None,
) -> Checkpoint:
    """Train by `recipe` on `split`; checkpoints, `history.csv`, `curves.png` and TensorBoard logs go to folder `out`.

    `init`: a checkpoint whose weights are the start. `resume`: go on from `out/last.ckpt`. `teacher`: any network that
    makes logits of the same classes from the same inputs; None: that of the recipe, if any. Returns the last
    checkpoint, whose last row of `history` holds the accuracy over all test images after the last epoch: the figure to
    quote. Ctrl-C (or SIGTERM) ends the training behind the present step, with a checkpoint, and raises
    KeyboardInterrupt. Raises BbgError where `out` holds a run already and `resume` is not given, or a run of another
    recipe, where `out` cannot be written, where the teacher does not fit, and where the loss or a weight is no longer
    finite.
    """
    _quiet()
    if resume and init is not None:
        raise BbgError(f"--init {str(init)!r} starts a new run and --resume goes on with an old one; give one of them")
    if teacher is None and recipe.teacher is not None:
        teacher = _teacher(Path(recipe.teacher), split)
    pl.seed_everything(recipe.seed, verbose=False)
    last = out / LAST
    model = build(recipe, len(split.classes), split.preprocess)
    model = model.to(memory_format=torch.channels_last)
    if resume:
        state = _resumed(last, recipe, split)
        load_weights(model, state.model, str(last))
    else:
        if os.path.exists(last):
            raise BbgError(f"{str(out)!r} holds a run already; go on with --resume, or give another --out")
        if init is not None:
            load_weights(model, Checkpoint.load(init).model, str(init))
        state = Checkpoint(recipe, 0, 0, {}, {}, list(split.classes), split.preprocess)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise BbgError(f"cannot make folder {str(out)!r}: {e.strerror}; give a writable --out folder") from e

    per_epoch = training_batches(split, recipe).steps
    task = Classification(model, recipe, len(split.classes), per_epoch * recipe.epochs, teacher)
    recorder = _Recorder(out, state, Console())
    if not resume:
        state.model, state.optimizer = model.state_dict(), {}
        state.save(last)
    if state.epoch >= recipe.epochs:
        write_history(state.history, out)  # a run may have been killed behind its last checkpoint
        return state
    callbacks: list[Callback] = [Watch(model, state), recorder, *([RichProgressBar()] if progress else [])]
    trainer = pl.Trainer(
        max_epochs=recipe.epochs,
        accelerator="auto",
        devices=1,
        callbacks=callbacks,
        default_root_dir=out,
        logger=TensorBoardLogger(str(out), name="", version="tensorboard"),
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=progress,
        num_sanity_val_steps=0,
        reload_dataloaders_every_n_epochs=1,
        log_every_n_steps=10,
    )
    _set_counters(trainer, state, per_epoch)
    task.restored_optimizer = state.optimizer
    try:
        with _stoppable(recorder):
            trainer.fit(task, datamodule=_Images(split, recipe, state.step))
    except SystemExit:  # what the Trainer makes of a KeyboardInterrupt
        raise KeyboardInterrupt from None
    return state


@contextmanager
def _stoppable(recorder: _Recorder) -> Iterator[None]:
    """Let Ctrl-C and SIGTERM ask `recorder` to end behind the present step; a second Ctrl-C ends at once."""

    def ask(number: int, frame: Any) -> None:
        recorder.stop = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

    if threading.current_thread() is not threading.main_thread():  # only there signals can be handled
        yield
        return
    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _resumed(last: Path, recipe: Recipe, split: Split) -> Checkpoint:
    if not os.path.exists(last):
        raise BbgError(f"nothing to resume: no {str(last)!r}; start without --resume")
    state = Checkpoint.load(last)
    new, old = recipe.to_dict(), state.recipe.to_dict()
    for key in new:
        if new[key] != old[key]:
            raise BbgError(f"cannot resume {str(last)!r}: recipe key {key!r} is {new[key]!r}, the run has {old[key]!r}")
    if list(split.classes) != state.classes:
        raise BbgError(f"cannot resume {str(last)!r}: the images have other classes than the run; give the same --data")
    return state


def _teacher(path: Path, split: Split) -> nn.Module:
    """The network of the checkpoint at `path`; BbgError where it has other classes or takes other inputs."""
    taught = Checkpoint.load(path)
    if taught.classes != list(split.classes) or taught.preprocess != split.preprocess:
        raise BbgError(f"the teacher {str(path)!r} has other classes or inputs; give one trained on the same images")
    return taught.network()


def _set_counters(trainer: pl.Trainer, state: Checkpoint, per_epoch: int) -> None:
    """Let the Trainer count on from the checkpoint (it would start at 0, and log and stop by its own counters)."""
    progress: Any = trainer.fit_loop.epoch_progress.current
    progress.ready = progress.started = progress.processed = progress.completed = state.epoch
    done = state.epoch * per_epoch + state.step
    loop = trainer.fit_loop.epoch_loop
    loop._batches_that_stepped = done
    steps = loop.automatic_optimization.optim_progress.optimizer.step.total
    steps.ready = steps.completed = done


def _quiet() -> None:
    for name in ("pytorch_lightning", "lightning.pytorch", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for text in ("many workers", "`isinstance.treespec, LeafSpec", "litlogger", "tensorboardX", "the logging interval"):
        warnings.filterwarnings("ignore", f".*{text}.*")
