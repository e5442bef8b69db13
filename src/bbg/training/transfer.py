"""Weights from elsewhere as the start of a training: by name, with a new head where the classes are others.

    weights = Weights.read("resnet18.pth")        # a checkpoint of bbg, a state dict of torch, a safetensors file
    print(weights.give_to(network))               # what was taken, what was left and why, what is new

A float network gives its weights to its 1-bit form where the names agree. Those of `bbg.create` have the same names for
every method, but for the ResNets of "xnor", whose shortcuts go around two convolutions. `bbg.binarize` takes a network
that holds its weights already, and so does the factory of a recipe.

Networks that others name in their way say so (`bbg.models.names`): torchvision's ResNets and VGG-16 give theirs, and a
classifier gives a detector its backbone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bbg.errors import BbgError
from bbg.models.names import Names
from bbg.models.resnet import PooledForm, ResNet
from bbg.models.ssd import SSD
from bbg.reading import contents
from bbg.tables import terminal
from bbg.training.checkpoint import MOST_BYTES, Checkpoint
from bbg.training.torch_files import read_torch

# Of the numbers that a network learns, its new ends and what a detector adds to a backbone aside: with fewer, another
# network is meant.
LEAST = 0.5
NESTED = ("state_dict", "model", "model_state_dict", "net", "network", "weights", "params")  # where state dicts lie


@dataclass(frozen=True)
class Weights:
    """The tensors of a file by name. `source` names it; `notes` says what else is to be known of it."""

    source: str
    tensors: Mapping[str, Any]
    trained: Checkpoint | None = None  # that the tensors are from

    @classmethod
    def read(cls, path: str | Path) -> Weights:
        """The weights in a checkpoint of bbg, a file of `torch.save(net.state_dict())`, or a safetensors file.

        A state dict may lie in a dict, under "state_dict" or "model" as it is usual. No code in the file is run. Raises
        BbgError for a file that is missing, damaged, a packed file, or a pickled network.
        """
        source = str(path)
        try:
            content = contents(path, MOST_BYTES)
        except OSError as e:
            raise BbgError(f"cannot read weights {source!r}: {e.strerror}; give a checkpoint or a state dict") from e
        if content[8:9] == b"{":
            return cls(source, _safetensors(content, source))
        try:
            state = read_torch(content)
        except Exception as e:  # unpickling raises whatever the bytes happen to mean
            raise BbgError(
                f"{source!r} is damaged, or holds more than tensors; write one with torch.save(net.state_dict(), FILE)"
            ) from e
        if isinstance(state, Mapping) and {"recipe", "preprocess", "version", "model"} <= state.keys():
            trained = Checkpoint.load(Path(path))
            return cls(source, trained.model, trained)
        return cls(source, _state_dict(state, source))

    def plan(self, model: nn.Module) -> Plan:
        """What `model` would take; nothing is changed."""
        wanted = model.state_dict()
        rename = _renaming(self.tensors, wanted, _tables(model))
        added = _added(model)
        learned = {name for name, _ in model.named_parameters() if not name.startswith(added)}
        plan = Plan(self.source, rename.text, wanted, learned)
        for name, tensor in self.tensors.items():
            here = rename(name)
            if reason := _unfit(here, tensor, wanted):
                plan.left[name] = reason
                plan.changed |= {here} & wanted.keys()
            else:
                plan.taken[here] = tensor
        return plan

    def give_to(self, model: nn.Module) -> Plan:
        """Load what fits into `model`, and return what that was; BbgError where it is too little to be meant."""
        plan = self.plan(model)
        plan.check()
        for name, tensor in plan.taken.items():
            if tensor.is_floating_point() and not torch.isfinite(tensor).all():
                raise BbgError(f"{self.source!r}: {name!r} holds a NaN or an infinity; give weights that are finite")
        model.load_state_dict(plan.taken, strict=False)  # the plan has told what is not loaded
        return plan

    def remarks(self, plan: Plan, classes: tuple[str, ...], statistics: tuple[tuple[float, ...], ...]) -> list[str]:
        """What differs between the images that the weights were trained on and those of `classes` and (mean, std).

        `plan`: what was taken of the weights; a head that was left is not spoken of.
        """
        if self.trained is None:
            return []
        said = []
        before = self.trained.classes
        has_head = not any(name.startswith("head.") for name in plan.left)
        if has_head and len(before) == len(classes) and list(classes) != before:
            said.append(f"its head was trained for other classes: {', '.join(before[:5])}{', ...' * (len(before) > 5)}")
        old = self.trained.preprocess
        if (old.mean, old.std) != statistics:
            said.append(f"its images were normalised by mean {old.mean} and std {old.std}, here by others")
        return said


@dataclass
class Plan:
    """What a network takes of some weights. `str()` prints it.

    `taken`: by the network's names. `left`: the reason, by the file's names. `changed`: names of the network that the
    file has too, but not as the network needs them. `learned`: names of the network's parameters, but for those that a
    detector adds to its backbone.
    """

    source: str
    renamed: str
    wanted: Mapping[str, Tensor]
    learned: set[str]
    taken: dict[str, Tensor] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)
    changed: set[str] = field(default_factory=set)

    @property
    def new(self) -> list[str]:
        """Names of the network that nothing was taken for."""
        return [name for name in self.wanted if name not in self.taken]

    @property
    def share(self) -> float:
        """Of the numbers that the network learns, ends of another shape aside, the share that is taken."""
        counted = {name: self.wanted[name].numel() for name in self.learned - self.changed if name in self.wanted}
        taken = sum(count for name, count in counted.items() if name in self.taken)
        return taken / max(sum(counted.values()), 1)

    def fits(self) -> bool:
        """Whether so much is taken that the weights are of such a network."""
        return bool(self.taken) and len(self.changed) <= len(self.taken) and self.share >= LEAST

    def check(self) -> None:
        """BbgError, which says what was looked for and what was there, where it does not fit."""
        if self.fits():
            return
        ours, theirs = (", ".join(map(repr, list(names)[:3])) for names in (self.new, self.left))
        few = f"{len(self.taken)} of its tensors" if self.taken else "none of its tensors"
        why = f"; {next(iter(self.left))!r}: {next(iter(self.left.values()))}" if self.changed else ""
        raise BbgError(
            f"the weights of {self.source!r} are those of another network: {few} fit one by name and shape; the "
            f"network has {ours or 'no other'}, ..., the file {theirs or 'no other'}, ...{why}; give weights of this "
            "network"
        )

    def rows(self) -> list[dict[str, object]]:
        """A row per layer and what became of its tensors: taken, left (of the file), new (of the network)."""
        found: dict[tuple[str, str, str], list[str]] = {}
        for name in self.wanted:
            layer, _, tensor = name.rpartition(".")
            found.setdefault((layer, "taken" if name in self.taken else "new", ""), []).append(tensor)
        for name, reason in self.left.items():
            layer, _, tensor = name.rpartition(".")
            found.setdefault((layer, "left", reason), []).append(tensor)
        return [{"layer": k[0], "tensors": ", ".join(v), "what": k[1], "why": k[2]} for k, v in found.items()]

    def __str__(self) -> str:
        numbers = sum(self.wanted[name].numel() for name in self.taken)
        total = sum(tensor.numel() for tensor in self.wanted.values())
        line = f"weights of {self.source!r}: {len(self.taken)} of {len(self.wanted)} tensors taken"
        line += f" ({numbers:,} of {total:,} numbers), {len(self.left)} left, {len(self.new)} new{self.renamed}"
        return line if not self.left and not self.new else f"{line}\n{terminal(self.rows())}"


def _unfit(name: str, tensor: Any, wanted: Mapping[str, Tensor]) -> str:
    """Why the network cannot take `tensor` as `name`; empty where it can."""
    if not isinstance(tensor, Tensor):
        return f"a {type(tensor).__name__}, no tensor"
    if name not in wanted:
        return "the network has no such name"
    ours = wanted[name]
    if tensor.shape != ours.shape:
        return f"shape {list(tensor.shape)}, the network has {list(ours.shape)}"
    if tensor.is_floating_point() != ours.is_floating_point() or tensor.is_complex() or tensor.is_quantized:
        return f"type {tensor.dtype}, the network has {ours.dtype}"
    return ""


def _added(model: nn.Module) -> tuple[str, ...]:
    """Prefixes of the parameters that no classifier has: the attribute `added` of a detector says which."""
    found = [(name, module.added) for name, module in model.named_modules() if isinstance(module, SSD)]
    return tuple(f"{name}.{prefix}" if name else prefix for name, added in found for prefix in added)


def _tables(model: nn.Module) -> Sequence[Names]:
    """How others name the modules of `model`: its attribute `elsewhere`."""
    return model.elsewhere if isinstance(model, (SSD, ResNet, PooledForm)) else ()


@dataclass(frozen=True)
class _Rename:
    """Names of the file as the network has them: without a prefix of the file, or with one of the network.

    `table`: modules of the file, and where the network has them.
    """

    off: str = ""
    on: str = ""
    table: Mapping[str, str] = field(default_factory=dict)

    def __call__(self, name: str) -> str:
        bare = name.removeprefix(self.off)
        parts = bare.split(".") if self.table else []
        for n in range(len(parts) - 1, 0, -1):
            if (module := ".".join(parts[:n])) in self.table:
                return ".".join((self.table[module], *parts[n:]))
        return self.on + bare

    @property
    def text(self) -> str:
        """What it does, to be read behind other words."""
        said = f"; without {self.off!r} before its names" * bool(self.off) + f"; with {self.on!r} before" * bool(
            self.on
        )
        if self.table:
            theirs, ours = next(iter(self.table.items()))
            said += f"; its modules have other names, as {theirs!r} for {ours!r}"
        return said


def _renaming(given: Mapping[str, Any], wanted: Mapping[str, Tensor], tables: Sequence[Names]) -> _Rename:
    """The prefix ("module." of DataParallel) or the table by which most tensors fit, where more fit than without.

    A prefix must serve half of the file's tensors; what a table names is known to be meant.
    """

    def fitting(rename: _Rename) -> int:
        return sum(not _unfit(rename(name), given[name], wanted) for name in given)

    prefixes = _prefixes(given)
    choices = [*map(_Rename, prefixes), *(_Rename(on=prefix) for prefix in _prefixes(wanted))]
    common = [one for one in prefixes if 2 * sum(name.startswith(one) for name in given) >= len(given)]
    choices += [_Rename(prefix, table=table) for table in tables for prefix in ("", *common)]
    best = max(choices, key=fitting, default=_Rename())
    serves = bool(best.table) or 2 * fitting(best) >= len(given)
    return best if serves and fitting(best) > fitting(_Rename()) else _Rename()


def _prefixes(names: Mapping[str, Any]) -> list[str]:
    """The first one, two and three parts of all names, each with its point."""
    parts = [name.split(".") for name in names]
    return list(dict.fromkeys(".".join(p[:n]) + "." for p in parts for n in (1, 2, 3) if n < len(p)))


def _safetensors(content: bytes, source: str) -> dict[str, Tensor]:
    from safetensors.torch import load

    try:
        tensors = load(content)
    except Exception as e:
        raise BbgError(f"{source!r} is damaged, or no safetensors file; get it anew") from e
    # The header of a packed file, in front of its tensors, holds a description.
    header = content[8 : 8 + int.from_bytes(content[:8], "little")]
    if b'"__metadata__":{"bbg":' in header.replace(b" ", b""):
        raise BbgError(f"{source!r} is a packed file, which holds bits and no weights; give the checkpoint it is from")
    return tensors


def _state_dict(state: Any, source: str) -> Mapping[str, Any]:
    """The mapping from names to tensors in what a file holds."""
    if not isinstance(state, Mapping):
        raise BbgError(
            f"{source!r} holds a {type(state).__name__}, no state dict; write one with "
            "torch.save(net.state_dict(), FILE)"
        )
    if any(isinstance(value, Tensor) for value in state.values()):
        return state
    inside = {key: value for key, value in state.items() if isinstance(value, Mapping)}
    found = [key for key, value in inside.items() if any(isinstance(v, Tensor) for v in value.values())]
    chosen = next((key for key in NESTED if key in found), found[0] if len(found) == 1 else None)
    if chosen is None:
        keys = ", ".join(map(repr, list(state)[:8])) or "nothing"
        raise BbgError(
            f"{source!r} holds no state dict: it has {keys}; allowed are {', '.join(NESTED)}, or none of them"
        )
    return inside[chosen]
