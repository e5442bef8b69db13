"""Batch statistics over the images of all processes, on any device (recipe key `sync_bn`).

Torch's SyncBatchNorm refuses CPUs, and is a layer of its own, which conversion does not know. Here the network stays as
it is: within `synchronised`, every batch norm that takes the statistics of its batch, be it a layer or a function,
takes those of the whole batch, and so does every balanced activation. Outputs, gradients and running statistics are
those of one process that has the whole batch, up to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from bbg.methods.bbg_plus import BalancedActivation
from bbg.training.processes import Processes


class _Sum(torch.autograd.Function):
    """The sum of a tensor over all processes. Its gradient is the sum of theirs: each of them has used it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, processes: Processes) -> Tensor:
        ctx.processes = processes
        return processes.add(x.clone())

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return ctx.processes.add(grads[0].contiguous().clone()), None


def mean_of_all(x: Tensor, axes: list[int], processes: Processes) -> tuple[Tensor, float]:
    """The mean of `x` over `axes` and over all processes, float64, and how many numbers it is the mean of."""
    sums = x.sum(axes, dtype=torch.float64)
    count = sums.new_full((1,), x.numel() / max(sums.numel(), 1))
    found = _Sum.apply(torch.cat([sums, count]), processes)
    numbers = float(found[-1].detach())
    return found[:-1] / numbers, numbers


def batch_norm(
    processes: Processes,
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """`F.batch_norm` of the whole batch, of which `x` `[N, C, ...]` is a part; in the dtype of `x`.

    The sums are float64: so the variance loses nothing, whatever the mean is.
    """
    if not training:
        return F.batch_norm(x, running_mean, running_var, weight, bias, False, momentum, eps)
    wide = x if x.dtype == torch.float64 else x.float()
    axes, shape = [axis for axis in range(x.ndim) if axis != 1], [1, -1, *[1] * (x.ndim - 2)]
    mean, count = mean_of_all(wide, axes, processes)
    centred = wide - mean.to(wide.dtype).reshape(shape)
    variance, _ = mean_of_all(centred.square(), axes, processes)
    with torch.no_grad():
        if running_mean is not None:
            running_mean += momentum * (mean.to(running_mean.dtype) - running_mean)
        if running_var is not None:
            unbiased = variance * (count / max(count - 1, 1))
            running_var += momentum * (unbiased.to(running_var.dtype) - running_var)
    y = centred * (variance + eps).rsqrt().to(wide.dtype).reshape(shape)
    y = y if weight is None else y * weight.reshape(shape)
    return (y if bias is None else y + bias.reshape(shape)).to(x.dtype)


class _Mode(TorchFunctionMode):
    """Lets `F.batch_norm` be that of all processes."""

    def __init__(self, processes: Processes) -> None:
        super().__init__()
        self.processes = processes

    def __torch_function__(self, func: Any, types: Iterable[Any], args: Any = (), kwargs: Any = None) -> Any:
        if func is F.batch_norm:
            return batch_norm(self.processes, *args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def synchronised(network: Callable[[Tensor], Any], model: nn.Module, processes: Processes) -> Callable[[Tensor], Any]:
    """`network`, the forward pass of `model`, with the statistics of all processes."""
    balanced = [module for module in model.modules() if isinstance(module, BalancedActivation)]

    def mean_over(x: Tensor, axes: list[int]) -> Tensor:
        return mean_of_all(x, axes, processes)[0]

    def forward(x: Tensor) -> Any:
        for module in balanced:
            module.across = mean_over
        try:
            with _Mode(processes):
                return network(x)
        finally:
            for module in balanced:
                module.across = None

    return forward
