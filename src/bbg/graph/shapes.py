"""Shape rules: from an op's attributes and the shapes of its operands to the shape of its result."""

from __future__ import annotations

import math

from bbg.errors import BbgError
from bbg.graph.types import LIMIT, Attributes, Shape


def check_shape(shape: tuple[int, ...]) -> None:
    """Raise BbgError unless every size is at least 1 and their product is below 2^31."""
    if min(shape) < 1 or math.prod(shape) >= LIMIT:
        raise BbgError(f"a value of shape {list(shape)}; sizes must be at least 1 and their product below 2^31")


def windows(a: Attributes, shape: Shape) -> tuple[int, int]:
    """How many windows fit, vertically and horizontally: PyTorch's formula for convolutions and pools alike."""
    counts = []
    for axis in (0, 1):
        size, kernel, stride, padding = shape[1 + axis], a["kernel"][axis], a["stride"][axis], a["padding"][axis]
        span = size + 2 * padding - a.get("dilation", (1, 1))[axis] * (kernel - 1) - 1
        if a.get("ceil_mode", False):
            count = -(-span // stride) + 1
            count -= (count - 1) * stride >= size + padding  # a window that starts behind the map is left out
        else:
            count = span // stride + 1
        counts.append(count)
    return counts[0], counts[1]


def same(a: Attributes, shape: Shape) -> Shape:
    return shape


def conv(a: Attributes, shape: Shape) -> Shape:
    if shape[0] % a["groups"] or a["channels"] % a["groups"]:
        raise BbgError(f"groups {a['groups']} must divide {shape[0]} input and {a['channels']} output channels")
    return a["channels"], *windows(a, shape)


def pool(a: Attributes, shape: Shape) -> Shape:
    if any(2 * p > k for p, k in zip(a["padding"], a["kernel"], strict=True)):
        raise BbgError(f"padding {a['padding']} must be at most half the kernel {a['kernel']}")
    if any(d > size for d, size in zip(a.get("dilation", (1, 1)), shape[1:], strict=True)):
        raise BbgError(f"dilation {a['dilation']} must be at most the map {shape[1:]}, or a window may miss the map")
    return shape[0], *windows(a, shape)


def sized(a: Attributes, shape: Shape) -> Shape:
    return shape[0], *a["size"]


def with_channels(a: Attributes, shape: Shape) -> Shape:
    return a["channels"], *shape[1:]


def depth_to_space(a: Attributes, shape: Shape) -> Shape:
    rows, columns = a["stride"]
    if shape[0] % (rows * columns):
        raise BbgError(f"stride {a['stride']} takes {rows * columns} channels for one, which must divide {shape[0]}")
    return shape[0] // (rows * columns), shape[1] * rows, shape[2] * columns


def concat(a: Attributes, *shapes: Shape) -> Shape:
    if len({shape[1:] for shape in shapes}) > 1:
        given = ", ".join(str(list(shape)) for shape in shapes)
        raise BbgError(f"operands of shapes {given}; their maps must be equal")
    return sum(shape[0] for shape in shapes), *shapes[0][1:]


def multiply(a: Attributes, main: Shape, factor: Shape) -> Shape:
    if factor not in (main, (main[0], 1, 1)):
        allowed = f"{list(main)} or {[main[0], 1, 1]}"
        raise BbgError(f"a factor of shape {list(factor)}; allowed is that of the other operand, {allowed}")
    return main
