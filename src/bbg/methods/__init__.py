"""The methods under comparison, by name: one small file per paper and one line here.

docs/methods.svg shows what each binarizer does forward and backward.
"""

from __future__ import annotations

from importlib import import_module

from torch import nn

from bbg.errors import BbgError, allowed
from bbg.methods.base import ACTIVATIONS, Binarizer, BinarizerForm, Hinge, Method, Pointwise

MODULES = (
    "bbg",
    "bbg_plus",
    "xnor",
    "bireal",
    "irnet",
    "reactnet",
    "adabin",
    "float",
)
METHODS: dict[str, Method] = {
    value.name: value
    for module in MODULES
    for value in vars(import_module(f"{__name__}.{module}")).values()
    if isinstance(value, Method)
}

__all__ = ["ACTIVATIONS", "METHODS", "Binarizer", "BinarizerForm", "Hinge", "Method", "Pointwise", "anneal", "get"]


def get(method: str | Method) -> Method:
    """The method called `method`, or `method` itself where it is one; BbgError for an unknown name."""
    if isinstance(method, Method):
        return method
    if method not in METHODS:
        raise BbgError(f"unknown method {method!r}; {allowed(method, METHODS)}")
    return METHODS[method]


def anneal(model: nn.Module, progress: float) -> None:
    """Bring the pseudo-gradients of `model` to where they are at `progress` of a training, from 0 to 1.

    The methods irnet and adabin sharpen theirs from epoch to epoch. `bbg train` and `bbg.fit` do it themselves; a
    training loop of one's own calls it ahead of each epoch, also after loading a state dict, which does not hold it:

        for epoch in range(epochs):
            bbg.anneal(model, epoch / epochs)

    Nothing changes for other methods, nor in what a network computes. BbgError for another number.
    """
    if not 0 <= progress <= 1:  # NaN is neither
        raise BbgError(f"progress is {progress!r}, allowed is 0 to 1: the share of the training that is over")
    for module in model.modules():
        if isinstance(module, Binarizer):
            module.anneal(progress)
