"""The optimizer of a training: one for all parameters, or one for 1-bit layers and another for all others.

Signs want Adam: its second moment revives weights that saturation has killed (arXiv 2106.11309). Real-valued and 8-bit
layers do better with SGD and weight decay. A recipe with `real_optimizer` gives each kind its own.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from bbg.errors import BbgError
from bbg.layers import BinaryConv2d, BinaryLinear, Unit
from bbg.recipe import Recipe

NO_STATE = (
    "the optimizer's state in the checkpoint is not that of this network; give one of the same network and recipe"
)


def make_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """The recipe's optimizer; weight decay on weights proper only, tensors of two dimensions and more."""
    parameters = list(model.parameters())
    if recipe.real_optimizer is None:
        return _one(parameters, recipe.optimizer, recipe.lr, recipe.weight_decay, recipe.momentum)
    binary = of_binary_layers(model)
    lr = recipe.lr if recipe.real_lr is None else recipe.real_lr
    decay = recipe.weight_decay if recipe.real_weight_decay is None else recipe.real_weight_decay
    some = [p for p in parameters if id(p) in binary]
    others = [p for p in parameters if id(p) not in binary]
    parts = [
        *([_one(some, recipe.optimizer, recipe.lr, recipe.weight_decay, recipe.momentum)] if some else []),
        *([_one(others, recipe.real_optimizer, lr, decay, recipe.momentum)] if others else []),
    ]
    for part in parts:
        for group in part.param_groups:
            group["peak"] = group["lr"]
    return parts[0] if len(parts) == 1 else Joined(*parts)


def _one(
    parameters: list[nn.Parameter], name: str, lr: float, weight_decay: float, momentum: float
) -> torch.optim.Optimizer:
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    if name == "adam":
        return torch.optim.AdamW(groups, lr=lr)
    return torch.optim.SGD(groups, lr=lr, momentum=momentum, nesterov=momentum > 0)


def of_binary_layers(model: nn.Module) -> set[int]:
    """The identities of the parameters of 1-bit layers, and of what stands around them in their units."""
    binary = (BinaryConv2d, BinaryLinear)

    def is_binary(module: nn.Module) -> bool:
        return isinstance(module, binary) or (isinstance(module, Unit) and isinstance(module.conv, binary))

    return {id(p) for module in model.modules() if is_binary(module) for p in module.parameters()}


class Joined(torch.optim.Optimizer):
    """Several optimizers, each for parameters of its own, as one."""

    def __init__(self, *parts: torch.optim.Optimizer) -> None:
        self.parts = parts
        super().__init__([p for part in parts for group in part.param_groups for p in group["params"]], {})

    # The base class sets these two; what counts are those of the parts.

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The groups of all parts."""
        return [group for part in self.parts for group in part.param_groups]

    @param_groups.setter
    def param_groups(self, groups: Any) -> None:
        pass

    @property
    def state(self) -> defaultdict[Tensor, Any]:
        """The state of all parts, by parameter."""
        return defaultdict(dict, {key: value for part in self.parts for key, value in part.state.items()})

    @state.setter
    def state(self, state: Any) -> None:
        pass

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Nothing: the parts have the groups."""

    def zero_grad(self, set_to_none: bool = True) -> None:
        """As torch's."""
        for part in self.parts:
            part.zero_grad(set_to_none)

    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """A step of each part; a closure is not taken."""
        assert closure is None
        for part in self.parts:
            part.step()

    def state_dict(self) -> dict[str, Any]:
        """As torch's: parameters counted through all parts."""
        states: dict[int, Any] = {}
        groups: list[dict[str, Any]] = []
        for first, state in zip(self._starts(), (part.state_dict() for part in self.parts), strict=True):
            states |= {first + index: value for index, value in state["state"].items()}
            groups += [{**group, "params": [first + i for i in group["params"]]} for group in state["param_groups"]]
        return {"state": states, "param_groups": groups}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The inverse."""
        groups = list(state_dict["param_groups"])
        for first, part in zip(self._starts(), self.parts, strict=True):
            mine, groups = groups[: len(part.param_groups)], groups[len(part.param_groups) :]
            indices = {index for group in mine for index in group["params"]}
            part.load_state_dict(
                {
                    "state": {i - first: value for i, value in state_dict["state"].items() if i in indices},
                    "param_groups": [{**group, "params": [i - first for i in group["params"]]} for group in mine],
                }
            )

    def _starts(self) -> Iterator[int]:
        start = 0
        for part in self.parts:
            yield start
            start += sum(len(group["params"]) for group in part.param_groups)


def restore(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Give `optimizer` the state that a checkpoint holds; BbgError where that is one of other parameters.

    Its options stay those of the recipe: a file has no say in them.
    """
    own = [{name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups]
    try:
        optimizer.load_state_dict(state)
        fits = all(_fits(p, held) for p, held in optimizer.state.items())
        for group, options in zip(optimizer.param_groups, own, strict=True):
            group.update(options)
    except Exception as e:  # whatever the state of another optimizer happens to mean
        raise BbgError(NO_STATE) from e
    if not fits:
        raise BbgError(NO_STATE)


def _fits(parameter: Tensor, held: dict[str, Any]) -> bool:
    """Whether this can be the state of a parameter: a fused step trusts the shapes of what it reads and writes."""

    def right(name: str, value: Any) -> bool:
        if name == "momentum_buffer" and value is None:
            return True
        shape, dtype = (torch.Size(), torch.float32) if name == "step" else (parameter.shape, parameter.dtype)
        return isinstance(value, Tensor) and (value.shape, value.dtype, value.layout) == (shape, dtype, torch.strided)

    known = set(held) in ({"step", "exp_avg", "exp_avg_sq"}, {"momentum_buffer"}, set())
    return known and all(right(name, value) for name, value in held.items())


def make_fused(optimizer: torch.optim.Optimizer) -> None:
    """Let a step be one kernel for all parameters: the small ones of a network cost more to call than to compute."""
    for group in optimizer.param_groups:
        group |= {"fused": True, "foreach": False}


def make_capturable(optimizer: torch.optim.Optimizer, device: torch.device) -> None:
    """Bring a fused optimizer's state to a CUDA device, so that its step can be part of a CUDA graph.

    The learning rate becomes a tensor, which a graph reads at each replay.
    """
    for group in optimizer.param_groups:
        group["lr"] = torch.tensor(float(group["lr"]), device=device)
        if "capturable" in group:
            group["capturable"] = True
    for values in optimizer.state.values():
        values |= {name: value.to(device) for name, value in values.items() if isinstance(value, Tensor)}


def portable_state(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The optimizer's state as a checkpoint holds it: the same whichever device the training ran on."""
    state = optimizer.state_dict()
    plain = {"fused": None, "foreach": None, "capturable": False}
    groups = [
        {**group, **{key: value for key, value in plain.items() if key in group}, "lr": float(group["lr"])}
        for group in state["param_groups"]
    ]
    return {**state, "param_groups": groups}
