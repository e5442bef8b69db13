"""Torch as conversion, binarization and training need it, whatever its state is where they are called from."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import nn

from bbg.errors import BbgError


@contextmanager
def neutral(grad: bool = False) -> Iterator[None]:
    """Torch without inference mode, autocast and another default device or dtype, and with gradients only by `grad`.

    The caller's state is the same behind it.
    """
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(torch.set_grad_enabled(grad))
            for kind in ("cpu", "cuda", "mps"):
                if torch.is_autocast_enabled(kind):
                    stack.enter_context(torch.autocast(kind, enabled=False))
            if torch.empty(0).device.type != "cpu":  # a default device makes each call of torch slower
                stack.enter_context(torch.device("cpu"))
            yield
    finally:
        torch.set_default_dtype(dtype)


@contextmanager
def single_threaded(grad: bool = False) -> Iterator[None]:
    """Torch in its neutral state, on one thread: its threads wait for each other by spinning, which makes many small
    layers a hundred times slower where something else, a training, keeps the cores busy.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with neutral(grad):
            yield
    finally:
        torch.set_num_threads(threads)


def refuse_untrainable(model: nn.Module) -> None:
    """Raise BbgError where a parameter was made in inference mode: torch never gives it a gradient."""
    for name, parameter in model.named_parameters():
        if parameter.is_inference():
            raise BbgError(
                f"{name} was made in torch.inference_mode, so it cannot be trained; build the network outside"
            )
