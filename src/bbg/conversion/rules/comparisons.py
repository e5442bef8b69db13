"""Lowering rules of comparisons, and of choices by them: hinges where both sides meet, else products with 0 and 1."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bbg.conversion.builder import Builder
from bbg.conversion.rules.elementwise import add, maximum, mul, neg, sub
from bbg.conversion.rules.registry import lowers
from bbg.conversion.views import Condition, TracedTensor
from bbg.graph import pack_bits

MEET = 1e-6  # of the larger side: how far two sides of a hinge may be apart at its threshold


def _comparison(name: str, above: bool, strict: bool) -> None:
    """Registers the rule of a comparison: `x > y` is `above` and `strict`, `x <= y` is neither."""

    @lowers(getattr(operator, name), getattr(torch, name), name)
    def rule(builder: Builder, input: Any, other: Any) -> Condition:
        """A comparison -> pointwise that writes bits, and a binary convolution of one tap that makes them 0 and 1."""
        if not isinstance(input, TracedTensor):
            return _compare(builder, other, input, not above, strict)
        if isinstance(other, TracedTensor):
            return _compare(builder, sub(builder, input, other), 0.0, above, strict)
        return _compare(builder, input, other, above, strict)


for _name, _above, _strict in (("gt", True, True), ("ge", True, False), ("lt", False, True), ("le", False, False)):
    _comparison(_name, _above, _strict)


def _compare(builder: Builder, x: TracedTensor, other: Any, above: bool, strict: bool) -> Condition:
    """Bits are those of `x >= threshold`: `x > t` is where `-x >= -t` is not, so also of a tie."""
    given = torch.as_tensor(other).detach().to(torch.float32)
    threshold = builder.per_channel(x, given, "its threshold", axis=None)
    assert threshold is not None
    threshold = np.broadcast_to(threshold, x.shape[:1])
    turned, sign = above == strict, 1.0 if above != strict else -1.0
    source = neg(builder, x) if turned else x

    def signs(v: Tensor) -> Tensor:
        return torch.where(v >= sign * given, 1.0, -1.0)

    bits = builder.add_sign(source, signs, sign * threshold)
    half = -0.5 if strict else 0.5
    channels = x.shape[0]
    vectors = {"scale": np.full(channels, half), "bias": np.full(channels, 0.5)}
    step = builder.add(
        "binary_conv",
        (bits,),
        lambda a: half * a + 0.5,
        tensors={"weight": pack_bits(np.ones((channels, 1)), channels)},
        parameters=vectors,
        kernel=(1, 1),
        channels=channels,
        groups=channels,
    )
    return Condition(step.name, step.value, step.layout, of=x, threshold=threshold, above=above)


@lowers(operator.and_, torch.logical_and, "logical_and", torch.bitwise_and, "bitwise_and")
def both(builder: Builder, input: Any, other: Any) -> TracedTensor:
    """Both of two conditions -> their product."""
    return mul(builder, input, other)


@lowers(operator.or_, torch.logical_or, "logical_or", torch.bitwise_or, "bitwise_or")
def either(builder: Builder, input: Any, other: Any) -> TracedTensor:
    """One of two conditions -> the larger."""
    return maximum(builder, input, other)


@lowers(operator.invert, torch.logical_not, "logical_not", torch.bitwise_not, "bitwise_not")
def opposite(builder: Builder, input: TracedTensor) -> TracedTensor:
    """What is not so -> 1 less the condition."""
    vectors = {"scale": np.full(input.shape[0], -1.0), "bias": np.ones(input.shape[0])}
    return builder.add("pointwise", (input,), lambda v: 1 - v, parameters=vectors)


@lowers(torch.where)
def where(builder: Builder, condition: Any, input: Any, other: Any) -> TracedTensor:
    """A choice -> pointwise where it is a hinge; else each side times 0 or 1, and their sum."""
    if isinstance(condition, Condition):
        hinge = _hinge(builder, condition, input, other)
        if hinge is not None:
            return hinge
    if isinstance(condition, TracedTensor):
        otherwise: Any = None if _is_zero(other) else opposite(builder, condition)
    else:
        condition = torch.as_tensor(condition).float()
        otherwise = 1 - condition
    sides = [mul(builder, c, side) for c, side in ((condition, input), (otherwise, other)) if not _is_zero(side)]
    if not sides:
        raise builder.error("gives 0 on either side; leave it out")
    return sides[0] if len(sides) == 1 else add(builder, *sides)


def _is_zero(x: Any) -> bool:
    return not isinstance(x, TracedTensor) and not bool(torch.as_tensor(x).any())


def _hinge(builder: Builder, condition: Condition, input: Any, other: Any) -> TracedTensor | None:
    """The choice as one hinge of what is compared, where both sides are lines of it that meet; None where not."""
    x, t = condition.of, condition.threshold
    sides = [_line(builder, x, side) for side in ((input, other) if condition.above else (other, input))]
    if sides[0] is None or sides[1] is None:
        return None
    (above, plus), (below, minus) = sides[0], sides[1]
    at, beside = above * t + plus, below * t + minus
    if (np.abs(at - beside) > MEET * np.maximum(np.abs(at), np.abs(beside))).any():
        return None

    def spread(vector: np.ndarray) -> Tensor:
        """A number for each channel, as torch has the tensor."""
        full = torch.tensor(vector, dtype=torch.float32)[None, :, None, None]
        return x.arrange(full.expand(1, *x.shape))

    rows = [spread(vector) for vector in (t, above, plus, below, minus)]

    def choose(v: Tensor) -> Tensor:
        return torch.where(v >= rows[0], rows[1] * v + rows[2], rows[3] * v + rows[4])

    parameters = {"bias": -t, "above": above, "below": below, "offset": at}
    return builder.add("pointwise", (x,), choose, parameters=parameters)


def _line(builder: Builder, x: TracedTensor, side: Any) -> tuple[np.ndarray, np.ndarray] | None:
    """Slope and intercept, `[C]`, of a side that is `a x + b` for each channel; None where it is anything else."""
    ones = np.ones(x.shape[0])
    if not isinstance(side, TracedTensor):
        vector = torch.as_tensor(side).detach().float()
        if vector.ndim > x.tensor.ndim:
            return None
        constant = builder.per_channel(x, vector, "its constant", axis=None)
        assert constant is not None
        return 0 * ones, np.broadcast_to(constant, ones.shape)
    if side.tensor.shape != x.tensor.shape or not torch.equal(side.indices, x.indices):
        return None
    return _line_of(builder, x, side.name)


def _line_of(builder: Builder, x: TracedTensor, name: str) -> tuple[np.ndarray, np.ndarray] | None:
    """The same of a value that scales and sums make of x."""
    ones = np.ones(x.shape[0])
    if name == x.name:
        return ones, 0 * ones
    op = next((op for op in reversed(builder.ops) if name in op.written), None)
    if op is None or op.kind != "pointwise" or op.clip != (None, None) or len(op.inputs) > 1:
        return None
    inner = _line_of(builder, x, op.inputs[0]) if set(op.epilogue) <= {"scale", "bias"} else None
    if inner is None:
        return None
    row = {name: op.tensors["epilogue"][i] for i, name in enumerate(op.epilogue)}
    scale = np.asarray(row.get("scale", ones))
    return scale * inner[0], scale * inner[1] + row.get("bias", 0)


@lowers("where")
def where_of_tensor(builder: Builder, input: Any, condition: Any, other: Any) -> TracedTensor:
    """The method: what it is of stays where the condition is so."""
    return where(builder, condition, input, other)


@lowers(torch.masked_fill, "masked_fill", "masked_fill_")
def masked_fill(builder: Builder, input: TracedTensor, mask: Any, value: Any) -> TracedTensor:
    """Another number where the mask is so -> as the choice."""
    return where(builder, mask, value, input)


@lowers(nn.Threshold)
def threshold_layer(builder: Builder, layer: nn.Threshold, x: TracedTensor) -> TracedTensor:
    """`x if x > threshold else value` -> as the choice."""
    return threshold(builder, x, layer.threshold, layer.value)


@lowers(F.threshold, torch.threshold, torch.threshold_)
def threshold(
    builder: Builder, input: TracedTensor, threshold: float, value: float, inplace: bool = False
) -> TracedTensor:
    """As the layer."""
    return where(builder, _compare(builder, input, threshold, True, True), input, value)
