"""Where a training starts: anew, from weights, or from its own last checkpoint."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from bbg.data.sets import Split
from bbg.errors import BbgError
from bbg.image import Preprocess
from bbg.log import LOGGER
from bbg.recipe import Recipe
from bbg.training.checkpoint import ORDERED, TAUGHT, Checkpoint, digest_of, load_weights
from bbg.training.folder import LAST, identity, refuse_used

# Recipe keys that may differ when a run is resumed, since the result means the same. Keys of `CODE` only name code.
# Keys of `PIXELS` are not compared: the preprocessing and the images that come of them are.
PIXELS = ("size", "resize", "mode", "mean", "std", "decode")
CODE = ("factory", "teacher_factory")
FREE = ("checkpoint_steps", "compile", "epochs", "evaluation", *CODE)
OTHER_BITS = ("compile",)  # of these, those that round otherwise


def first_state(
    model: nn.Module,
    recipe: Recipe,
    split: Split,
    out: Path | None,
    resume: bool,
    overwrite: bool,
    custom: bool,
    teacher: nn.Module | None,
) -> Checkpoint:
    """The state that the training starts with, its weights loaded into `model`; `teacher`: what it learns from."""
    taught_by = None if teacher is None else digest_of(teacher.state_dict())
    if resume:
        if out is None:
            raise BbgError("nothing to resume: the run has no folder; say which with out")
        state = _resumed(out / LAST, recipe, split, taught_by)
        load_weights(model, state.model, str(out / LAST))
        return state
    if out is not None and not overwrite:
        refuse_used(out)
    weights = model.state_dict()
    classes, preprocess = list(split.classes), split.preprocess
    return Checkpoint(
        recipe, 0, 0, weights, {}, classes, preprocess, data=identity(split), custom=custom, teacher=taught_by
    )


def _resumed(last: Path, recipe: Recipe, split: Split, teacher: str | None) -> Checkpoint:
    state = Checkpoint.load(last)
    refused, instead = f"cannot resume {str(last)!r}", f"or start a new run from its weights with --init {last}"
    if state.version < ORDERED:
        came = f"its checkpoint has version {state.version}, whose order and crops of the images were others"
        raise BbgError(f"{refused}: {came}; start a new run, with --init to keep the weights")
    new, old = recipe.to_dict(), state.recipe.to_dict()
    free = (*FREE, *PIXELS, *(["teacher"] if state.version >= TAUGHT else []))  # whose weights are compared below
    for key in new:
        if new[key] != old[key] and key not in free:
            came = f"recipe key {key!r} is {new[key]!r}, the run has {old[key]!r}"
            raise BbgError(f"{refused}: {came}; give the same, {instead}")
    if list(split.classes) != state.classes:
        raise BbgError(f"{refused}: the images have other classes than the run; give the same --data, {instead}")
    _refuse_other_pixels(split.preprocess, state.preprocess, refused, instead)
    for half, found in identity(split).items():
        if found != (before := state.data.get(half, {})):
            counts = f"{found['images']:,} of digest {found['digest']}"
            ours = f"the run has {before.get('images', 0):,} of {before.get('digest')}"
            raise BbgError(f"{refused}: the {half} images are {counts}, {ours}; give the same --data, {instead}")
    if state.version >= TAUGHT and teacher != state.teacher:
        raise BbgError(f"{refused}: {_other_teacher(teacher, state.teacher)}, {instead}")
    if recipe.epochs != state.recipe.epochs:
        done = state.epoch + (state.step > 0)
        if recipe.epochs <= state.epoch:
            came = f"the run has trained {done} epochs already, asked are {recipe.epochs}"
            raise BbgError(f"{refused}: {came}; give more epochs, {instead}")
    for key in FREE:
        if new[key] != old[key] and key not in CODE:
            LOGGER.info("%s is %s now, the run had %s%s", key, new[key], old[key], _means(key, state, recipe))
    if state.epoch == state.recipe.epochs < recipe.epochs:
        state.since, state.ranges = state.epoch, {}
    state.recipe, state.teacher = recipe, teacher
    return state


def _other_teacher(ours: str | None, theirs: str | None) -> str:
    """What is wrong with the teacher of this digest, in the place of that of the run."""
    if ours is None:
        return "the run has a teacher, here is none; give the same"
    if theirs is None:
        return "the run has no teacher, here is one; leave it out"
    return "the teacher has other weights than that of the run; give the same"


def _refuse_other_pixels(ours: Preprocess, theirs: Preprocess, refused: str, instead: str) -> None:
    """The preprocessing of the images, and that of the run."""
    if ours != theirs:
        pixels, other = ours.to_json(), theirs.to_json()
        key = next(name for name in {**pixels, **other} if pixels.get(name) != other.get(name))
        differs = f"preprocessing has {key} {pixels.get(key)}, that of the run {other.get(key)}"
        raise BbgError(f"{refused}: the {differs}; give the same {key}, {instead}")


def _means(key: str, state: Checkpoint, recipe: Recipe) -> str:
    """What it means for the rest of the training that `key` is another one than the run had."""
    if key == "epochs" and state.epoch == state.recipe.epochs:
        return f": it was finished, and its schedule begins anew with epoch {state.epoch + 1}"
    if key == "epochs":
        return f": from here on the learning rate is that of {recipe.epochs} epochs"
    return ": from here on the bits are not those of a run without this change" if key in OTHER_BITS else ""
