"""Whether a recipe can be trained by, as far as that can be told before any image is read."""

from __future__ import annotations

import os

import torch

from bbg.data import DATASETS, wanted_by
from bbg.errors import BbgError, allowed
from bbg.image import PRESETS
from bbg.recipe import Recipe
from bbg.training.factory import build, find_factory
from bbg.training.tasks import make_task


def check_recipe(recipe: Recipe) -> None:
    """Raise BbgError for an unknown data set, task, network, method, option or factory, and for a missing teacher.

    The network is built without memory, so a wide one costs nothing.
    """
    if recipe.dataset not in DATASETS:
        raise BbgError(f"unknown dataset {recipe.dataset!r}; {allowed(recipe.dataset, DATASETS)}")
    make_task(recipe, 2)
    preprocess = wanted_by(recipe).over(PRESETS.get(recipe.dataset, PRESETS["cifar10"]))
    if recipe.factory is not None:
        find_factory(recipe.factory)
    else:
        with torch.device("meta"):
            build(recipe, 2, preprocess)
    if recipe.teacher_factory is not None:
        find_factory(recipe.teacher_factory)
    if recipe.teacher is not None and not os.path.isfile(recipe.teacher):
        raise BbgError(f"no teacher {recipe.teacher!r}; the recipe key 'teacher' names a checkpoint of bbg train")
