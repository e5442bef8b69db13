"""Lowering rules of what rearranges or joins tensors."""

from __future__ import annotations

import operator
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bbg.conversion.builder import Builder
from bbg.conversion.rules.registry import lowers
from bbg.conversion.views import JoinedTensor, StackedTensors, TracedTensor, View, channels_last
from bbg.tracing.vocabulary import OPS, Op, Trait, ops_with


def _rearranged(builder: Builder, x: View, function: Callable[[Tensor], Any]) -> Any:
    """What a function that only moves numbers makes of `x`: it is applied to the layout, in two images."""
    result = function(torch.stack([x.indices, x.indices + x.numbers]))

    def view(layout: Tensor) -> View:
        two = layout.ndim > 1 and len(layout) == 2 and layout.numel()
        if not two or not torch.equal(layout[0] + x.numbers, layout[1]):
            raise builder.error(
                f"makes {list(layout.shape)} of two images; keep their first axis, as x.flatten(1) does",
                of_input=True,
            )
        return x.with_layout(layout[0])

    return tuple(view(layout) for layout in result) if isinstance(result, (tuple, list)) else view(result)


def _moves(op: Op) -> None:
    """Registers the rules of an operation that only moves numbers: its functions, its methods and its layers."""

    @lowers(*op.functions, *op.methods, takes_views=True)
    def rule(builder: Builder, input: View, *args: Any, **kwargs: Any) -> Any:
        """A function that only moves numbers -> no op, another layout."""
        return _rearranged(builder, input, lambda layout: op(layout, *args, **kwargs))

    @lowers(*op.modules, takes_views=True)
    def layer_rule(builder: Builder, layer: nn.Module, x: View) -> Any:
        """A layer that only moves numbers -> no op, another layout."""
        return _rearranged(builder, x, layer)


for _op in ops_with(Trait.MOVES):
    if _op.name not in ("getitem", "roll"):  # which have rules of their own
        _moves(_op)


@lowers(torch.roll, "roll", takes_views=True)
def roll(builder: Builder, input: View, shifts: Any, dims: Any = None) -> Any:
    """A roll along axes of each image -> no op, another layout."""
    axes = [dims] if isinstance(dims, int) else list(dims or ())
    if not axes or any(axis % (input.indices.ndim + 1) == 0 for axis in axes):  # by 2, two images stay as they are
        raise builder.error("rolls the images too; name other axes alone, as torch.roll(x, 1, 3)")
    return _rearranged(builder, input, lambda layout: torch.roll(layout, shifts, dims))


def _repeats(name: str) -> None:
    """Registers the rule of an operation that repeats numbers: its functions and methods."""
    op = OPS[name]

    @lowers(*op.functions, *op.methods, takes_views=True)
    def rule(builder: Builder, input: View, *args: Any, **kwargs: Any) -> Any:
        """A function that repeats numbers -> no op, a layout that has them more than once."""
        given = [torch.empty_like(a.tensor) if isinstance(a, View) else a for a in args]  # `expand_as` takes a tensor
        return _rearranged(builder, input, lambda layout: op(layout, *given, **kwargs))


for _name in ("expand", "expand_as", "repeat", "repeat_interleave"):
    _repeats(_name)


@lowers(F.pad)
def pad(builder: Builder, input: TracedTensor, pad: Any, mode: str = "constant", value: Any = None) -> TracedTensor:
    """Zeros around a map or its channels, or fewer rows and columns -> conv; rows and columns of the map -> take."""
    x = builder.as_nchw(input)
    if mode != "constant":
        for have, low, high in zip(x.shape[:0:-1], pad[::2], pad[1::2], strict=False):
            if have + min(low, 0) + min(high, 0) < max(low, high):  # torch gives what was in memory before
                raise builder.error(
                    f"pads a map {list(x.shape[1:])} by {list(pad)}, by more than is left of it; pad less"
                )
        places = F.pad(x.indices.double()[None], pad, mode)[0].to(torch.int64)
        return builder.as_nchw(x.with_layout(places))
    if value:
        raise builder.error(f"pads by {value}; pad by zeros, or by mode='replicate'")
    left, right, above, below, before, behind = (*map(int, pad), *[0] * 6)[:6]
    if len(pad) > 6:
        raise builder.error(f"pads by {list(pad)}, the images too; pad channels, rows and columns alone")
    if before or behind:
        x = _pad_channels(builder, x, before, behind)
    height, width = x.shape[1:]
    size = (height + above + below, width + left + right)
    if min(size) < 1:
        raise builder.error(f"pads a map {[height, width]} by {list(pad)}: nothing is left of it")
    return builder.frame(x, (-above, -left), size, partial(F.pad, pad=(left, right, above, below)), ".map")


def _pad_channels(builder: Builder, x: TracedTensor, before: int, behind: int) -> TracedTensor:
    channels = x.shape[0]
    weight = torch.zeros(channels + before + behind, 1, 1, channels)
    kept = range(max(0, -before), channels + min(0, behind))
    if not kept:
        raise builder.error(f"pads {channels} channels by {[before, behind]}: nothing is left of them")
    for c in kept:
        weight[c + before, 0, 0, c] = 1
    return builder.add(
        "conv",
        (x,),
        partial(F.pad, pad=(0, 0, 0, 0, before, behind)),
        suffix=".channels",
        tensors={"weight": weight.numpy()},
        kernel=(1, 1),
        channels=len(weight),
    )


@lowers(nn.ZeroPad2d, nn.ConstantPad2d)
def zero_pad(builder: Builder, layer: nn.ConstantPad2d, x: TracedTensor) -> TracedTensor:
    """A layer that pads by zeros -> as the function."""
    return pad(builder, x, layer.padding, value=getattr(layer, "value", 0))


@lowers(nn.ReflectionPad2d, nn.ReplicationPad2d, nn.CircularPad2d)
def mirrored_pad(builder: Builder, layer: Any, x: TracedTensor) -> TracedTensor:
    """A layer that pads by rows and columns of the map -> as the function."""
    mode = {nn.ReflectionPad2d: "reflect", nn.ReplicationPad2d: "replicate"}.get(type(layer), "circular")
    return pad(builder, x, layer.padding, mode)


@lowers(operator.getitem, takes_views=True, takes_stacks=True)
def item(builder: Builder, x: Any, index: Any) -> Any:
    """One of several tensors, or a part of one -> no op."""
    if isinstance(x, StackedTensors) and not isinstance(index, int):
        raise builder.error(f"takes {index} of a stack along a first axis; take one tensor of it")
    return _rearranged(builder, x, lambda layout: layout[index]) if isinstance(x, View) else x[index]


@lowers(torch.cat, torch.concat, torch.concatenate, takes_views=True)
def concat(builder: Builder, tensors: Any, dim: int = 0, axis: int | None = None) -> View:
    """Channels behind channels -> concat. Any other join -> no op, but only an output may hold it."""
    dim = dim if axis is None else axis
    if not all(isinstance(x, View) for x in tensors):
        raise builder.error("joins a constant to a tensor; leave it out")
    if len(tensors) == 1:
        only: View = tensors[0]
        return only
    axis = dim % tensors[0].tensor.ndim
    if axis == 0:
        raise builder.error("joins along the axis of the images; join along another axis")
    joined = None
    if all(isinstance(x, TracedTensor) for x in tensors):
        joined = _concat_channels(builder, tuple(builder.compact(x) for x in tensors), axis)
    if joined is not None:
        return joined
    whole = tuple(builder.compact(x) if isinstance(x, TracedTensor) else x for x in tensors)
    return JoinedTensor.of(whole, axis, builder.qualname)


@lowers(torch.stack, takes_views=True)
def stack(builder: Builder, tensors: Any, dim: int = 0) -> View | StackedTensors:
    """A join along a new axis -> no op, but only a sum over that axis may take it, or an output.

    Along the first axis, before that of the images, it stays several tensors.
    """
    if not all(isinstance(x, View) for x in tensors):
        raise builder.error("joins a constant to a tensor; leave it out")
    axis = dim % (tensors[0].tensor.ndim + 1)
    layers = tuple(builder.materialize(x) for x in tensors)
    if axis == 0:
        return StackedTensors(layers)
    return JoinedTensor.of(tuple(x.with_layout(x.indices.unsqueeze(axis - 1)) for x in layers), axis, builder.qualname)


def _concat_channels(builder: Builder, tensors: tuple[TracedTensor, ...], axis: int) -> TracedTensor | None:
    """The op that puts channels behind channels, or None where `tensors` and `axis` are anything else."""
    if axis == 1:
        tensors = tuple(builder.whole_map(x) for x in tensors)
    tensors = tuple(builder.in_channel_order(x) for x in tensors)
    last = axis == 3 and all(x.is_channels_last for x in tensors)
    maps = axis == 1 and all(x.layout is None for x in tensors)
    features = axis == 1 and all(x.is_flat and x.is_complete and x.shape[1:] == (1, 1) for x in tensors)
    if not (maps or features or last):
        return None
    layout = None
    if last:
        layout = channels_last((sum(x.shape[0] for x in tensors), *tensors[0].shape[1:]))
    return builder.add("concat", tensors, lambda *given: torch.cat(given, axis), layout=layout)


@lowers("clone", torch.clone, "detach", "float", "type_as", takes_views=True)
def copied(builder: Builder, x: View, *others: Any) -> View:
    """Copies and casts -> no op: all numbers are float32."""
    return x


@lowers("to", takes_views=True)
def cast(builder: Builder, x: View, *others: Any, **options: Any) -> View:
    """A cast to float32, as of a comparison -> no op."""
    found = [other for other in (*others, *options.values()) if isinstance(other, torch.dtype)]
    if any(dtype != torch.float32 for dtype in found):
        raise builder.error(f"casts to {found[0]}; stay in float32")
    return x
