"""The proof that a rewriting changed nothing but what it was to change.

`binarize` rewrites a network that nobody here wrote. With everything undone that it does on purpose (identity in the
place of each binarizer, no gate and shortcut, each replaced activation back, added norms left out), the rewritten
network must compute what the given one does. On a few images, in both modes:

    outputs in evaluation mode, outputs in training mode, gradients of all parameters, running statistics behind a step

agree within LIMIT of the largest number of each tensor, in float64 where they do not in float32, and both draw as many
random numbers. A random number is drawn from one seed at each call, so dropout and its like drop the same in both.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from bbg.errors import BbgError, first_line
from bbg.layers import Unit
from bbg.tracing.state import kept
from bbg.tracing.tracer import in_mode

LIMIT = 1e-4
_RANDOM = ("dropout", "rand", "bernoulli", "normal", "uniform", "exponential", "multinomial", "rrelu", "gumbel")


@dataclass(frozen=True)
class Proof:
    """How far the rewritten network, undone, is from the given one: differences as shares of the largest number."""

    images: int
    evaluation: float
    training: float
    gradients: float
    statistics: float

    def __str__(self) -> str:
        parts = f"outputs {self.evaluation:.1g}, in training mode {self.training:.1g}, gradients {self.gradients:.1g}"
        return (
            f"without binarizers, gates and what was added it equals the given network on {self.images} images "
            f"(largest differences: {parts}, running statistics {self.statistics:.1g})"
        )


class RealUnit(nn.Module):
    """A unit with the identity for its binarizers, without gate and shortcut; `norm`: None where it was added."""

    def __init__(self, unit: Unit, norm: nn.Module | None) -> None:
        super().__init__()
        self.conv, self.norm = unit.conv, norm

    def forward(self, x: Tensor) -> Tensor:
        """`norm(conv(x))` with the unit's own parameters, stride, padding and groups."""
        y: Tensor = self.conv.real(x)  # type: ignore[operator]
        return y if self.norm is None else self.norm(y)


class Real(nn.Module):
    """An 8-bit layer without its roundings."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        """`layer.real(x)`."""
        y: Tensor = self.layer.real(x)  # type: ignore[operator]
        return y


@dataclass
class _Run:
    """What one forward and backward gave. `outputs` by their place in what the network returned."""

    outputs: dict[str, Tensor]
    gradients: dict[str, Tensor | None]
    statistics: dict[str, Tensor]
    draws: int
    state: Any


def prove(
    model: nn.Module,
    undone: nn.Module,
    images: Tensor,
    twins: Mapping[str, nn.Parameter],
    dropped: tuple[str, ...] = (),
) -> Proof:
    """Compare `undone`, which shares its parameters with `model`, with it, and leave both as they are.

    `twins`: parameters of `undone` that are views of one of the model's, by the name of the latter. `dropped`: the
    modules that the training mode alone reaches; with some, the model may return more in training mode.

    Raises BbgError that names the first module behind which the two differ, and for a network that cannot run on the
    images in either mode.
    """
    images = torch.cat([images, images.flip(-1)])[:2] if len(images) < 2 else images[:2]
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    counted = {
        f"{name}.num_batches_tracked".lstrip(".")
        for name, module in model.named_modules()
        if getattr(module, "momentum", None) is not None
    }
    buffers = [
        name
        for name, _ in model.named_buffers()
        if name not in counted and not any(part and name.startswith(f"{part}.") for part in dropped)
    ]
    found: dict[str, float] = {}
    for training in (False, True):
        mode = "training" if training else "evaluation"
        mine = {name: twins.get(name, p) for name, p in trained.items()}
        try:
            with in_mode(undone, training):
                ours = _run(model, undone, images, mine, buffers, training, None)
            with in_mode(model, training):
                theirs = _run(model, model, images, trained, buffers, training, list(ours.outputs.values()))
        except Exception as error:  # whatever torch, or the network, raises
            raise BbgError(
                f"the network cannot run in {mode} mode on images {list(images.shape)} ({first_line(error)}); give an "
                "example that it can be trained on"
            ) from error
        more = theirs.draws - ours.draws if training else 0
        if more < 0 or (more and not dropped) or ours.state != theirs.state:
            raise _differs(model, undone, images, training, "draws other random numbers than the given network")
        parts = {
            mode: _difference(list(theirs.outputs.values()), list(ours.outputs.values())),
            "gradients": _difference_of_gradients(theirs.gradients, ours.gradients) if training else 0.0,
            "statistics": _difference([theirs.statistics[n] for n in buffers], [ours.statistics[n] for n in buffers]),
        }
        for what, difference in parts.items():
            if not difference <= LIMIT:
                exact = _in_double(model, undone, images, twins, dropped)
                if exact is not None:
                    return exact
                told = "" if what == mode else f" in its {what}"
                raise _differs(
                    model, undone, images, training, f"differs{told} by {difference:.1g} of the largest number"
                )
            found[what] = max(found.get(what, 0.0), difference)
    return Proof(len(images), **found)


def _in_double(
    model: nn.Module,
    undone: nn.Module,
    images: Tensor,
    twins: Mapping[str, nn.Parameter],
    dropped: tuple[str, ...],
) -> Proof | None:
    """The proof of copies in float64, where the two differ by no more than float32 rounds; None where they do."""
    if images.dtype == torch.float64:
        return None
    try:
        ours, theirs, views = copy.deepcopy((undone, model, dict(twins)))
        return prove(theirs.double(), ours.double(), images.double(), views, dropped)
    except Exception:  # what cannot be copied, makes float32 numbers of its own, or differs in float64 too
        return None


def _run(
    model: nn.Module,
    network: nn.Module,
    images: Tensor,
    parameters: Mapping[str, Tensor],
    buffers: list[str],
    backward: bool,
    like: list[Tensor] | None,
) -> _Run:
    """One step of `network` in the mode that it is in; of its outputs only those that are `like` others, if given."""
    with kept(model), _Draws() as draws, torch.set_grad_enabled(backward):
        random.seed(0)
        np.random.seed(0)
        x = images.detach().clone().requires_grad_(backward)
        outputs = dict(_tensors(network(x * 1)))  # not a leaf: a network may write to its input
        state = random.getstate(), float(np.random.random())
        if like is not None and len(outputs) != len(like):
            outputs = {str(i): min(outputs.values(), key=lambda y: _difference([y], [z])) for i, z in enumerate(like)}
        gradients: dict[str, Tensor | None] = {}
        if backward:
            differentiable = [y for y in outputs.values() if y.requires_grad]
            generator = torch.Generator().manual_seed(0)
            weights = [torch.randn(y.shape, generator=generator).to(y) for y in differentiable]
            wanted = {"the images": x, **parameters}
            found = (
                torch.autograd.grad(differentiable, list(wanted.values()), weights, allow_unused=True)
                if differentiable
                else [None] * len(wanted)
            )
            gradients = dict(zip(wanted, found, strict=True))
        values = dict(model.named_buffers())
        statistics = {name: values[name].detach().clone() for name in buffers}
        return _Run({k: y.detach() for k, y in outputs.items()}, gradients, statistics, draws.count, state)


class _Draws(TorchFunctionMode):
    """Counts the calls that draw random numbers, and lets each draw from the same seed."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(word in getattr(func, "__name__", "") for word in _RANDOM):
            torch.manual_seed(0)
            self.count += 1
        return func(*args, **(kwargs or {}))


def _tensors(value: Any, place: str = "") -> Iterator[tuple[str, Tensor]]:
    """The tensors that a network returned, with their places."""
    if isinstance(value, Tensor):
        yield place, value
    elif isinstance(value, Mapping):
        for key, part in value.items():
            yield from _tensors(part, f"{place}.{key}")
    elif isinstance(value, (list, tuple)):
        for i, part in enumerate(value):
            yield from _tensors(part, f"{place}.{i}")


def _difference(some: list[Tensor], others: list[Tensor], least: float = 0.0) -> float:
    """The largest difference of two lists of tensors, each as a share of the largest number, or of `least`."""
    if len(some) != len(others):
        return float("inf")
    worst = 0.0
    for a, b in zip(some, others, strict=True):
        if a.shape != b.shape:
            return float("inf")
        if not a.numel():
            continue
        one, other = a.detach().double(), b.detach().double()
        same = (one == other) | (one.isnan() & other.isnan())  # also where both are infinite
        largest = max(float(one.abs().nan_to_num(0.0, 0.0).max()), least)
        apart = float(torch.where(same, 0.0, (one - other).abs()).nan_to_num(float("inf")).max())
        worst = max(worst, apart / largest if apart and largest else apart)
    return worst


def _difference_of_gradients(some: Mapping[str, Tensor | None], others: Mapping[str, Tensor | None]) -> float:
    """As `_difference`, but a tensor whose largest is below a tenth of the largest of all is judged by that tenth.

    Before a batch norm the gradient of a bias, and that of what it is made of, is zero but for rounding.
    """
    pairs = [(a, b) for a, b in ((some[name], others[name]) for name in some) if a is not None or b is not None]
    full = [
        (torch.zeros_like(b) if a is None else a, torch.zeros_like(a) if b is None else b)  # type: ignore[arg-type]
        for a, b in pairs
    ]
    largest = max((float(a.abs().nan_to_num(0.0, 0.0).max()) for a, _ in full if a.numel()), default=0.0)
    return _difference([a for a, _ in full], [b.reshape(a.shape) for a, b in full], largest / 10)


# ---- where they differ


def _differs(model: nn.Module, undone: nn.Module, images: Tensor, training: bool, how: str) -> BbgError:
    """The error that names the first module behind which the two networks differ."""
    seen: list[dict[str, list[Tensor]]] = []
    shared = {name for name, module in undone.named_modules() if name and not isinstance(module, (Real, RealUnit))}
    for network in (model, undone):
        with in_mode(network, training), _watched(network, shared) as outputs, torch.no_grad(), kept(model), _Draws():
            random.seed(0)
            np.random.seed(0)
            network(images.clone())
        seen.append(outputs)
    theirs, ours = seen
    first = next((n for n in theirs if n in ours and not _difference(theirs[n], ours[n]) <= LIMIT), "")
    kind = type(model.get_submodule(first)).__name__
    where = f"{first} ({kind})" if first else f"the network ({kind})"
    mode = "training" if training else "evaluation"
    return BbgError(
        f"{where}: rewritten, and with all undone that was changed on purpose, it {how}, in {mode} mode; write what it "
        "does with layers of torch, and what it does in one mode only as a module"
    )


@contextmanager
def _watched(network: nn.Module, names: set[str]) -> Iterator[dict[str, list[Tensor]]]:
    """What the modules give that have one of the `names`, in the order of their calls."""
    outputs: dict[str, list[Tensor]] = {}

    def look(name: str, value: Any) -> None:
        outputs.setdefault(name, []).extend(y.detach().clone() for _, y in _tensors(value))

    def watch(name: str) -> Callable[[nn.Module, Any, Any], None]:
        return lambda *call: look(name, call[-1])

    handles = [module.register_forward_hook(watch(name)) for name, module in network.named_modules() if name in names]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()
