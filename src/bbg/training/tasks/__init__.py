"""Tasks by name: what a network is trained for."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from bbg.errors import BbgError, allowed
from bbg.recipe import Recipe
from bbg.training.processes import ALONE, Processes
from bbg.training.tasks.base import Task
from bbg.training.tasks.classification import Classification
from bbg.training.tasks.detection import Detection
from bbg.training.tasks.segmentation import Segmentation

__all__ = ["TASKS", "Task", "make_task"]

TASKS: dict[str, Callable[[Recipe, int, nn.Module | None], Task]] = {
    "classification": Classification,
    "segmentation": Segmentation,
    "detection": Detection,
}


def make_task(
    recipe: Recipe,
    classes: int,
    teacher: nn.Module | None = None,
    network: nn.Module | None = None,
    processes: Processes = ALONE,
) -> Task:
    """The recipe's task; BbgError for an unknown name. `network`: what is trained; a detection takes its priors.

    `processes`: those that have a part of every batch each.
    """
    if recipe.task not in TASKS:
        raise BbgError(f"recipe key 'task' is {recipe.task!r}, {allowed(recipe.task, TASKS)}")
    task = TASKS[recipe.task](recipe, classes, teacher)
    if network is not None and isinstance(task, Detection):
        task.of(network)
    task.processes = processes
    return task
