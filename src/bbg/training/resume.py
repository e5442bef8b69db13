"""Where a training starts: anew, from weights, or from its own last checkpoint."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from torch import nn

from bbg.data.sets import Split
from bbg.errors import BbgError
from bbg.recipe import Recipe
from bbg.training.checkpoint import VERSION, Checkpoint, load_weights

LAST = "last.ckpt"
CODE = ("factory",)  # recipe keys that name code and no numbers: they may differ when a run is resumed


def identity(split: Split) -> dict[str, Any]:
    """What tells these images from others: how many there are, and a digest of them, for both halves."""
    halves = {"training": split.train, "test": split.test}
    return {name: {"images": len(data), "digest": data.digest()} for name, data in halves.items()}


def first_state(
    model: nn.Module, recipe: Recipe, split: Split, out: Path | None, init: Path | None, resume: bool, custom: bool
) -> Checkpoint:
    """The state that the training starts with, its weights loaded into `model`."""
    last = None if out is None else out / LAST
    if resume:
        if last is None:
            raise BbgError("nothing to resume: the run has no folder; say which with out")
        state = _resumed(last, recipe, split)
        load_weights(model, state.model, str(last))
        return state
    if last is not None and os.path.exists(last):
        raise BbgError(f"{str(out)!r} holds a run already; go on with --resume, or give another --out")
    if init is not None:
        load_weights(model, Checkpoint.load(init).model, str(init))
    weights = model.state_dict()
    classes, preprocess = list(split.classes), split.preprocess
    return Checkpoint(recipe, 0, 0, weights, {}, classes, preprocess, data=identity(split), custom=custom)


def _resumed(last: Path, recipe: Recipe, split: Split) -> Checkpoint:
    if not os.path.exists(last):
        raise BbgError(f"nothing to resume: no {str(last)!r}; start without --resume")
    state = Checkpoint.load(last)
    if state.version < VERSION:
        came = f"its checkpoint has version {state.version}, whose order and crops of the images were others"
        raise BbgError(f"cannot resume {str(last)!r}: {came}; start a new run, with --init to keep the weights")
    new, old = recipe.to_dict(), state.recipe.to_dict()
    for key in new:
        if new[key] != old[key] and key not in CODE:
            raise BbgError(f"cannot resume {str(last)!r}: recipe key {key!r} is {new[key]!r}, the run has {old[key]!r}")
    if list(split.classes) != state.classes:
        raise BbgError(f"cannot resume {str(last)!r}: the images have other classes than the run; give the same --data")
    for half, found in identity(split).items():
        if found != (before := state.data.get(half, {})):
            counts = f"{found['images']:,} of digest {found['digest']}"
            ours = f"the run has {before.get('images', 0):,} of {before.get('digest')}"
            raise BbgError(f"cannot resume {str(last)!r}: the {half} images are {counts}, {ours}; give the same --data")
    state.recipe = recipe
    return state


def teacher_of(recipe: Recipe, split: Split) -> nn.Module | None:
    """The network of the recipe's teacher; BbgError where it has other classes or takes other inputs."""
    if recipe.teacher is None:
        return None
    taught = Checkpoint.load(Path(recipe.teacher))
    if taught.classes != list(split.classes) or taught.preprocess != split.preprocess:
        raise BbgError(
            f"the teacher {recipe.teacher!r} has other classes or inputs; give one trained on the same images"
        )
    return taught.network()
