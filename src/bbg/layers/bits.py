"""The width of each layer: 1 bit, 8 bits or 32 (real-valued), said in one way everywhere.

    bits = 8                                     every layer
    bits = {"layer1.*": 8, "layer4.*": 1}        by qualified name; the first pattern that fits

A pattern is one of fnmatch; a module's name stands for all inside. "first" and "last" are the layers that read the
images and those that the output comes from. What no pattern fits keeps the width that it has without `bits`.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from fnmatch import fnmatchcase
from typing import Any, TypeAlias

from torch import nn

from bbg.errors import BbgError
from bbg.layers.binary import BinaryConv2d, BinaryLinear
from bbg.layers.byte import ByteConv2d, ByteLinear
from bbg.layers.stock import arguments_of
from bbg.layers.unit import Unit

WIDTHS = (1, 8, 32)
ENDS = ("first", "last")

Bits: TypeAlias = int | Mapping[str, int]


def rules_of(bits: Bits | None) -> dict[str, int]:
    """`bits` as patterns with their widths; BbgError for a width that there is not."""
    if bits is None:
        return {}
    rules = dict(bits) if isinstance(bits, Mapping) else {"*": bits}
    for pattern, width in rules.items():
        if not isinstance(pattern, str) or type(width) is not int or width not in WIDTHS:
            raise BbgError(f"bits: {pattern!r} has {width!r}, allowed are patterns with 1, 8 or 32 bits")
    return rules


def fits(name: str, pattern: str, ends: Mapping[str, Collection[str]]) -> bool:
    """Whether the layer `name` is meant by `pattern`; `ends`: the names of the layers called "first" and "last"."""
    if pattern in ends:
        return name in ends[pattern]
    return fnmatchcase(name, pattern) or fnmatchcase(name, f"{pattern}.*")


def width_of(name: str, rules: Mapping[str, int], ends: Mapping[str, Collection[str]]) -> int | None:
    """The width that the first pattern which fits gives the layer; None where none fits."""
    return next((width for pattern, width in rules.items() if fits(name, pattern, ends)), None)


def check_patterns(what: str, patterns: Collection[str], names: Collection[str]) -> None:
    """BbgError for a pattern that fits no layer."""
    for pattern in patterns:
        if pattern not in ENDS and not any(fits(name, pattern, {}) for name in names):
            near = difflib.get_close_matches(pattern, names, 3, 0.3) or list(names)[:3]
            raise BbgError(f"{what}: {pattern!r} fits no convolution or linear layer; near are {', '.join(near)}")


def bits_of(layer: nn.Module) -> int | None:
    """The width of a layer; None for what is no convolution or linear layer."""
    if isinstance(layer, (BinaryConv2d, BinaryLinear)):
        return 1
    if isinstance(layer, (ByteConv2d, ByteLinear)):
        return 8
    return 32 if isinstance(layer, (nn.Conv2d, nn.Linear)) else None


def set_bits(model: nn.Module, bits: Bits) -> nn.Module:
    """Give the layers of `model`, one that `bbg.create` makes, the widths that `bits` says; returns `model`.

    The parameters stay the very same. A unit keeps its batch norm, gate, shortcut and nonlinearity at any width, so the
    residual stream stays real-valued. Raises BbgError for a width that is not 1, 8 or 32, for a pattern that fits no
    layer, and for 1 bit where no unit of a binary method stands around the layer.
    """
    rules = rules_of(bits)
    layers = {name: module for name, module in model.named_modules() if bits_of(module) is not None}
    check_patterns("bits", rules, layers)
    names = list(layers)
    ends = {"first": names[:1], "last": names[-1:]}
    for name, layer in layers.items():
        width = width_of(name, rules, ends)
        if width is None or width == bits_of(layer):
            continue
        if width == 1:
            raise BbgError(
                f"bits: {name!r} cannot have 1 bit: it stands in no unit of a binary method, or the network makes that "
                "unit with 8 bits; give it 8 or 32"
            )
        parent, _, last = name.rpartition(".")
        setattr(model.get_submodule(parent), last, _with_width(layer, width, _channels_before(model, name)))
    return model


def _with_width(layer: Any, width: int, channels: int | None) -> nn.Module:
    """The twin of `layer` with 8 or 32 bits; `channels`: of the map that was flattened to a linear layer's features."""
    if isinstance(layer, nn.Linear):
        return ByteLinear.of(layer, channels) if width == 8 else real_linear(layer)
    return ByteConv2d.of(layer) if width == 8 else real_conv(layer)


def _channels_before(model: nn.Module, name: str) -> int | None:
    """The channels of the map that reaches a linear layer: those of the last unit before it, where they divide."""
    layer, found = model.get_submodule(name), None
    if not isinstance(layer, nn.Linear):
        return None
    for other, module in model.named_modules():
        if other == name:
            break
        if isinstance(module, Unit) and isinstance(module.conv, nn.Conv2d):
            found = module.conv.out_channels
    return found if found and layer.in_features % found == 0 else None


def real_conv(layer: nn.Conv2d) -> nn.Conv2d:
    """The real-valued convolution with the parameters of `layer`."""
    conv = nn.Conv2d(**arguments_of(layer))
    conv.weight, conv.bias = layer.weight, layer.bias
    return conv.train(layer.training)


def real_linear(layer: nn.Linear) -> nn.Linear:
    """The real-valued linear layer with the parameters of `layer`."""
    linear = nn.Linear(layer.in_features, layer.out_features, bias=False, device="meta")
    linear.weight, linear.bias = layer.weight, layer.bias
    return linear.train(layer.training)
