"""The methods under comparison, by name: one small file per paper and one line here."""

from __future__ import annotations

from importlib import import_module

from bbg.errors import BbgError
from bbg.methods.base import ACTS, Binarizer, Form, Hinge, Method, Pointwise

PAPERS = (
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
    for paper in PAPERS
    for value in vars(import_module(f"{__name__}.{paper}")).values()
    if isinstance(value, Method)
}

__all__ = ["ACTS", "METHODS", "Binarizer", "Form", "Hinge", "Method", "Pointwise", "get"]


def get(method: str | Method) -> Method:
    """The method called `method`, or `method` itself where it is one; BbgError for an unknown name."""
    if isinstance(method, Method):
        return method
    if method not in METHODS:
        raise BbgError(f"unknown method {method!r}; allowed are {', '.join(METHODS)}")
    return METHODS[method]
