"""Networks by a recipe, and modules of one's own by their factory, a function that makes them.

A factory is named `package.module:function`. Naming one imports and runs code, so the name comes from the command line,
from a recipe file or from the caller, never out of a checkpoint.
"""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable
from importlib import import_module

from torch import nn

from bbg.errors import BbgError
from bbg.image import Preprocess
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
    given = {
        "in_channels": len(preprocess.mean),
        "act": recipe.act,
        "width": recipe.width,
        "shortcut": recipe.shortcut,
        "size": preprocess.size[0] if "size" in allowed_options(recipe.network) else None,
    }
    stated = {key: value for key, value in given.items() if value is not None}
    return create(recipe.network, recipe.method, num_classes=classes, **stated)


def find_factory(name: str) -> Factory:
    """Import the function called `package.module:function`; a module in the current folder is found too."""
    module, colon, function = name.partition(":")
    if not (module and colon and function):
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

    A factory is called with the keywords `num_classes` and `in_channels`, as far as its signature has them.
    """
    takes = inspect.signature(factory).parameters
    any_keyword = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in takes.values())
    given = {"num_classes": classes, "in_channels": len(preprocess.mean)}
    module = factory(**{key: value for key, value in given.items() if any_keyword or key in takes})
    if not isinstance(module, nn.Module):
        raise BbgError(f"the factory made a {type(module).__name__}; it must return a torch.nn.Module")
    return module
