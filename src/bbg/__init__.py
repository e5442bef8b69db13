"""Train convolutional networks 1 bit wide and run them at 1 bit.

    model = bbg.create("resnet20", num_classes=10)      # torch, ready to train
    bbg.convert(model, "net.bbg", example, preprocess="cifar10")
    bbg.load("net.bbg").predict("photo.jpg")            # no torch from here on

Names are looked up on first use: importing `bbg` imports neither torch nor the engine.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from bbg._version import __version__
from bbg.errors import BbgError, not_installed

__all__ = [
    "BbgError",
    "Box",
    "Engine",
    "Limits",
    "Mask",
    "Prediction",
    "Preprocess",
    "__version__",
    "analysis",
    "anneal",
    "binarize",
    "check",
    "convert",
    "create",
    "fit",
    "layers",
    "list_models",
    "load",
    "plan",
    "zoo",
]

if TYPE_CHECKING:
    from bbg import analysis, layers, zoo
    from bbg.binarization import binarize
    from bbg.conversion import check, convert
    from bbg.engine import Engine, load
    from bbg.heads import Box, Prediction
    from bbg.image import Preprocess
    from bbg.limits import Limits
    from bbg.masks import Mask
    from bbg.methods import anneal
    from bbg.models import create, list_models
    from bbg.planning import plan
    from bbg.training.loop import fit
else:  # hidden from type checkers, so that a misspelt name is an error there
    # Where each name is found when it is first used; a room stands for itself.
    _LAZY = {
        "Box": "bbg.heads",
        "Engine": "bbg.engine",
        "Limits": "bbg.limits",
        "Mask": "bbg.masks",
        "Prediction": "bbg.heads",
        "Preprocess": "bbg.image",
        "analysis": "bbg.analysis",
        "anneal": "bbg.methods",
        "binarize": "bbg.binarization",
        "check": "bbg.conversion",
        "convert": "bbg.conversion",
        "create": "bbg.models",
        "fit": "bbg.training.loop",
        "layers": "bbg.layers",
        "list_models": "bbg.models",
        "load": "bbg.engine",
        "plan": "bbg.planning",
        "zoo": "bbg.zoo",
    }

    def __getattr__(name: str) -> Any:
        if name not in _LAZY:
            raise AttributeError(f"module 'bbg' has no attribute {name!r}")
        try:
            room = import_module(_LAZY[name])
        except ModuleNotFoundError as error:
            if error.name != "torch":
                raise
            raise not_installed(f"bbg.{name}", "torch") from error
        value = globals()[name] = room if _LAZY[name] == f"bbg.{name}" else getattr(room, name)
        return value

    def __dir__() -> list[str]:
        return sorted(__all__)
