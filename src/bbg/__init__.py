"""Train convolutional networks 1 bit wide and run them at 1 bit.

    model = bbg.create("resnet20", num_classes=10)      # torch, ready to train
    bbg.convert(model, "net.bbg", example, preprocess="cifar10")
    bbg.load("net.bbg").predict("photo.jpg")            # no torch from here on

Names are looked up on first use: importing `bbg` imports neither torch nor the engine.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

from bbg.errors import BbgError

if TYPE_CHECKING:
    from bbg import analysis, layers, zoo
    from bbg.conversion import check, convert
    from bbg.engine import Engine, load
    from bbg.image import Preprocess
    from bbg.models import binarize, create

__version__ = "0.1.0"
__all__ = ["BbgError", "Engine", "Preprocess", "analysis", "binarize", "check", "convert", "create", "layers", "load",
           "zoo"]  # fmt: skip

_HOMES = {
    "Engine": "bbg.engine",
    "Preprocess": "bbg.image",
    "binarize": "bbg.models",
    "check": "bbg.convert",
    "convert": "bbg.convert",
    "create": "bbg.models",
    "load": "bbg.engine",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'bbg' has no attribute {name!r}")
    try:
        value = getattr(import_module(_HOMES[name]), name) if name in _HOMES else import_module(f"bbg.{name}")
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise BbgError(f"bbg.{name} needs torch, which is not installed; run pip install 'bbg[train]'") from error
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)


class _Package(ModuleType):
    """Keeps `bbg.convert` the function when the package of the same name is imported, which would overwrite it."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in _HOMES:
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
