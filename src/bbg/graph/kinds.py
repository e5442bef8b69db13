"""The op kinds of an engine: everything that is true of a kind stands in its row of `KINDS` (docs/format.md).

    rule = KINDS["binary_conv"]
    rule.shape(attributes, operand_shape)                            # shape of the result
    rule.formula(attributes, tensors, result_shape, operand)         # the accumulator, in numpy
    TENSORS["weight"].form(rule, attributes, operand_shape, channels)   # dtype and shape of a tensor

native/kinds.h is the same table in C++; tests/graph/test_kinds.py compares the two through `bbg._native`. A scalar
function is a row of `FUNCTIONS`, for the kind "unary".
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from bbg.errors import BbgError
from bbg.graph import formulas, shapes
from bbg.graph.bits import words
from bbg.graph.types import LIMIT, Attributes, Shape, Tensors, Type

VERSION = (1, 3)  # of the format; a new kind, attribute, parameter or function raises the minor number
PAIR_LIMIT = 65535  # one element of a pair attribute: keeps every position of a window within 64-bit integers
REQUIRED = object()
LEAST_FLOAT, MOST_FLOAT = 2.0**-126, (2 - 2.0**-23) * 2.0**127  # of the normal positive float32 numbers

# The parameters of the epilogue, and what one that is left out means.
EPILOGUE: dict[str, float] = {
    "scale": 1,
    "bias": 0,
    "shift": 0,
    "gate": 1,
    "above": 1,
    "below": 1,
    "offset": 0,
    "bit_threshold": 0,
    "byte_scale": 1,
    "byte_bias": 0,
}


# ---- scalar functions -----------------------------------------------------------------------------------------------


class Function(NamedTuple):
    """A scalar function: its formula, and how large its results could be at inputs of that size.

    An error is judged relative to that `bound`: far out the results of a bounded function are nearly 0 or 1, and
    relative to these alone rounding would look large. `least`: where a logarithm is -inf; below it is no number (NaN).
    """

    formula: Callable[[np.ndarray], np.ndarray]
    bound: Callable[[np.ndarray], np.ndarray]
    least: float = -math.inf


FUNCTIONS: dict[str, Function] = {
    "tanh": Function(np.tanh, np.ones_like),
    "sigmoid": Function(formulas.sigmoid, np.ones_like),
    "silu": Function(lambda x: x * formulas.sigmoid(x), np.abs),
    "hardswish": Function(lambda x: x * np.clip(x / 6 + 0.5, 0, 1), np.abs),
    "gelu": Function(lambda x: x * formulas.normal_cdf(x), np.abs),
    "elu": Function(lambda x: np.where(x >= 0, x, np.expm1(np.minimum(x, 0))), np.abs),
    "mish": Function(lambda x: x * np.tanh(np.logaddexp(0, x)), np.abs),
    "exp": Function(formulas.exp, formulas.exp),
    "reciprocal": Function(formulas.reciprocal, lambda x: np.abs(formulas.reciprocal(x))),
    "sqrt": Function(lambda x: np.sqrt(np.maximum(x, 0)), lambda x: np.sqrt(np.maximum(x, 0))),
    "rsqrt": Function(formulas.rsqrt, formulas.rsqrt),
    "log": Function(formulas.log, lambda x: np.abs(formulas.log(x)), 0.0),
    "log1p": Function(formulas.log1p, lambda x: np.abs(formulas.log1p(x)), -1.0),
    "softplus": Function(lambda x: np.logaddexp(0, x), lambda x: np.logaddexp(0, x)),
}


def _unary(a: Attributes, t: Tensors, result: Shape, main: np.ndarray) -> np.ndarray:
    return FUNCTIONS[a["function"]].formula(main)


def _unary_reach(a: Attributes, operands: Sequence[np.ndarray]) -> float:
    return float(FUNCTIONS[a["function"]].bound(operands[0]).max())


def _mean_reach(a: Attributes, operands: Sequence[np.ndarray]) -> float:
    """Means of numbers that cancel are as uncertain as the numbers are large."""
    return float(np.abs(operands[0]).max())


# ---- attributes -----------------------------------------------------------------------------------------------------


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
    "eps": Attribute(1e-5, "number", LEAST_FLOAT, MOST_FLOAT),
    "function": Attribute(REQUIRED, "word", words=tuple(FUNCTIONS)),
    "align_corners": Attribute(False, "boolean"),
}


# ---- the rule of a kind ---------------------------------------------------------------------------------------------


class Weight(NamedTuple):
    """What the numbers of a weight are: the tensor's dtype, bits per number, and how many products a sum can hold."""

    dtype: str
    bits: int
    most_products: int = LIMIT


FLOAT32 = Weight("float32", 32)
INT8 = Weight("int8", 8, 65535)  # 255 * 128 * 65535 < 2^31: the sum fits 32 bits
SIGNS = Weight("uint64", 1)  # 64 numbers in a word

WITH_SHIFT = tuple(EPILOGUE)
PLAIN = tuple(name for name in EPILOGUE if name != "shift")


@dataclass(frozen=True)
class Kind:
    """One kind of op.

    `shape(attributes, *operand_shapes)` is the shape of the result, `formula(attributes, tensors, result_shape,
    *operands)` the accumulator. `main`: the type of all operands. `operands`: how many there are; None: two or more.
    `epilogue`: the parameters allowed. `real_output` False: the op writes bits, without an epilogue.
    `reach(attributes, operands)`: how large the accumulator could be on such operands, whatever it is; 0 where its own
    numbers tell (see `Function`).
    """

    shape: Callable[..., Shape]
    formula: Callable[..., np.ndarray]
    main: Type = "real"
    operands: int | None = 1
    attributes: tuple[str, ...] = ()
    required: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    epilogue: tuple[str, ...] = PLAIN
    shortcut: bool = True
    real_output: bool = True
    weight: Weight | None = None
    reach: Callable[[Attributes, Sequence[np.ndarray]], float] = lambda a, operands: 0.0

    def products(self, a: Attributes, main: Shape) -> int:
        """Multiply-accumulates per number of the result: `kh * kw * I / groups`; 0 where there is no weight."""
        return 0 if self.weight is None else math.prod(formulas.filter_shape(a, main[0])[1:])


# ---- tensors --------------------------------------------------------------------------------------------------------

Form = tuple[str, tuple[int, ...]]  # dtype and shape


def _weight_form(rule: Kind, a: Attributes, main: Shape, channels: int) -> Form:
    assert rule.weight is not None
    shape = formulas.filter_shape(a, main[0])
    products = rule.products(a, main)
    if channels * products >= LIMIT:
        raise BbgError(f"weight of {' x '.join(map(str, shape))} numbers; allowed are fewer than 2^31")
    if products > rule.weight.most_products:
        raise BbgError(f"{products} products per number; allowed are {rule.weight.most_products}")
    return rule.weight.dtype, (channels, words(products)) if rule.weight is SIGNS else shape


def _tap_bias_form(rule: Kind, a: Attributes, main: Shape, channels: int) -> Form:
    return "float32", (math.prod(a["kernel"]), channels)


class Tensor(NamedTuple):
    """The rule of one tensor: dtype and shape, given the kind, attributes, operand's shape and output channels.

    `bits`: how many bits of a row of words are used, for tensors of bits.
    """

    form: Callable[[Kind, Attributes, Shape, int], Form]
    bits: Callable[[Kind, Attributes, Shape], int] = lambda rule, a, main: main[0]


TENSORS = {
    "weight": Tensor(_weight_form, lambda rule, a, main: rule.products(a, main)),
    "acc_threshold": Tensor(lambda rule, a, main, channels: ("int32", (channels,))),
    "tap_bias": Tensor(_tap_bias_form),
    "and_mask": Tensor(lambda rule, a, main, channels: ("uint64", (words(main[0]),))),
    "index": Tensor(lambda rule, a, main, channels: ("int32", (sum(a["size"]) if "size" in a else channels,))),
}


# ---- the kinds ------------------------------------------------------------------------------------------------------

_CONV = ("kernel", "stride", "padding", "dilation", "groups", "channels")
_MAX_POOL = ("kernel", "stride", "padding", "dilation", "ceil_mode")
_AVG_POOL = ("kernel", "stride", "padding", "count_include_pad", "ceil_mode")

KINDS: dict[str, Kind] = {
    "conv": Kind(shapes.conv, formulas.conv, attributes=_CONV, required=("weight",), weight=FLOAT32),
    "byte_conv": Kind(
        shapes.conv,
        formulas.conv,
        "bytes",
        attributes=_CONV,
        required=("weight",),
        optional=("tap_bias",),
        weight=INT8,
    ),
    "binary_conv": Kind(
        shapes.conv,
        formulas.binary_conv,
        "bits",
        attributes=_CONV,
        required=("weight",),
        optional=("acc_threshold", "tap_bias"),
        epilogue=WITH_SHIFT,
        weight=SIGNS,
    ),
    "max_pool": Kind(shapes.pool, formulas.max_pool, attributes=_MAX_POOL),
    "avg_pool": Kind(shapes.pool, formulas.avg_pool, attributes=_AVG_POOL, reach=_mean_reach),
    "adaptive_avg_pool": Kind(shapes.sized, formulas.adaptive_avg_pool, attributes=("size",), reach=_mean_reach),
    "match_channels": Kind(shapes.with_channels, formulas.match_channels, attributes=("channels",)),
    "pointwise": Kind(shapes.same, formulas.pointwise),
    "concat": Kind(shapes.concat, formulas.concat, operands=None, shortcut=False),
    "select": Kind(shapes.with_channels, formulas.select, attributes=("channels",), required=("index",)),
    "multiply": Kind(shapes.multiply, formulas.multiply, operands=2),
    "unary": Kind(shapes.same, _unary, attributes=("function",), reach=_unary_reach),
    "layer_norm": Kind(shapes.same, formulas.layer_norm, attributes=("eps",)),
    "softmax": Kind(shapes.same, formulas.softmax, reach=lambda a, operands: 1.0),
    "log_softmax": Kind(shapes.same, formulas.log_softmax, reach=_mean_reach),
    "max_channels": Kind(shapes.with_channels, formulas.max_channels, attributes=("channels",)),
    "bilinear": Kind(shapes.sized, formulas.bilinear, attributes=("size", "align_corners"), reach=_mean_reach),
    "take": Kind(shapes.sized, formulas.take, attributes=("size",), required=("index",)),
    "depth_to_space": Kind(shapes.depth_to_space, formulas.depth_to_space, attributes=("stride",)),
    "max_pool_bits": Kind(
        shapes.pool,
        formulas.max_pool_bits,
        "bits",
        attributes=_MAX_POOL,
        required=("and_mask",),
        epilogue=(),
        shortcut=False,
        real_output=False,
    ),
}
