"""A network through torch.compile, if that is the same network.

A compiler may lose gradients without a word. Torch 2.11 loses them for bf16 on CPUs below an adaptive average pool, and
lost those of a binarizer whose last operation was in place; torch 2.14 gives wrong ones where a PReLU in bf16 stands
behind a pooled shortcut. Such a training runs, and learns little. So both networks run once, forward and backward, and
the sizes of their gradients are compared.

Rounding in bf16 turns signs, which changes single gradients at will, but hardly the norm of many of them. In a
ResNet-18 the norms of the weights' gradients stay within 3 %, those of gates and slopes within a factor of 2.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from bbg.log import LOGGER

SAME = 1.3  # times, for a tensor of many numbers
SAME_OF_FEW = 4.0  # times, for a tensor of fewer than MANY
MANY = 1000
SMALL = 1e-3  # of the largest gradient: those below are rounding themselves


def compile_network(model: nn.Module, images: Tensor, bf16: bool) -> nn.Module:
    """The compiled network, which shares its parameters with `model`; or `model`, where it cannot be compiled right.

    `images`: a batch of the size of all batches, on the device of the model. The model's buffers keep their values.
    """
    compiled: Any = torch.compile(model, dynamic=False)
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        plain, found = (_gradients(network, model, images, bf16) for network in (model, compiled))
    except Exception as e:  # no compiler, or one that fails: torch.compile raises many types
        LOGGER.warning("torch.compile does not work here, so the training is slower: %s", e)
        return model
    finally:
        model.zero_grad()
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)
    least = SMALL * max(plain.values(), default=0.0)
    counts = {name: p.numel() for name, p in model.named_parameters()}
    for name, size in plain.items():
        other, same = found.get(name, 0.0), SAME if counts[name] >= MANY else SAME_OF_FEW
        if size > least and not size / same <= other <= size * same:
            LOGGER.warning(
                "torch %s compiles this network to one with other gradients (%s: %.2g instead of %.2g), so it trains "
                "without torch.compile, and slower",
                torch.__version__, name, other, size,
            )  # fmt: skip
            return model
    network: nn.Module = compiled
    return network


def _gradients(network: nn.Module, model: nn.Module, images: Tensor, bf16: bool) -> dict[str, float]:
    """The norm of each parameter's gradient, for a loss that weighs all outputs."""
    model.zero_grad()
    with torch.autocast(images.device.type, torch.bfloat16, enabled=bf16):
        outputs = network(images)
    loss = torch.zeros((), device=images.device)
    for output in _tensors(outputs):
        weights = torch.linspace(-1, 1, output.numel(), device=images.device).reshape(output.shape)
        loss = loss + (output.float() * weights).mean()
    loss.backward()
    return {name: float(p.grad.norm()) for name, p in model.named_parameters() if p.grad is not None}


def _tensors(outputs: Any) -> Iterator[Tensor]:
    if isinstance(outputs, Tensor):
        yield outputs
    elif isinstance(outputs, (dict, list, tuple)):
        for part in outputs.values() if isinstance(outputs, dict) else outputs:
            yield from _tensors(part)
