"""The values that the nodes of a trace take for two batch sizes, and what follows from them for another."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from bbg.tracing.proxies import ValueProxy

DEVICES = ("is_cuda", "is_cpu", "is_mps", "is_xpu", "is_meta")  # what a tensor says of its device

# Divisors of both are many, so that `x.view(N // 8, 8, ...)` works; their quotients differ for divisors up to 120.
BATCH_SIZES = (240, 360)


class Unknown:
    """The value of a node that is not known."""


UNKNOWN = Unknown()


def value_for(images: int, values: tuple[Any, Any]) -> Any:
    """What a node gives for so many images: sizes go linearly with them. A tensor is all zeros in no memory.

    UNKNOWN where a size goes otherwise.
    """
    one, other = values
    if isinstance(one, Tensor):
        shape = value_for(images, (tuple(one.shape), tuple(other.shape)))
        return UNKNOWN if shape is UNKNOWN else torch.zeros((), dtype=one.dtype).expand(shape)
    if isinstance(one, (tuple, list)):
        if len(one) != len(other):
            return UNKNOWN
        parts = [value_for(images, pair) for pair in zip(one, other, strict=True)]
        return UNKNOWN if any(part is UNKNOWN for part in parts) else type(one)(parts)
    if one == other:
        return one
    if not isinstance(one, int):
        return UNKNOWN
    low, high = BATCH_SIZES
    steps = (other - one) * (images - low)
    return one + steps // (high - low) if steps % (high - low) == 0 else UNKNOWN


def proxies_of(arguments: Any) -> list[Any]:
    """The proxies in the arguments of a call."""
    found: list[Any] = []
    fx.node.map_aggregate(arguments, lambda a: found.append(a) if isinstance(a, fx.Proxy) else None)
    return found


def asks_device(node: fx.Node) -> bool:
    """Whether a number comes of the device that a tensor is on."""
    if (node.target is getattr and node.args[1] in ("device", *DEVICES)) or node.target == "get_device":
        return True
    of_tensor = node.op in ("placeholder", "get_attr", "call_module")
    return not of_tensor and any(map(asks_device, node.all_input_nodes))


def chunks(node: fx.Node) -> int | None:
    """How many tensors a call of `chunk` asks for; None for other calls."""
    if getattr(node.target, "__name__", node.target) != "chunk":
        return None
    count = node.kwargs.get("chunks", node.args[1] if len(node.args) > 1 else None)
    return count if isinstance(count, int) else None


def same_for_any_batch(x: ValueProxy, y: ValueProxy) -> bool:
    """Whether `x == y`, of numbers or shapes, has one answer for any number of images.

    It has if all entries are equal for both batch sizes, or if two differ that do not depend on the number of images.
    """
    entries = [
        list(zip(*value, strict=True)) if isinstance(value[0], tuple) else [value] for value in (x.known, y.known)
    ]
    if len(entries[0]) != len(entries[1]):
        return True
    pairs = list(zip(*entries, strict=True))
    fixed = not (x.of_batch or y.of_batch)
    return all(a == b for a, b in pairs) or any(fixed and a[0] == a[1] and b[0] == b[1] and a != b for a, b in pairs)


def differs(values: tuple[Any, Any]) -> bool:
    one, other = values
    return not isinstance(one, Tensor) and isinstance(one, (int, float, tuple, list)) and bool(one != other)
