"""Networks by a recipe, and modules of one's own by their factory, a function that makes them.

    factory = "torchvision.models:mobilenet_v3_small"      # in a recipe: made, binarized by its method, trained

A factory is named `package.module:function`. Naming one imports and runs code, so the name comes from the command line,
from a recipe file or from the caller, never out of a checkpoint.
"""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

import torch
from torch import nn

from bbg.binarization import binarize
from bbg.errors import BbgError, first_line
from bbg.image import Preprocess
from bbg.layers.bits import bits_of
from bbg.log import LOGGER
from bbg.models import allowed_options, create
from bbg.recipe import Recipe

Factory = Callable[..., nn.Module]


def build(recipe: Recipe, classes: int, preprocess: Preprocess) -> nn.Module:
    """The recipe's network for images of `preprocess`, its weights drawn from torch's global generator.

    It gets the keys of the recipe that are set. The sides of the images are passed to networks that have an option
    `size`.
    """
    if recipe.network is None:
        raise BbgError("recipe key 'network' is missing; every recipe names its network or a factory")
    high, wide = preprocess.size
    sides = high if high == wide else (high, wide)
    given: dict[str, Any] = {
        "in_channels": len(preprocess.mean),
        "act": recipe.act,
        "width": recipe.width,
        "shortcut": recipe.shortcut,
        "stem": recipe.stem,
        "heads": recipe.heads,
        "size": sides if "size" in allowed_options(recipe.network) else None,
        "bits": recipe.bits,
    }
    stated = {key: value for key, value in given.items() if value is not None}
    return create(recipe.network, recipe.method, num_classes=classes, **stated)


def find_factory(name: str) -> Factory:
    """Import the function called `package.module:function`; a module in the current folder is found too."""
    module, colon, function = name.partition(":")
    if not (module and colon and function) or module.startswith("."):
        raise BbgError(f"the factory is {name!r}, it must be package.module:function")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        found = getattr(import_module(module), function)
    except (ImportError, AttributeError) as e:
        raise BbgError(f"cannot import factory {name!r}: {e}; give package.module:function, a function") from e
    if not callable(found):
        raise BbgError(f"factory {name!r} is a {type(found).__name__}; give the name of a function")
    return found  # type: ignore[no-any-return]  # what it returns is checked when it is called


def call_factory(factory: Factory, classes: int, preprocess: Preprocess) -> nn.Module:
    """The module that `factory` makes.

    A factory is called with the keywords `num_classes` and `in_channels` (or `in_chans`), as far as its signature names
    them. One that takes any keyword gets `num_classes`, and `in_channels` where the images do not have three. Raises
    BbgError for what cannot be called so, and for what returns no module.
    """
    takes = _parameters(factory)
    any_keyword = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in takes.values())
    channels = len(preprocess.mean)
    given = {"num_classes": classes} if any_keyword else {}
    if any_keyword and channels != 3 and "in_chans" not in takes:
        given["in_channels"] = channels
    values = {"num_classes": classes, "in_channels": channels, "in_chans": channels}
    given |= {key: value for key, value in values.items() if key in takes}
    return _made(factory, given)


def made_for(name: str, channels: int, classes: int | None = None) -> nn.Module:
    """The module of the factory called `name`, with its own defaults as far as it has some.

    `num_classes` is given where `classes` are, or where it has no default (10 then); the number of channels where it
    is not 3, or has no default.
    """
    factory = find_factory(name)
    takes = _parameters(factory)
    any_keyword = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in takes.values())
    stated = {"num_classes": classes is not None, "in_channels": channels != 3, "in_chans": channels != 3}
    values = {"num_classes": 10 if classes is None else classes, "in_channels": channels, "in_chans": channels}
    given = {
        k: v for k, v in values.items() if k in takes and (stated[k] or takes[k].default is inspect.Parameter.empty)
    }
    if any_keyword and classes is not None:
        given["num_classes"] = classes
    return _made(factory, given)


def _parameters(factory: Factory) -> dict[str, inspect.Parameter]:
    try:
        return dict(inspect.signature(factory).parameters)
    except (TypeError, ValueError):  # some builtins have none
        return {}


def _made(factory: Factory, given: Mapping[str, int]) -> nn.Module:
    """The module that the factory makes of these keywords."""
    try:
        module = factory(**given)
    except BbgError:
        raise
    except Exception as e:
        words = ", ".join(f"{key}={value}" for key, value in given.items())
        raise BbgError(
            f"the factory, called with ({words}), raised {type(e).__name__}: {first_line(e)}; give one "
            "that makes the network from these keywords"
        ) from e
    if not isinstance(module, nn.Module):
        raise BbgError(f"the factory made a {type(module).__name__}; it must return a torch.nn.Module")
    return module


def binarized(module: nn.Module, recipe: Recipe, preprocess: Preprocess) -> nn.Module:
    """`module` made binary by the recipe's `method`, `keep`, `bits` and `act`; the report is logged.

    It stays as it is where it has binary or 8-bit layers already, and where the method is "float" without `bits`.
    """
    chosen = recipe.method != "float" or recipe.bits is not None
    if not chosen or any(bits_of(m) in (1, 8) for m in module.modules()):
        return module
    generator = torch.Generator().manual_seed(0)
    example = torch.randn(2, len(preprocess.mean), *preprocess.size, generator=generator)
    result = binarize(module, recipe.method, recipe.keep, example, recipe.act, bits=recipe.bits)
    LOGGER.info("%s", result.report)
    return result
