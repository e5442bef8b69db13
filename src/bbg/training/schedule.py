"""What changes from step to step and from epoch to epoch, as functions of their numbers alone."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from bbg.layers import BinaryConv2d, BinaryLinear, ByteConv2d, ByteLinear
from bbg.methods import anneal
from bbg.recipe import Recipe


def lr_factor(recipe: Recipe, step: int, steps: int) -> float:
    """The learning rate of step `step` of `steps`, as a share of the highest: a function of the step alone.

    onecycle: a cosine from 1/25 to 1 over the first `warmup` of the steps, then a cosine to 1e-4 (Smith and Topin,
    arXiv 1708.07120); cosine and linear: from 1 to 0. The epochs with real-valued weights have a schedule of their own.
    """
    first = steps * recipe.activation_epochs // recipe.epochs
    step, steps = (step, first) if step < first else (step - first, steps - first)
    t = step / max(steps, 1)
    if recipe.schedule == "onecycle":
        rise = recipe.warmup
        if t < rise:
            return 1 / 25 + (1 - 1 / 25) * 0.5 * (1 - math.cos(math.pi * t / rise))
        return 1e-4 + (1 - 1e-4) * 0.5 * (1 + math.cos(math.pi * (t - rise) / max(1 - rise, 1e-9)))
    if recipe.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * t))
    return 1 - t if recipe.schedule == "linear" else 1.0


def present_schedule(recipe: Recipe, since: int) -> Recipe:
    """The recipe whose schedule began with epoch `since`, as a recipe for the epochs from there on.

    It is the recipe itself, unless a finished run was extended.
    """
    return recipe.changed({"epochs": recipe.epochs - since, "activation_epochs": 0}) if since else recipe


class Stage(NamedTuple):
    """What a step computes beside its arithmetic: whether weights are real-valued yet, and ranges are recorded."""

    real_weight: bool
    recording: bool


def stage_of(recipe: Recipe, epoch: int) -> Stage:
    """The stage of an epoch, counted from 0: a function of it alone, so that a resumed training need not store it."""
    return Stage(epoch < recipe.activation_epochs, epoch < math.ceil(recipe.epochs * recipe.range_epochs))


def set_stage(model: nn.Module, recipe: Recipe, epoch: int) -> None:
    """What changes in the network from epoch to epoch: pseudo-gradients and the stage of its layers."""
    anneal(model, epoch / recipe.epochs)
    stage = stage_of(recipe, epoch)
    for module in model.modules():
        if isinstance(module, (BinaryConv2d, BinaryLinear)):
            module.real_weight = stage.real_weight
        if isinstance(module, (ByteConv2d, ByteLinear)):
            module.recording = stage.recording


def set_lr(optimizer: torch.optim.Optimizer, recipe: Recipe, step: int, steps: int) -> float:
    """Set the learning rate of step `step` of `steps`, and return it; where it is a tensor, that tensor is filled.

    A group has a highest rate of its own, `peak`, where the layers have two optimizers; the first one is returned.
    """
    factor = lr_factor(recipe, step, steps)
    for group in optimizer.param_groups:
        lr = factor * group.get("peak", recipe.lr)
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(lr)
        else:
            group["lr"] = lr
    return factor * float(optimizer.param_groups[0].get("peak", recipe.lr))
