"""The methods under comparison, by name: one small file per paper and one line here."""

from __future__ import annotations

from bbg.errors import BbgError
from bbg.methods.adabin import ADABIN
from bbg.methods.base import ACTS, Binarizer, Form, Hinge, Method, Pointwise
from bbg.methods.bbg import BALANCED, BBG, GATE, PLAIN
from bbg.methods.bireal import BIREAL
from bbg.methods.irnet import IRNET
from bbg.methods.reactnet import REACTNET
from bbg.methods.real import FLOAT
from bbg.methods.xnor import XNOR

METHODS: dict[str, Method] = {
    method.name: method
    for method in (BBG, BALANCED, GATE, PLAIN, XNOR, BIREAL, IRNET, REACTNET, ADABIN, FLOAT)
}  # fmt: skip

__all__ = ["ACTS", "METHODS", "Binarizer", "Form", "Hinge", "Method", "Pointwise", "get"]


def get(method: str | Method) -> Method:
    """The method called `method`, or `method` itself where it is one; BbgError for an unknown name."""
    if isinstance(method, Method):
        return method
    if method not in METHODS:
        raise BbgError(f"unknown method {method!r}; allowed are {', '.join(METHODS)}")
    return METHODS[method]
