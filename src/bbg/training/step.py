"""One step of a training: on the CPU, on a GPU without a look at its numbers, and by several processes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from bbg.errors import BbgError
from bbg.recipe import Recipe
from bbg.training.captured import CapturedStep
from bbg.training.checkpoint import Checkpoint
from bbg.training.compiled import compile_network
from bbg.training.device import warn_of_slow_bf16
from bbg.training.optimizer import make_capturable, make_fused, make_optimizer, restore
from bbg.training.processes import ALONE, Processes
from bbg.training.schedule import present_schedule, set_stage, stage_of
from bbg.training.synchronised import synchronised
from bbg.training.tasks import Task
from bbg.training.together import Buffers, add_gradients, figures_of_all

Step = Callable[[Tensor, Any, int, int], dict[str, Tensor]]  # images, targets, epoch and number of the step


def make_step(
    fabric: Fabric, model: nn.Module, task: Task, state: Checkpoint, batch_size: int, processes: Processes = ALONE
) -> tuple[torch.optim.Optimizer, Step]:
    """The optimizer as `state` has it, and the step that trains `model` with it, on the device of `fabric`.

    `batch_size`: images of a whole batch, of which each of the `processes` has a part.
    """
    recipe, schedule = state.recipe, present_schedule(state.recipe, state.since)
    if recipe.precision == "bf16":
        warn_of_slow_bf16(fabric.device)
    optimizer = make_optimizer(model, recipe)
    forward, stepper = fabric.setup(model, optimizer)
    network = model
    if recipe.compile and recipe.sync_bn and not processes.alone:
        raise BbgError("recipe keys 'compile' and 'sync_bn' do not go together; turn one of them off")
    if recipe.compile:
        set_stage(model, schedule, state.epoch - state.since)
        draws = torch.Generator().manual_seed(recipe.seed)
        shape = (batch_size // processes.count, len(state.preprocess.mean), *state.preprocess.size)
        noise = torch.randn(shape, generator=draws)
        images = noise.to(fabric.device, memory_format=torch.channels_last)
        network = compile_network(model.train(), images, recipe.precision == "bf16")
        forward = forward if network is model else network
    if state.optimizer:
        restore(optimizer, state.optimizer)
    if fabric.device.type in ("cpu", "cuda"):
        make_fused(optimizer)
    if not processes.alone:
        processes.share([*model.parameters(), *model.buffers()])
        if recipe.sync_bn:
            forward = synchronised(forward, model, processes)
        step = partial(shared_step, fabric, forward, stepper, model, task, recipe, processes, batch_size)
        return optimizer, step
    if fabric.device.type == "cuda":
        make_capturable(optimizer, fabric.device)
        step = partial(gpu_step, network, optimizer, task, recipe)
        return optimizer, CapturedStep(step, model, optimizer, lambda epoch: stage_of(schedule, epoch - state.since))
    return optimizer, partial(train_step, fabric, forward, stepper, task, recipe)


def train_step(
    fabric: Fabric, forward: Any, optimizer: Any, task: Task, recipe: Recipe, x: Tensor, y: Any, epoch: int, step: int
) -> dict[str, Tensor]:
    """One step: the loss of a batch and its figures; BbgError where it is not finite, before the weights take harm."""
    loss, outputs = loss_of(forward, task, x, y, recipe)
    if not torch.isfinite(loss):
        raise diverged(f"the loss is {loss.item()}", epoch, step)
    optimizer.zero_grad()
    fabric.backward(loss)
    optimizer.step()
    return {"loss": loss.detach(), **task.metrics(outputs, y)}


def gpu_step(
    network: nn.Module, optimizer: torch.optim.Optimizer, task: Task, recipe: Recipe, x: Tensor, y: Any
) -> dict[str, Tensor]:
    """The same step without a look at its numbers, which would make the processor wait for the GPU.

    Whether they are finite is seen at the next checkpoint, which is not written then.
    """
    loss, outputs = loss_of(network, task, x, y, recipe)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return {"loss": loss.detach(), **task.metrics(outputs, y)}


def shared_step(
    fabric: Fabric,
    forward: Any,
    optimizer: Any,
    model: nn.Module,
    task: Task,
    recipe: Recipe,
    processes: Processes,
    batch_size: int,
    x: Tensor,
    y: Any,
    epoch: int,
    step: int,
) -> dict[str, Tensor]:
    """The same step by several processes: `x` and `y` are a part of the batch, the figures are those of all of it.

    Whether the loss is finite is asked of the whole one, so all processes end where one of them diverges.
    """
    buffers, share = Buffers(model), len(x) / batch_size
    loss, outputs = loss_of(forward, task, x, y, recipe)
    figures = figures_of_all(loss, task.metrics(outputs, y), share, processes)
    if not torch.isfinite(figures["loss"]):
        raise diverged(f"the loss is {figures['loss'].item()}", epoch, step)
    optimizer.zero_grad()
    fabric.backward(loss)
    add_gradients(model, processes)
    buffers.settle(share, processes)
    optimizer.step()
    return figures


def loss_of(network: Any, task: Task, x: Tensor, y: Any, recipe: Recipe) -> tuple[Tensor, Any]:
    """The loss and the outputs of a batch; the forward pass runs in bf16 autocast where the recipe says so.

    (Fabric's own bf16 would round the images too.)
    """
    with torch.autocast(x.device.type, torch.bfloat16, enabled=recipe.precision == "bf16"):
        outputs = network(x)
    return task.loss(outputs, y, x), outputs


def diverged(what: str, epoch: int, step: int) -> BbgError:
    """The error that ends a training whose numbers are no longer finite; `epoch` and `step` count from 0."""
    return BbgError(
        f"{what} in step {step + 1} (epoch {epoch + 1}), only finite numbers can be trained on; lower lr and train "
        "again, the last checkpoint is from before"
    )
