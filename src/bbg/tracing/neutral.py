"""Torch as conversion and binarization need it, whatever its state is where they are called from."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def neutral(grad: bool = False) -> Iterator[None]:
    """Torch without inference mode, autocast and another default device or dtype, and with gradients only by `grad`.

    The caller's state is the same behind it.
    """
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with (
            torch.inference_mode(False),
            torch.set_grad_enabled(grad),
            torch.autocast("cpu", enabled=False),
            torch.device("cpu"),
        ):
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
