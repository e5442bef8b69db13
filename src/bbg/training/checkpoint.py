"""Checkpoints of a training: one file, read with `weights_only=True`, written to a temporary file and renamed."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bbg.errors import BbgError
from bbg.image import Preprocess
from bbg.models import create
from bbg.recipe import Recipe

VERSION = 2  # 1 has no `signs`


@dataclass
class Checkpoint:
    """A training at one moment: after `step` batches of epoch `epoch` (both counted from 0).

    `model` and `optimizer` are state dicts, `history` one row per finished epoch, `signs` the packed weight signs of
    the binary layers (bbg.training.monitor) at the epoch's start.
    """

    recipe: Recipe
    epoch: int
    step: int
    model: dict[str, Any]
    optimizer: dict[str, Any]
    classes: list[str]
    preprocess: Preprocess
    history: list[dict[str, float]] = field(default_factory=list)
    signs: dict[str, Any] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Write to a temporary file beside `path`, flush it to the disk, then rename: never half a checkpoint."""
        state = {"version": VERSION, "torch": str(torch.__version__), **vars(self)}
        state["recipe"], state["preprocess"] = self.recipe.to_dict(), self.preprocess.to_json()
        temporary = path.with_name(path.name + ".tmp")
        try:
            with open(temporary, "wb") as file:
                torch.save(state, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except (OSError, RuntimeError) as e:  # torch reports a full disk as RuntimeError
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            reason = (isinstance(e, OSError) and e.strerror) or "the disk may be full"
            raise BbgError(f"cannot write checkpoint {str(path)!r}: {reason}; give a writable --out folder") from e

    @staticmethod
    def load(path: Path) -> Checkpoint:
        """Read a checkpoint; BbgError where the file is missing, damaged or of a later version."""
        try:
            content = path.read_bytes()
        except OSError as e:
            raise BbgError(f"cannot read checkpoint {str(path)!r}: {e.strerror}; give the path of a checkpoint") from e
        try:
            state = torch.load(BytesIO(content), map_location="cpu", weights_only=True)
            version = state.pop("version")
            if version > VERSION:
                raise BbgError(f"checkpoint {str(path)!r} has version {version}, allowed is {VERSION}; update bbg")
            state.pop("torch")
            state["recipe"] = Recipe.from_dict(state["recipe"])
            state["preprocess"] = Preprocess.from_json(state["preprocess"])
            return Checkpoint(**state)
        except BbgError:
            raise
        except Exception as e:  # unpickling raises whatever the damaged bytes happen to mean
            raise BbgError(f"{str(path)!r} is damaged or no checkpoint of bbg; give one that `bbg train` wrote") from e

    def network(self) -> nn.Module:
        """The trained network, in evaluation mode."""
        model = build(self.recipe, len(self.classes), self.preprocess)
        load_weights(model, self.model, "the checkpoint")
        return model.eval()


def build(recipe: Recipe, classes: int, preprocess: Preprocess) -> nn.Module:
    """The recipe's network for images of `preprocess`, its weights drawn from torch's global generator."""
    options: dict[str, Any] = {"in_channels": len(preprocess.mean), "act": recipe.act}
    for key in ("width", "shortcut"):
        if (value := getattr(recipe, key)) is not None:
            options[key] = value
    if recipe.network.startswith("vgg"):
        options["size"] = preprocess.size[0]
    return create(recipe.network, recipe.method, num_classes=classes, **options)


def load_weights(model: nn.Module, state: dict[str, Any], source: str) -> None:
    """Load every tensor of `state`, none missing, none left over, or raise BbgError."""
    wanted = model.state_dict()
    for name in {**wanted, **state}:
        if name not in state or name not in wanted:
            reason = f"{name!r} is {'missing' if name in wanted else 'left over'}"
        elif (shape := getattr(state[name], "shape", None)) != wanted[name].shape:
            reason = f"{name!r} has the shape {list(shape or ())}, allowed is {list(wanted[name].shape)}"
        else:
            continue
        raise BbgError(f"the weights of {source} do not fit this network: {reason}; give those of the same network")
    model.load_state_dict(state, strict=True)
