"""Lowering rules of nonlinearities that are no hinge, of what moves or joins tensors, and of functions."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bbg.conversion.builder import Lowering
from bbg.conversion.rules.norm import _layer_norm
from bbg.conversion.rules.registry import lowers, rule_of
from bbg.conversion.views import Wire, channels_last
from bbg.tracing.vocabulary import Op, Trait, ops_with

# ---- nonlinearities ------------------------------------------------------------------------------------------------


# ---- moving and joining --------------------------------------------------------------------------------------------


def _moved(to: Lowering, x: Wire, function: Callable[[Tensor], Any]) -> Any:
    """What a function that only moves numbers makes of `x`: it is applied to their places, in two images."""
    total = x.value[0].numel()
    result = function(torch.stack([x.order, x.order + total]))

    def wire(places: Tensor) -> Wire:
        alike = places.ndim > 1 and len(places) == 2 and places.numel() and torch.equal(places[0] + total, places[1])
        if not alike:
            raise to.refuse(f"makes {list(places.shape)} of two images; the first axis must stay that of the images")
        return x.at(places[0])

    return tuple(wire(places) for places in result) if isinstance(result, (tuple, list)) else wire(result)


def _moves(op: Op) -> None:
    """Registers the rules of an operation that only moves numbers: its functions, its methods and its layers."""

    @lowers(*op.functions, *op.methods, moves=True)
    def rule(to: Lowering, input: Wire, *args: Any, **kwargs: Any) -> Any:
        return _moved(to, input, lambda places: op(places, *args, **kwargs))

    @lowers(*op.modules, moves=True)
    def layer_rule(to: Lowering, layer: nn.Module, x: Wire) -> Any:
        return _moved(to, x, layer)


for _op in ops_with(Trait.MOVES):
    if _op.name != "getitem":  # whose input may be several tensors, not one
        _moves(_op)


@lowers(operator.getitem, moves=True)
def item(to: Lowering, x: Any, index: Any) -> Any:
    """One of several tensors, or a part of one."""
    return _moved(to, x, lambda places: places[index]) if isinstance(x, Wire) else x[index]


@lowers(torch.cat, torch.concat, torch.concatenate)
def concat(to: Lowering, tensors: Any, dim: int = 0, axis: int | None = None) -> Wire:
    """Channels behind channels."""
    dim = dim if axis is None else axis
    if not all(isinstance(x, Wire) for x in tensors):
        raise to.refuse("joins a constant to a tensor; allowed are tensors that depend on the input")
    if len(tensors) == 1:
        return tensors[0]
    first = tensors[0]
    axis = dim % first.tensor.ndim
    tensors = [to.ordered(x) for x in tensors]
    maps = axis == 1 and not any(x.flat for x in tensors)
    if maps:
        tensors = [to.map(x) for x in tensors]
    features = axis == 1 and all(x.flat and x.shape[1:] == (1, 1) for x in tensors)
    last = axis == 3 and all(x.last for x in tensors)
    if not (maps or features or last):
        came = ", ".join(to.describe(x) for x in tensors)
        raise to.refuse(f"joins {came} along axis {dim}; allowed are channels: axis 1 of [N, C, H, W]")
    places = None
    if last:
        places = channels_last((sum(x.shape[0] for x in tensors), *first.shape[1:]))
    return to.emit("concat", tuple(tensors), lambda *given: torch.cat(given, axis), places=places)


@lowers("clone", torch.clone, "detach", "float", "type_as")
def copied(to: Lowering, x: Wire, *others: Any) -> Wire:
    """Nothing to compute: numbers are float32 here."""
    return x


# ---- functions that do what a layer does ---------------------------------------------------------------------------


def _as_layer(build: Callable[..., nn.Module]) -> Callable[..., Wire]:
    """The rule of a function, from the layer that does the same: `build` takes the arguments behind the input."""

    def rule(to: Lowering, input: Wire, *args: Any, **kwargs: Any) -> Wire:
        try:
            layer = build(*args, **kwargs).eval()
        except TypeError as error:
            raise to.refuse(f"with these arguments it cannot be converted ({error})") from None
        lower = rule_of(layer)
        assert lower is not None
        result: Wire = lower(to, layer, input)
        return result

    return rule


_TWINS: dict[tuple[Any, ...], Callable[..., nn.Module]] = {
    (F.relu, torch.relu, "relu", "relu_", F.relu_, torch.relu_): lambda inplace=False: nn.ReLU(),
    (F.relu6,): lambda inplace=False: nn.ReLU6(),
    (F.hardtanh, F.hardtanh_): lambda min_val=-1.0, max_val=1.0, inplace=False: nn.Hardtanh(min_val, max_val),
    (F.leaky_relu, F.leaky_relu_): lambda negative_slope=0.01, inplace=False: nn.LeakyReLU(negative_slope),
    (F.max_pool2d,): lambda kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, return_indices=False: (
        nn.MaxPool2d(kernel_size, stride, padding, dilation, return_indices, ceil_mode)
    ),
    (F.avg_pool2d,): nn.AvgPool2d,
    (F.adaptive_avg_pool2d,): nn.AdaptiveAvgPool2d,
    (F.adaptive_max_pool2d,): nn.AdaptiveMaxPool2d,
    (
        F.interpolate,
    ): lambda size=None, scale_factor=None, mode="nearest", align_corners=None, recompute_scale_factor=None, antialias=False: (
        nn.Upsample(size, scale_factor, mode, align_corners, recompute_scale_factor)
    ),
    (F.sigmoid, torch.sigmoid, "sigmoid", "sigmoid_"): nn.Sigmoid,
    (F.tanh, torch.tanh, "tanh", "tanh_"): nn.Tanh,
    (F.silu,): lambda inplace=False: nn.SiLU(),
    (F.hardsigmoid,): lambda inplace=False: nn.Hardsigmoid(),
    (F.hardswish,): lambda inplace=False: nn.Hardswish(),
    (F.gelu,): nn.GELU,
    (F.layer_norm,): _layer_norm,
}
for _targets, _build in _TWINS.items():
    lowers(*_targets)(_as_layer(_build))
