"""Lowering rules of logarithms, of what is made of them and `exp`, and of powers."""

from __future__ import annotations

import math
import operator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bbg.conversion.builder import Builder
from bbg.conversion.rules.elementwise import clamp, mul, neg, ones_like
from bbg.conversion.rules.registry import lowers
from bbg.conversion.views import TracedTensor
from bbg.graph.kinds import LEAST_FLOAT

LEAST_THRESHOLD = 15.0  # of softplus: beyond it, log(1 + exp(x)) is x but for half of float32's last bit
SMALL = 0.25  # powers below it of the least number are no zeros: see `_of_logarithm`
LEAST_LOGARITHM, STEEP = -87.0, 300.0  # log(2^-126) is -87.34

# ---- logarithms ----------------------------------------------------------------------------------------------------


def _logarithm(name: str, function: str, times: float = 1.0) -> None:
    """Registers the rule of a logarithm of torch that is so many `times` a scalar function of the format."""

    @lowers(getattr(torch, name), name, f"{name}_")
    def rule(builder: Builder, input: TracedTensor) -> TracedTensor:
        parameters = None if times == 1 else {"scale": np.full(input.shape[0], times)}
        return builder.add("unary", (input,), getattr(torch, name), parameters=parameters, function=function)


_logarithm("log", "log")
_logarithm("log1p", "log1p")
_logarithm("log2", "log", 1 / math.log(2))
_logarithm("log10", "log", 1 / math.log(10))


@lowers(nn.Softplus)
def softplus(builder: Builder, layer: nn.Softplus, x: TracedTensor) -> TracedTensor:
    """`log(1 + exp(beta x)) / beta` -> unary between two scales."""
    if layer.threshold < LEAST_THRESHOLD:
        raise builder.error(f"its threshold is {layer.threshold}, where it jumps; use 20")
    if layer.beta == 0:
        raise builder.error("beta is 0, by which it divides; use another number")
    if layer.beta == 1:
        return builder.add("unary", (x,), layer, function="softplus")
    beta = float(layer.beta)
    scaled = builder.add(
        "pointwise", (x,), lambda v: beta * v, suffix=".scaled", parameters={"scale": np.full(x.shape[0], beta)}
    )
    parameters = {"scale": np.full(x.shape[0], 1 / beta)}
    return builder.add("unary", (scaled,), lambda v: F.softplus(v) / beta, parameters=parameters, function="softplus")


@lowers(nn.LogSigmoid)
def log_sigmoid(builder: Builder, layer: nn.LogSigmoid, x: TracedTensor) -> TracedTensor:
    """`-log(1 + exp(-x))` -> unary between two negations."""
    minus = {"scale": np.full(x.shape[0], -1.0)}
    negated = neg(builder, x)
    return builder.add("unary", (negated,), lambda v: F.logsigmoid(-v), parameters=minus, function="softplus")


# ---- powers --------------------------------------------------------------------------------------------------------


@lowers(operator.pow, torch.pow, "pow", "pow_")
def power(builder: Builder, input: Any, exponent: Any) -> TracedTensor:
    """A whole power -> multiply, as often as it takes; a root or a reciprocal -> unary; any other -> log and exp."""
    if not isinstance(input, TracedTensor):
        return _exponential(builder, input, exponent)
    if isinstance(exponent, TracedTensor):
        raise builder.error("raises to a power that depends on the images; use a parameter, or exp and log")
    if isinstance(exponent, Tensor) and exponent.unique().numel() == 1:
        exponent = exponent.flatten()[0].item()
    if isinstance(exponent, Tensor):
        return _of_logarithm(builder, input, exponent.detach())
    if not isinstance(exponent, (int, float)) or not math.isfinite(exponent):
        raise builder.error(f"raises to the power {exponent}; use a finite number")
    name = {0.5: "sqrt", -0.5: "rsqrt", -1: "reciprocal"}.get(exponent)
    if name is not None:
        return builder.add("unary", (input,), getattr(torch, name), function=name)
    if exponent != int(exponent):
        return _of_logarithm(builder, input, torch.tensor(float(exponent)))
    if exponent < 0:
        input = builder.add("unary", (input,), torch.reciprocal, suffix=".part", function="reciprocal")
    return _whole_power(builder, input, abs(int(exponent)))


def _whole_power(builder: Builder, x: TracedTensor, exponent: int) -> TracedTensor:
    """`x^n` by the bits of n: the product of some of x, x^2, x^4, ..."""
    if exponent == 0:
        return ones_like(builder, x)
    result: TracedTensor | None = None
    while True:
        if exponent % 2:
            result = x if result is None else mul(builder, result, x)
        exponent //= 2
        if not exponent:
            assert result is not None
            return result
        x = mul(builder, x, x)


def _of_logarithm(builder: Builder, x: TracedTensor, exponent: Tensor) -> TracedTensor:
    """`x^p` -> `exp(p log(x))`, where an x below the least normal number counts as that number, as under a root.

    That to a power p is `exp(-87.3 p)`, which for a small p is no zero, as torch has it. So for these, p log(x) goes
    on below -87 p with a slope by which the exponential is 0:

        p (-87) + (p if log(x) + 87 >= 0 else 300) (log(x) + 87)
    """
    least = clamp(builder, x, min=LEAST_FLOAT)
    p = builder.per_channel(least, exponent, "its exponent", axis=None)
    assert p is not None
    p = np.broadcast_to(p, least.shape[:1])
    small = (p > 0) & (p < SMALL)
    parameters = {"scale": p}
    if small.any():
        start = np.where(small, LEAST_LOGARITHM, 0.0)
        parameters = {"bias": -start, "above": p, "below": np.where(small, STEEP, p), "offset": p * start}

    def scaled(v: Tensor) -> Tensor:
        logs = torch.log(v)
        end = (exponent > 0) & (exponent < SMALL) & (logs < LEAST_LOGARITHM)
        return torch.where(
            end, exponent * LEAST_LOGARITHM + STEEP * (logs - LEAST_LOGARITHM), (exponent * logs).to(logs.dtype)
        )

    logs = builder.add("unary", (least,), scaled, suffix=".log", parameters=parameters, function="log")
    return builder.add("unary", (logs,), torch.exp, function="exp")


def _exponential(builder: Builder, base: Any, exponent: TracedTensor) -> TracedTensor:
    """`b^x` of a constant -> `exp(x log(b))`."""
    number = torch.as_tensor(base, dtype=torch.float64).detach()
    if not bool((number > 0).all()):
        raise builder.error("raises what is not above 0 to a power that depends on the images; use a positive base")
    return builder.add("unary", (mul(builder, exponent, number.log()),), torch.exp, function="exp")
