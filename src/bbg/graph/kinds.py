"""The op kinds of an engine: operands, attributes, tensors, and the shape of the result (docs/format.md)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from bbg.errors import BbgError

Type = Literal["real", "bits", "bytes"]
Shape = tuple[int, int, int]
Attributes = Mapping[str, Any]

LIMIT = 2**31  # numbers in one value of one image, and in one weight
PAIR_LIMIT = 65535  # one element of a pair attribute: keeps every position of a window within 64-bit integers
REQUIRED = object()
LEAST_FLOAT, MOST_FLOAT = 2.0**-126, (2 - 2.0**-23) * 2.0**127  # of the normal positive float32 numbers
BYTE_FAN_IN = 65535  # products per number of a byte_conv: 255 * 128 * 65535 < 2^31
EPILOGUE = ("scale", "bias", "shift", "gate", "above", "below", "offset", "bit_threshold", "byte_scale", "byte_bias")


class Attribute(NamedTuple):
    """The rule of one attribute: its form, its range where it is a number, its `words` where it is a word."""

    default: Any
    form: Literal["pair of integers", "integer", "number", "boolean", "word"]
    least: float = 0
    most: float = PAIR_LIMIT
    words: tuple[str, ...] = ()

    def allows(self, value: Any) -> bool:
        """Whether `value` obeys the rule."""
        if self.form == "boolean":
            return isinstance(value, bool)
        if self.form == "word":
            return isinstance(value, str) and value in self.words
        values = value if self.form == "pair of integers" else (value,)
        return (
            isinstance(values, tuple)
            and len(values) == (2 if self.form == "pair of integers" else 1)
            and all(type(v) is int or (self.form == "number" and type(v) is float) for v in values)
            and all(self.least <= v <= self.most for v in values)
        )

    def __str__(self) -> str:
        if self.form == "boolean":
            return "true or false"
        if self.form == "word":
            return "one of " + ", ".join(self.words)
        return f"{'an' if self.form == 'integer' else 'a'} {self.form} from {self.least} to {self.most}"


ATTRIBUTES = {
    "kernel": Attribute(REQUIRED, "pair of integers", 1),
    "stride": Attribute((1, 1), "pair of integers", 1),
    "padding": Attribute((0, 0), "pair of integers", 0),
    "dilation": Attribute((1, 1), "pair of integers", 1),
    "groups": Attribute(1, "integer", 1, LIMIT - 1),
    "channels": Attribute(REQUIRED, "integer", 1, LIMIT - 1),
    "size": Attribute(REQUIRED, "pair of integers", 1),
    "ceil_mode": Attribute(False, "boolean"),
    "count_include_pad": Attribute(True, "boolean"),
    "function": Attribute(REQUIRED, "word", words=("tanh", "sigmoid", "silu", "hardswish", "gelu")),
    "eps": Attribute(1e-5, "number", LEAST_FLOAT, MOST_FLOAT),
}


def _steps(a: Attributes, shape: Shape) -> tuple[int, int]:
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


def _conv_shape(a: Attributes, shape: Shape) -> Shape:
    if shape[0] % a["groups"] or a["channels"] % a["groups"]:
        raise BbgError(f"groups {a['groups']} must divide {shape[0]} input and {a['channels']} output channels")
    return a["channels"], *_steps(a, shape)


def _pool_shape(a: Attributes, shape: Shape) -> Shape:
    if any(2 * p > k for p, k in zip(a["padding"], a["kernel"], strict=True)):
        raise BbgError(f"padding {a['padding']} must be at most half the kernel {a['kernel']}")
    if any(d > size for d, size in zip(a.get("dilation", (1, 1)), shape[1:], strict=True)):
        raise BbgError(f"dilation {a['dilation']} must be at most the map {shape[1:]}, or a window may miss the map")
    return shape[0], *_steps(a, shape)


def _concat_shape(a: Attributes, *shapes: Shape) -> Shape:
    if len({shape[1:] for shape in shapes}) > 1:
        given = ", ".join(str(list(shape)) for shape in shapes)
        raise BbgError(f"operands of shapes {given}; their maps must be equal")
    return sum(shape[0] for shape in shapes), *shapes[0][1:]


def _multiply_shape(a: Attributes, main: Shape, factor: Shape) -> Shape:
    if factor not in (main, (main[0], 1, 1)):
        allowed = f"{list(main)} or {[main[0], 1, 1]}"
        raise BbgError(f"a factor of shape {list(factor)}; allowed is that of the other operand, {allowed}")
    return main


@dataclass(frozen=True)
class Kind:
    """One kind of op: its operands, its attributes and tensors, and the shape of its result.

    `shape(attributes, *shapes)`: of the operands' shapes. `operands`: how many there are; None: two or more, and no
    shortcut behind them. `main`: the type of them all.
    """

    shape: Callable[..., Shape]
    attributes: tuple[str, ...] = ()
    main: Type = "real"
    required: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    epilogue: tuple[str, ...] = tuple(name for name in EPILOGUE if name != "shift")
    real_output: bool = True
    operands: int | None = 1


_CONV = ("kernel", "stride", "padding", "dilation", "groups", "channels")
_MAX_POOL = ("kernel", "stride", "padding", "dilation", "ceil_mode")

KINDS: dict[str, Kind] = {
    "conv": Kind(_conv_shape, _CONV, required=("weight",)),
    "byte_conv": Kind(_conv_shape, _CONV, "bytes", ("weight",), ("tap_bias",)),
    "binary_conv": Kind(_conv_shape, _CONV, "bits", ("weight",), ("acc_threshold", "tap_bias"), EPILOGUE),
    "max_pool": Kind(_pool_shape, _MAX_POOL),
    "avg_pool": Kind(_pool_shape, ("kernel", "stride", "padding", "count_include_pad", "ceil_mode")),
    "adaptive_avg_pool": Kind(lambda a, shape: (shape[0], *a["size"]), ("size",)),
    "match_channels": Kind(lambda a, shape: (a["channels"], *shape[1:]), ("channels",)),
    "pointwise": Kind(lambda a, shape: shape),
    "concat": Kind(_concat_shape, operands=None),
    "select": Kind(lambda a, shape: (a["channels"], *shape[1:]), ("channels",), required=("index",)),
    "multiply": Kind(_multiply_shape, operands=2),
    "unary": Kind(lambda a, shape: shape, ("function",)),
    "layer_norm": Kind(lambda a, shape: shape, ("eps",)),
    "max_pool_bits": Kind(_pool_shape, _MAX_POOL, "bits", ("and_mask",), epilogue=(), real_output=False),
}


def check_shape(shape: tuple[int, ...]) -> None:
    """Raise BbgError unless every size is at least 1 and their product is below 2^31."""
    if min(shape) < 1 or math.prod(shape) >= LIMIT:
        raise BbgError(f"a value of shape {list(shape)}; sizes must be at least 1 and their product below 2^31")
