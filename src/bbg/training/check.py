"""Whether a recipe can be trained by, as far as that can be told before any image is read."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import nn

from bbg.data import DATASETS, wanted_by
from bbg.errors import BbgError, allowed
from bbg.image import PRESETS, Preprocess
from bbg.recipe import Recipe
from bbg.training.factory import build, find_factory
from bbg.training.folder import LAST
from bbg.training.processes import Processes
from bbg.training.tasks import make_task
from bbg.training.teacher import check_teacher


def check_recipe(recipe: Recipe) -> None:
    """Raise BbgError for an unknown data set, task, network, method, option or factory, and for a missing teacher.

    The network is built without memory, so a wide one costs nothing.
    """
    if recipe.dataset not in DATASETS:
        raise BbgError(f"unknown dataset {recipe.dataset!r}; {allowed(recipe.dataset, DATASETS)}")
    make_task(recipe, 2)
    wanted = DATASETS[recipe.dataset].task
    if recipe.task != wanted and {"segmentation", "detection"} & {recipe.task, wanted}:
        raise BbgError(
            f"recipe key 'task' is {recipe.task!r}, the images of {recipe.dataset!r} are for {wanted!r}; change either"
        )
    own = PRESETS.get(recipe.dataset, PRESETS["imagenet" if recipe.task == "detection" else "cifar10"])
    if wanted != "classification":  # its pictures are resized whole
        own = Preprocess(own.size, None, own.mode, own.mean, own.std, own.decode)
    preprocess = wanted_by(recipe).over(own)
    if recipe.factory is not None:
        find_factory(recipe.factory)
    else:
        with torch.device("meta"):
            network = build(recipe, 2, preprocess)
        make_task(recipe, 2, network=network)
    if recipe.teacher_factory is not None:
        find_factory(recipe.teacher_factory)
    check_teacher(recipe)


def check_start(recipe: Recipe, out: Path | None, init: Path | str | None, resume: bool, overwrite: bool) -> None:
    """Raise BbgError where a training cannot start as it is asked to, as far as the names of the files tell."""
    if resume and overwrite:
        raise BbgError("--overwrite starts a new run and --resume goes on with an old one; give one of them")
    if resume and init is not None:
        raise BbgError(f"--init {str(init)!r} starts a new run and --resume goes on with an old one; give one of them")
    if resume and out is not None and not os.path.exists(out / LAST):
        raise BbgError(f"nothing to resume: no {str(out / LAST)!r}; start without --resume")
    weights = recipe.weights if init is None else init
    if weights is not None and not resume and not os.path.isfile(weights):
        raise BbgError(f"cannot read weights {str(weights)!r}: no such file; give a checkpoint or a state dict")


def check_parts(batch_size: int, processes: Processes) -> None:
    """Raise BbgError where a batch is too small for so many processes: batch norm takes two images in each."""
    if not processes.alone and batch_size < 2 * processes.count:
        raise BbgError(
            f"{processes.count} processes share a batch of {batch_size}, allowed are two images for each and more; "
            "give fewer processes, or a larger batch_size"
        )


def check_width(model: nn.Module) -> None:
    """Raise BbgError where a parameter is no float32, as the images are; `precision` says in which it computes."""
    for name, parameter in model.named_parameters():
        if parameter.is_floating_point() and parameter.dtype != torch.float32:
            raise BbgError(
                f"{name} is {str(parameter.dtype).removeprefix('torch.')}, a training takes float32; call .float() on "
                'the network, and give the recipe precision = "bf16" to compute in 16 bits'
            )
