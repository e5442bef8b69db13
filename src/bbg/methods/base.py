"""The three forms that every binary method is made of.

- a **binarizer** `q(x) = shift + scale * sign(x - threshold)`;
- a **pointwise layer**, per channel `h(x) = (above if x >= threshold else below) * (x - threshold) + bias`, clipped to
  `[low, high]`;
- a **unit's topology**: what stands around one binary convolution, and in which order.

A method states its forms; the base classes here derive the torch forward from them, and the converter reads the same
forms. So training and engine cannot drift apart, and no paper's name reaches the converter, the file or the engine.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bbg.errors import BbgError

Gradient = Callable[[Tensor], Tensor]


def sign(x: Tensor) -> Tensor:
    """+1 where `x >= 0`, else -1, in the dtype of `x`; never 0, and -0.0 is +1. NaN stays NaN.

    The inner sign is -1, 0 or 1, and half of 1 more is never 0. On a CPU this takes a tenth of the time of torch.where.
    """
    return torch.sign(torch.sign(x) + 0.5)


def broadcast(vector: Tensor, x: Tensor, axis: int = 1) -> Tensor:
    """`vector` reshaped so that it broadcasts along `axis` of `x`; a scalar is returned as it is."""
    return vector.reshape([-1 if i == axis else 1 for i in range(x.ndim)]) if vector.ndim else vector


def identity(x: Tensor) -> Tensor:
    """The straight-through gradient: 1 everywhere."""
    return torch.ones_like(x)


def clipped(x: Tensor) -> Tensor:
    """The straight-through gradient where `|x| <= 1`, else 0 (Courbariaux et al., arXiv 1602.02830)."""
    return (x.abs() <= 1).to(x.dtype)


def triangle(x: Tensor) -> Tensor:
    """`2 - 2|x|` on [-1, 1], else 0: derivative of a piecewise quadratic sign (Bi-Real Net, arXiv 1808.00278)."""
    return (2 - 2 * x.abs()).clamp(min=0)


class _Sign(torch.autograd.Function):
    """`sign(u)`, differentiated as a function of `v = u / width`; None for `u` says that the width is 1.

    Both come in, because the quotient may round to 0 and so lose the sign of `u`. `gain`, a tensor that fits `v` or
    None, multiplies the pseudo-gradient.

    The last operation of `forward` must make a new tensor. Where it may give its input, as one in place does, or
    `.to(dtype)`, torch 2.11 compiles the function without its backward, and without a word.
    """

    @staticmethod
    def forward(ctx: Any, v: Tensor, u: Tensor | None, gain: Tensor | None, gradient: Gradient) -> Tensor:
        ctx.gradient = gradient
        ctx.save_for_backward(v, gain)
        return sign(v if u is None else u)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        v, gain = ctx.saved_tensors
        grad = grads[0] if ctx.gradient is identity else grads[0] * ctx.gradient(v)
        return (grad if gain is None else grad * gain), None, None, None


class BinarizerForm(NamedTuple):
    """`q(x) = shift + scale * sign(x - threshold)`; None stands for the neutral 0, 1 and 0.

    Of a weight `[O, ...]`: each `[O]`, one per filter. Of an activation `[N, C, ...]`: threshold and shift `[C]`, scale
    a scalar that is not 0 (a scale per input channel could not leave the popcount). `width`, positive, and `gain`, each
    of the threshold's shape or a scalar, shape the backward pass only: the converter does not read them.
    """

    threshold: Tensor | None = None
    scale: Tensor | None = None
    shift: Tensor | None = None
    width: Tensor | None = None
    gain: Tensor | None = None


class Binarizer(nn.Module):
    """Base of all binarizers: a method overrides `form`, and may set `gradient`.

    `axis` is the axis that the form's vectors run along: 0 for weights, 1 for activations. Backward, `sign(x -
    threshold)` counts as `f((x - threshold) / width)` with the derivative `f' = gain * gradient`; everything else,
    `width` included, is differentiated as written.
    """

    gradient: Gradient = staticmethod(clipped)

    def __init__(self, axis: int) -> None:
        super().__init__()
        self.axis = axis

    def form(self, x: Tensor) -> BinarizerForm:
        """The vectors for the tensor `x`, at the present parameters."""
        return BinarizerForm()

    def anneal(self, progress: float) -> None:
        """Called before each epoch of a training with the share of its epochs that are over, 0 to below 1."""

    def broadcast(self, vector: Tensor, x: Tensor) -> Tensor:
        """`vector` reshaped so that it broadcasts along `axis` of `x`."""
        return broadcast(vector, x, self.axis)

    def signs(self, x: Tensor, form: BinarizerForm) -> Tensor:
        """`sign(x - threshold)` with the pseudo-gradient, in the dtype of `x`."""
        u = x if form.threshold is None else x - self.broadcast(form.threshold, x)
        gain = None if form.gain is None else self.broadcast(form.gain, x)
        if form.width is None:
            signs: Tensor = _Sign.apply(u, None, gain, self.gradient)
        else:
            signs = _Sign.apply(u / self.broadcast(form.width, x), u, gain, self.gradient)
        return signs

    def forward(self, x: Tensor) -> Tensor:
        """`q(x)`, same shape and dtype as `x`."""
        form = self.form(x)
        q = self.signs(x, form)
        q = q if form.scale is None else q * self.broadcast(form.scale, x)
        return q if form.shift is None else q + self.broadcast(form.shift, x)


class Hinge(NamedTuple):
    """`h(x) = (above if x >= threshold else below) * (x - threshold) + bias`, clipped to `[low, high]`.

    The first four are `[C]` or None for their neutral values 1, 1, 0 and 0.
    """

    above: Tensor | None = None
    below: Tensor | None = None
    threshold: Tensor | None = None
    bias: Tensor | None = None
    low: float | None = None
    high: float | None = None


class Pointwise(nn.Module):
    """Base of the per-channel nonlinearities over `[N, C, ...]`: a subclass states its `hinge`."""

    def hinge(self) -> Hinge:
        """The form, at the present parameters."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """`h(x)`, same shape as `x`."""
        above, below, threshold, bias, low, high = self.hinge()
        if threshold is not None:
            x = x - broadcast(threshold, x)
        if above is not None or below is not None:
            # One of the two parts is 0 everywhere, so their sum is exact. On CPUs torch.where, forward and backward,
            # takes three times as long, and the backward pass of clamp ten times that of relu and hardtanh. At 0 the
            # gradient is that of `below`, as in torch's PReLU.
            positive = F.relu(x)
            negative = x - positive
            positive = positive if above is None else positive * broadcast(above, x)
            x = positive + (negative if below is None else negative * broadcast(below, x))
        if bias is not None:
            x = x + broadcast(bias, x)
        return clip(x, low, high)


def clip(x: Tensor, low: float | None, high: float | None) -> Tensor:
    """`x` clipped to `[low, high]`; None is no bound. Where it is clipped, and at the bounds, the gradient is 0."""
    if low is None and high is None:
        return x
    if low == 0 and high is None:
        return F.relu(x)
    return F.hardtanh(x, -math.inf if low is None else low, math.inf if high is None else high)


class Identity(Pointwise):
    """`h(x) = x`."""

    def __init__(self, channels: int) -> None:
        super().__init__()

    def hinge(self) -> Hinge:
        return Hinge()


class ReLU(Identity):
    """`h(x) = max(x, 0)`."""

    def hinge(self) -> Hinge:
        return Hinge(low=0.0)


class Hardtanh(Identity):
    """`h(x)` = x clipped to [-1, 1]."""

    def hinge(self) -> Hinge:
        return Hinge(low=-1.0, high=1.0)


class PReLU(Pointwise):
    """`h(x) = x if x >= 0 else slope * x`, one learned slope per channel, 0.25 at first (arXiv 1502.01852)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.full((channels,), 0.25))

    def hinge(self) -> Hinge:
        return Hinge(below=self.slope)


class RPReLU(PReLU):
    """PReLU with a learned shift before and after, per channel (ReActNet, arXiv 2003.03488)."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.before = nn.Parameter(torch.zeros(channels))
        self.after = nn.Parameter(torch.zeros(channels))

    def hinge(self) -> Hinge:
        return Hinge(below=self.slope, threshold=self.before, bias=self.after)


ACTIVATIONS: dict[str, Callable[[int], Pointwise]] = {
    "identity": Identity,
    "relu": ReLU,
    "hardtanh": Hardtanh,
    "prelu": PReLU,
    "rprelu": RPReLU,
}


@dataclass(frozen=True)
class Method:
    """One way to make a convolution binary.

    `weight(out_channels)` and `activation(in_channels)` build the binarizers (both None: real-valued). `shortcut`:
    `"gated"` (one learned gate per channel), `"fixed"` (gate 1) or `"none"`. `act` is the unit's nonlinearity where the
    recipe names none. The unit is `act(BN(conv(x)) + gate * shortcut(x))`.
    """

    name: str
    weight: Callable[[int], Binarizer] | None
    activation: Callable[[int], Binarizer] | None
    shortcut: str = "gated"
    act: str = "hardtanh"

    def __post_init__(self) -> None:
        if self.shortcut not in ("gated", "fixed", "none"):
            raise BbgError(f"method {self.name!r}: shortcut is {self.shortcut!r}, allowed are gated, fixed, none")
        if (self.weight is None) != (self.activation is None):
            raise BbgError(f"method {self.name!r} binarizes only one of weight and activation; give both or neither")
        if self.act not in ACTIVATIONS:
            raise BbgError(f"method {self.name!r}: act is {self.act!r}, allowed are {', '.join(ACTIVATIONS)}")
