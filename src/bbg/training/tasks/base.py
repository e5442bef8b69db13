"""What a task is: all that a training must know of what the network is for.

A task is one file in this folder and one line in `bbg.training.tasks.TASKS`; the recipe names it (key `task`).
"""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor, nn

from bbg.data.loader import Loader
from bbg.heads import Head
from bbg.training.processes import Processes


class Task(Protocol):
    """Loss and figures of a network whose outputs are compared with targets.

    It is made by `(recipe, classes, teacher)`: the recipe, the number of classes, and a network to learn from, or None.

    `head`: what the outputs mean without torch, which conversion stores in the packed file. None where bbg has no head
    for the task: its network can be packed and called, but `Engine.predict` and `bbg eval` refuse the packed file.
    """

    head: Head | None
    figure: str  # of those of `evaluate`, the one by which an epoch is better than others: the higher the better
    processes: Processes  # that have a part of every batch each

    def loss(self, outputs: Any, targets: Any, inputs: Tensor) -> Tensor:
        """The loss of a batch, a scalar; `inputs` are the images, for tasks with a teacher.

        Of several processes each has a part of the batch, and its part of the loss: they add up to that of the whole.
        """

    def metrics(self, outputs: Any, targets: Any) -> dict[str, Tensor]:
        """Figures of a training batch beside its loss, means over its images, as scalars on the device.

        Those of several processes are averaged, by their images.
        """

    def evaluate(self, model: nn.Module, loader: Loader) -> dict[str, float]:
        """The figures over all images of `loader`, one of them the `loss`, by the network in evaluation mode.

        Of several processes each has a part of the images, and all of them the figures of all.

        The history has each of them as column `test_<name>`, beside `loss` and the columns of `metrics`.
        """
