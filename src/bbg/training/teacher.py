"""What a network learns from beside the labels: a checkpoint, or its own float self.

    bbg.fit(binary, recipe, data, teacher="self")       teacher = "self" in a recipe with a factory

The float self of a network of `bbg.binarize` is the network that was given, as it was then (see
`binarization/float_self.py`). A run keeps its weights in its folder, so that it goes on with the same ones, whatever
network it is resumed with.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import nn

from bbg.binarization import Binarized
from bbg.data.sets import Split
from bbg.errors import BbgError
from bbg.files import whole_file
from bbg.log import LOGGER
from bbg.reading import contents
from bbg.recipe import Recipe
from bbg.training.checkpoint import MOST_BYTES, Checkpoint, check_weights
from bbg.training.factory import find_factory
from bbg.training.folder import FLOAT_SELF
from bbg.training.torch_files import read_torch

SELF = "self"  # what the recipe key `teacher` says for the float self


def teacher_of(recipe: Recipe, split: Split, model: nn.Module, resumed: Path | None = None) -> nn.Module | None:
    """The network of the recipe's teacher, None for none; `resumed`: the folder of the run that goes on.

    Raises BbgError where it has other classes or takes other inputs, and where `model` has no float self.
    """
    if recipe.teacher is None:
        return None
    if recipe.teacher == SELF:
        return _own(model, resumed)
    taught = Checkpoint.load(Path(recipe.teacher))
    if taught.classes != list(split.classes) or taught.preprocess != split.preprocess:
        raise BbgError(
            f"the teacher {recipe.teacher!r} has other classes or inputs; give one trained on the same images"
        )
    if taught.custom and recipe.teacher_factory is None:
        raise BbgError(
            f"the teacher {recipe.teacher!r} is a module of one's own, whose code its checkpoint does not hold; say "
            'what makes the module with the recipe key teacher_factory = "package.module:function"'
        )
    return taught.network(None if recipe.teacher_factory is None else find_factory(recipe.teacher_factory))


def read_by(recipe: Recipe) -> str | None:
    """The file of the recipe's teacher, None for none."""
    return None if recipe.teacher == SELF else recipe.teacher


def check_teacher(recipe: Recipe) -> None:
    """Raise BbgError where the recipe's teacher is no file, or the float self of a network that has none."""
    path = read_by(recipe)
    if path is not None and not os.path.isfile(path):
        raise BbgError(f"no teacher {path!r}; the recipe key 'teacher' names a checkpoint of bbg train, or is {SELF!r}")
    if recipe.teacher == SELF and recipe.factory is None:
        raise _no_self(f"the network {recipe.network!r} of bbg.create")


def _no_self(what: str) -> BbgError:
    """The error for a network without a float self; `what` it is."""
    return BbgError(
        f"the teacher is {SELF!r}, and {what} has no float self; give a network of bbg.binarize, or another teacher: "
        'a float network, such as the checkpoint of a training by method = "float"'
    )


def passed_by(source: str) -> BbgError:
    """The error for weights from the file `source` that would go into the binary network after its float self."""
    return BbgError(
        f"the teacher is {SELF!r}, and the weights of {source!r} would go into the binary network, so its float self "
        "would teach what it had before; load the weights of the float network before bbg.binarize, as --init does "
        "with those that fit it"
    )


def _warn_of_untrained(network: nn.Module) -> None:
    """Say so where no batch norm of the teacher has seen an image."""
    means = [tensor for name, tensor in network.named_buffers() if name.endswith("running_mean")]
    if means and not any(bool(mean.any()) for mean in means):
        LOGGER.warning(
            "the teacher, the float network itself, is untrained: its batch norms have seen no image; load its weights "
            "before bbg.binarize, or with --init"
        )


def _own(model: nn.Module, resumed: Path | None) -> nn.Module:
    """The float self of `model`, with the weights that the resumed run has, or else those that it had itself."""
    if not isinstance(model, Binarized):
        raise _no_self(f"the network ({type(model).__name__})")
    path = None if resumed is None else resumed / FLOAT_SELF
    if path is None or not path.exists():
        weights = model.float_self.network().state_dict()
        _warn_of_untrained(model.float_self.model)
    else:
        try:
            weights = read_torch(contents(path, MOST_BYTES))
            check_weights(model.float_self.model, weights, repr(str(path)))
        except BbgError:
            raise
        except Exception as e:  # unpickling raises whatever damaged bytes happen to mean
            raise BbgError(f"{str(path)!r} is damaged; start a new run with --overwrite") from e
    # The strides decide which kernels torch takes, so they are the same for a new run and a resumed one.
    plain = {name: t.detach().cpu().clone(memory_format=torch.contiguous_format) for name, t in weights.items()}
    return model.float_self.with_weights(plain).to(memory_format=torch.channels_last)


def keep_teacher(teacher: nn.Module, folder: Path) -> None:
    """Write the weights of the float self to the folder of its run, where they are not there yet."""
    path = folder / FLOAT_SELF
    if path.exists():
        return
    try:
        with whole_file(path) as file:
            torch.save(dict(teacher.state_dict()), file)
    except (OSError, RuntimeError) as e:  # torch reports a full disk as RuntimeError
        reason = (isinstance(e, OSError) and e.strerror) or "the disk may be full"
        raise BbgError(f"cannot write the teacher {str(path)!r}: {reason}; give a writable --out folder") from e
