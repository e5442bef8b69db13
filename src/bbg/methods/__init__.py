"""The methods under comparison, by name: one small file per paper and one line here.

docs/methods.svg shows what each binarizer does forward and backward.
"""

from __future__ import annotations

from importlib import import_module

from bbg.errors import BbgError, allowed
from bbg.methods.base import ACTIVATIONS, Binarizer, BinarizerForm, Hinge, Method, Pointwise

MODULES = (
    "bbg",
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

__all__ = ["ACTIVATIONS", "METHODS", "Binarizer", "BinarizerForm", "Hinge", "Method", "Pointwise", "get"]


def get(method: str | Method) -> Method:
    """The method called `method`, or `method` itself where it is one; BbgError for an unknown name."""
    if isinstance(method, Method):
        return method
    if method not in METHODS:
        raise BbgError(f"unknown method {method!r}; {allowed(method, METHODS)}")
    return METHODS[method]
