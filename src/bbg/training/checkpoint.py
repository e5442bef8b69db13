"""Checkpoints of a training: one file, read with `weights_only=True`, written whole or not at all.

A checkpoint holds numbers and names, never code: a module of one's own is made again by its factory.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bbg.binarization.float_self import digest_of as digest_of_tensors
from bbg.errors import BbgError, first_line
from bbg.files import whole_file
from bbg.graph.signature import looks_packed
from bbg.image import Preprocess
from bbg.reading import contents
from bbg.recipe import Recipe
from bbg.training.factory import Factory, binarized, build, call_factory
from bbg.training.torch_files import read_torch

MOST_BYTES = 4 * 2**30  # of a file of weights
VERSION = 5  # 1 has no `signs`, 2 no `data` and no `custom`, 3 no `since`, 4 no `teacher`
ORDERED = 3  # the first version with the present order and crops of the images
TAUGHT = 5  # the first version that knows its teacher


@dataclass
class Checkpoint:
    """A training at one moment: after `step` batches of epoch `epoch` (both counted from 0).

    `model` and `optimizer` are state dicts, `history` one row per finished epoch, `signs` the packed weight signs of
    the binary layers (bbg.training.monitor) at the epoch's start. `data`: what identifies the images (`identity` in
    bbg.training.folder). `ranges`: of the inputs that 8-bit layers round (`bbg.conversion.Ranges`), recorded behind the
    last epoch. `since`: the epoch that the present schedule began with, not 0 where a finished run was extended.
    `custom`: the module was given to `bbg.fit` or made by a factory, rather than built by the recipe. `teacher`: the
    digest of the network that it learns from, None for none.
    `version`: that of the file it was read from.
    """

    recipe: Recipe
    epoch: int
    step: int
    model: dict[str, Any] = field(repr=False)  # megabytes, here and below
    optimizer: dict[str, Any] = field(repr=False)
    classes: list[str]
    preprocess: Preprocess
    history: list[dict[str, float]] = field(default_factory=list)
    signs: dict[str, Any] = field(default_factory=dict, repr=False)
    data: dict[str, Any] = field(default_factory=dict)
    ranges: dict[str, Any] = field(default_factory=dict, repr=False)
    since: int = 0
    custom: bool = False
    teacher: str | None = None
    version: int = VERSION

    def save(self, path: Path) -> None:
        """Write the checkpoint to `path`, whole or not at all; BbgError where it cannot be written."""
        state = {**vars(self), "version": VERSION, "torch": str(torch.__version__)}
        state["recipe"] = _without_code(self.recipe).to_dict()
        state["preprocess"] = self.preprocess.to_json()
        try:
            with whole_file(path) as file:
                torch.save(state, file)
        except (OSError, RuntimeError) as e:  # torch reports a full disk as RuntimeError
            reason = (isinstance(e, OSError) and e.strerror) or "the disk may be full"
            raise BbgError(f"cannot write checkpoint {str(path)!r}: {reason}; give a writable --out folder") from e

    @staticmethod
    def load(path: Path) -> Checkpoint:
        """Read a checkpoint; BbgError where the file is missing, damaged or of a later version."""
        try:
            content = contents(path, MOST_BYTES)
        except OSError as e:
            raise BbgError(f"cannot read checkpoint {str(path)!r}: {e.strerror}; give the path of a checkpoint") from e
        try:
            state = read_torch(content)
            if state["version"] > VERSION:
                came = f"has version {state['version']}, allowed is {VERSION}"
                raise BbgError(f"checkpoint {str(path)!r} {came}; update bbg")
            state.pop("torch")
            state["recipe"] = _without_code(Recipe.from_dict(state["recipe"]))
            state["preprocess"] = Preprocess.from_json(state["preprocess"])
            loaded = Checkpoint(**state)
            loaded.check_fields()
            return loaded
        except BbgError:
            raise
        except Exception as e:  # unpickling raises whatever the damaged bytes happen to mean
            if looks_packed(content):
                raise BbgError(f"{str(path)!r} is a packed file, a checkpoint is wanted; give one of bbg train") from e
            raise BbgError(f"{str(path)!r} is damaged or no checkpoint of bbg; give one that `bbg train` wrote") from e

    def check_fields(self) -> None:
        """ValueError where a field is not of its type, or out of its range."""
        numbers = [self.epoch, self.step, self.since]
        rows = self.history if isinstance(self.history, list) else [None]
        holds = {
            "epoch, step, since": all(type(n) is int and n >= 0 for n in numbers),
            "model": _is_of(self.model, torch.Tensor),
            "signs": _is_of(self.signs, torch.Tensor),
            "optimizer, data, ranges": all(_is_of(part, object) for part in (self.optimizer, self.data, self.ranges)),
            "classes": isinstance(self.classes, list) and all(isinstance(name, str) for name in self.classes),
            "history": all(_is_of(row, (int, float)) and 0 <= row.get("epoch", -1) < 2**31 for row in rows),
            "custom": isinstance(self.custom, bool),
            "teacher": self.teacher is None or isinstance(self.teacher, str),
        }
        for what, right in holds.items():
            if not right:
                raise ValueError(f"its {what} cannot be so")

    def check_network(self) -> None:
        """BbgError where the weights are not those of the recipe's network, before memory is taken for it."""
        try:
            with torch.device("meta"):
                model = build(self.recipe, len(self.classes), self.preprocess)
        except RuntimeError as e:  # numbers that torch cannot count
            raise BbgError(f"the network of the checkpoint cannot be built: {first_line(e)}; give another") from e
        check_weights(model, self.model, "the checkpoint")

    def network(self, factory: Factory | None = None) -> nn.Module:
        """The trained network, in evaluation mode; `factory` makes the module where it is one of one's own.

        A float network of a factory is binarized as the recipe says, unless the weights are those of it as it is.
        """
        if factory is not None:
            model = call_factory(factory, len(self.classes), self.preprocess)
            if model.state_dict().keys() != self.model.keys():
                with suppress(BbgError):  # else the names that do not fit are told below
                    model = binarized(model, self.recipe, self.preprocess)
        elif self.custom:
            raise BbgError(
                "the checkpoint is of a module of one's own, whose code it does not hold; say what makes the module "
                "with --factory package.module:function"
            )
        else:
            self.check_network()
            model = build(self.recipe, len(self.classes), self.preprocess)
        load_weights(model, self.model, "the checkpoint")
        return model.eval()


def _is_of(value: object, kind: type | tuple[type, ...]) -> bool:
    """Whether it is a dict from names to values of this kind."""
    return isinstance(value, dict) and all(isinstance(k, str) and isinstance(v, kind) for k, v in value.items())


def digest_of(state: dict[str, Any]) -> str:
    """SHA-256 of the names and bytes of all tensors of a network."""
    return digest_of_tensors(state.items())


def _without_code(recipe: Recipe) -> Recipe:
    """The recipe without the names of factories: a file must not be able to name code."""
    return replace(recipe, factory=None, teacher_factory=None)


def load_weights(model: nn.Module, state: dict[str, Any], source: str) -> None:
    """Load every tensor of `state`, none missing, none left over, or raise BbgError."""
    check_weights(model, state, source)
    model.load_state_dict(state, strict=True)


def check_weights(model: nn.Module, state: dict[str, Any], source: str) -> None:
    """BbgError where `state` has not exactly the tensors of `model`."""
    wanted = model.state_dict()
    for name in {**wanted, **state}:
        if name not in state or name not in wanted:
            reason = f"{name!r} is {'missing' if name in wanted else 'left over'}"
        elif (shape := getattr(state[name], "shape", None)) != wanted[name].shape:
            reason = f"{name!r} has the shape {list(shape or ())}, allowed is {list(wanted[name].shape)}"
        elif state[name].is_complex():
            reason = f"{name!r} has complex numbers"
        else:
            continue
        raise BbgError(f"the weights of {source} do not fit this network: {reason}; give those of the same network")
