"""Binary layers: the stock layers of torch with a binarizer in each slot, and the unit that stands around one.

`BinaryConv2d(64, 128, 3, padding=1)` takes the arguments of `nn.Conv2d`, and computes

    conv(q_x(x), q_w(w)) + bias,    q(v) = shift + scale * sign(v - threshold).

The scales stand outside the convolution, in training too: sums of +-1 are exact in float32, sums of rounded scales are
not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bbg.errors import BbgError, allowed
from bbg.methods import ACTIVATIONS, Method, get
from bbg.methods.base import broadcast


class _Binary(nn.Module):
    """What the two binary layers share: the slots, and the arithmetic around the product of signs."""

    weight: Tensor
    bias: Any  # a tensor or None: torch declares it differently in its two layers
    real_weight = False  # True while a training keeps the weight as it is and binarizes the input alone

    def _slots(self, method: str | Method, inputs: int, outputs: int) -> None:
        chosen = get(method)
        if chosen.weight is None or chosen.activation is None:
            raise BbgError(f"method {chosen.name!r} has no binarizers; use torch's own layer, or a binary method")
        self.weight_binarizer = chosen.weight(outputs)
        self.activation_binarizer = chosen.activation(inputs)

    def _take(self, layer: nn.Conv2d | nn.Linear) -> Self:
        """Takes over the parameters of `layer`: the very same ones, not copies."""
        self.weight, self.bias = layer.weight, layer.bias
        for binarizer in (self.weight_binarizer, self.activation_binarizer):
            binarizer.to(layer.weight.device, layer.weight.dtype)
        return self.train(layer.training)

    def _product(self, x: Tensor, w: Tensor, bias: Tensor | None = None) -> Tensor:
        raise NotImplementedError

    def real(self, x: Tensor) -> Tensor:
        """The layer with the identity for both binarizers: what `nn.Conv2d` or `nn.Linear` computes."""
        return self._product(x, self.weight, self.bias)

    def outline(self, x: Tensor) -> Tensor:
        """A tensor of the shape and dtype of `forward(x)`, for `x` on the meta device: no number is computed."""
        return self._product(x, torch.empty_like(self.weight, dtype=x.dtype, device=x.device))

    def _forward(self, x: Tensor) -> Tensor:
        # (shift_x + s_x a) * (shift_w + s_w b), a and b being signs, is s_x [ s_w (u * b) + shift_w (u * 1) ] with
        # u = a + shift_x / s_x: with no shift, one product of +-1, and one scale per output channel behind it.
        if self.real_weight:
            y = self._product(self.activation_binarizer(x), self.weight)
            return y if self.bias is None else y + broadcast(self.bias, y)
        xf, wf = self.activation_binarizer.form(x), self.weight_binarizer.form(self.weight)
        u = self.activation_binarizer.signs(x, xf)
        b = self.weight_binarizer.signs(self.weight, wf)
        one = torch.ones((), device=x.device)
        scale = one if xf.scale is None else xf.scale
        if xf.shift is not None:
            u = u + self.activation_binarizer.broadcast(xf.shift / scale, u)
        y = self._product(u, b)
        if wf.scale is not None or xf.scale is not None:
            y = y * broadcast(scale * (one if wf.scale is None else wf.scale), y).to(y.dtype)
        if wf.shift is not None:
            y = y + self._product(u, torch.ones_like(b)) * broadcast(scale * wf.shift, y).to(y.dtype)
        return y if self.bias is None else y + broadcast(self.bias, y)


class BinaryConv2d(_Binary, nn.Conv2d):
    """`nn.Conv2d` with binarized weight and input; zero padding adds 0 to the sums, exactly.

    Input `[N, C, H, W]`, output `[N, O, H', W']`, dtype as the input's. `method` names the binarizers (bbg.methods).
    Raises BbgError for a padding mode other than zeros or a method without binarizers.
    """

    def __init__(self, in_channels: int, out_channels: int, *args: Any, method: str | Method = "bbg", **kwargs: Any):
        super().__init__(in_channels, out_channels, *args, **kwargs)
        if self.padding_mode != "zeros":
            raise BbgError(f"BinaryConv2d: padding_mode is {self.padding_mode!r}, only 'zeros' is allowed")
        self._slots(method, in_channels, out_channels)

    @classmethod
    def of(cls, layer: nn.Conv2d, method: str | Method = "bbg") -> Self:
        """The binary twin of `layer`, which holds the very same parameters."""
        return cls(
            layer.in_channels,
            layer.out_channels,
            layer.kernel_size,
            layer.stride,
            layer.padding,
            layer.dilation,
            layer.groups,
            bias=False,
            padding_mode=layer.padding_mode,
            device="meta",
            method=method,
        )._take(layer)

    def _product(self, x: Tensor, w: Tensor, bias: Tensor | None = None) -> Tensor:
        return F.conv2d(x, w, bias, self.stride, self.padding, self.dilation, self.groups)

    def forward(self, input: Tensor) -> Tensor:
        """The binary convolution of `input` `[N, C, H, W]`; raises BbgError for any other rank."""
        if input.ndim != 4:
            raise BbgError(f"BinaryConv2d takes [N, C, H, W], got {list(input.shape)}; a batch may hold one image")
        return self._forward(input)


class BinaryLinear(_Binary, nn.Linear):
    """`nn.Linear` with binarized weight and input: `[N, C]` to `[N, O]`."""

    def __init__(self, in_features: int, out_features: int, *args: Any, method: str | Method = "bbg", **kwargs: Any):
        super().__init__(in_features, out_features, *args, **kwargs)
        self._slots(method, in_features, out_features)

    @classmethod
    def of(cls, layer: nn.Linear, method: str | Method = "bbg") -> Self:
        """The binary twin of `layer`, which holds the very same parameters."""
        twin = cls(layer.in_features, layer.out_features, bias=False, device="meta", method=method)
        return twin._take(layer)

    def _product(self, x: Tensor, w: Tensor, bias: Tensor | None = None) -> Tensor:
        return F.linear(x, w, bias)

    def forward(self, input: Tensor) -> Tensor:
        """The binary product of `input` `[N, C]`; raises BbgError for any other rank."""
        if input.ndim != 2:
            raise BbgError(f"BinaryLinear takes [N, C], got {list(input.shape)}; flatten the input first")
        return self._forward(input)


class Shortcut(nn.Module):
    """The parameter-free shortcut to `[N, channels, height, width]`, defined for every shape.

    Over space: adaptive average pooling. Over channels: wider, output c takes input `c mod in`; narrower, output c
    takes the mean of the inputs congruent to c modulo `channels`.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """`x` `[N, C, H, W]` brought to `[N, channels, *size]`."""
        if x.shape[2:] != size:
            x = F.adaptive_avg_pool2d(x, size)
        have, want = x.shape[1], self.channels
        if have < want:
            x = x.repeat(1, -(-want // have), 1, 1)[:, :want]
        elif have > want:
            rounds = -(-have // want)
            padded = F.pad(x, (0, 0, 0, 0, 0, rounds * want - have))
            counts = torch.full((want, 1, 1), rounds - 1, dtype=x.dtype, device=x.device)
            counts[: have - (rounds - 1) * want] += 1
            x = padded.unflatten(1, (rounds, want)).sum(1) / counts
        return x


class Projection(nn.Module):
    """The learned shortcut to `[N, channels, height, width]`: average pooling, a real-valued 1x1 convolution and BN."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.pool = Shortcut(in_channels)
        self.conv = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """`x` `[N, C, H, W]` brought to `[N, channels, *size]`."""
        y: Tensor = self.norm(self.conv(self.pool(x, size)))
        return y


class Unit(nn.Module):
    """One convolution and what stands around it: `act(norm(conv(x)) + gate * shortcut(x))`, then the pool.

    Without a shortcut (None): `act(norm(pool(conv(x))))`. `gate`: one number per output channel, or None for 1. `act`
    and `pool` may be None. Input `[N, C, H, W]`, output `[N, O, H', W']`.

    `Unit.build` makes one with new layers, as a method wants it; `Unit.around` makes one of a layer that exists.
    """

    gate: nn.Parameter | None

    def __init__(
        self,
        conv: nn.Module,
        norm: nn.Module,
        shortcut: nn.Module | None = None,
        gate: Tensor | None = None,
        act: nn.Module | None = None,
        pool: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.conv = conv
        self.norm = norm
        self.shortcut = shortcut
        self.gate = None if gate is None else nn.Parameter(gate)
        self.act = act
        self.pool = pool

    @staticmethod
    def build(
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        method: str | Method = "bbg",
        act: str | None = None,
        pool: nn.Module | None = None,
        project: bool = False,
        **options: Any,
    ) -> Unit:
        """A unit of new layers; `options` go to the convolution.

        `act`: the name of a nonlinearity, None for the method's own. `project`: the shortcut is a `Projection`, in
        methods that have one. Raises BbgError for an unknown method or nonlinearity.
        """
        chosen = get(method)
        layer: Callable[..., nn.Module] = nn.Conv2d
        if chosen.weight is not None:
            layer, options = BinaryConv2d, {**options, "method": chosen}
        conv = layer(in_channels, out_channels, kernel_size, bias=False, **options)
        shortcut: nn.Module | None = None
        if chosen.shortcut != "none":
            shortcut = Projection(in_channels, out_channels) if project else Shortcut(out_channels)
        gate = torch.ones(out_channels) if chosen.shortcut == "gated" else None
        nonlinearity = pointwise(chosen.act if act is None else act, out_channels)
        return Unit(conv, nn.BatchNorm2d(out_channels), shortcut, gate, nonlinearity, pool)

    @staticmethod
    def around(
        layer: nn.Conv2d | nn.Linear,
        norm: nn.Module | None = None,
        *,
        method: str | Method = "bbg",
        shape: tuple[int, int, int] | None = None,
    ) -> Unit:
        """The unit of the binary twin of `layer`, without a nonlinearity: `BN(conv(x)) + gate * shortcut(x)`.

        The parameters are those of `layer`; `norm` is the BN behind it, None for a new one. `shape`: `[C, H, W]` of the
        map that was flattened to the features of a linear layer, None where each feature is a channel.
        """
        chosen = get(method)
        outputs = layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels
        device, dtype = layer.weight.device, layer.weight.dtype
        if norm is None:
            build = nn.BatchNorm1d if isinstance(layer, nn.Linear) else nn.BatchNorm2d
            norm = build(outputs, device=device, dtype=dtype).train(layer.training)
        shortcut = None if chosen.shortcut == "none" else Shortcut(outputs).train(layer.training)
        gate = torch.ones(outputs, device=device, dtype=dtype) if chosen.shortcut == "gated" else None
        if isinstance(layer, nn.Linear):
            shape = (layer.in_features, 1, 1) if shape is None else shape
            unit: Unit = LinearUnit(BinaryLinear.of(layer, chosen), norm, shortcut, gate, shape=shape)
        else:
            unit = Unit(BinaryConv2d.of(layer, chosen), norm, shortcut, gate)
        unit.training = layer.training  # and not that of `norm`, which keeps its own
        return unit

    def forward(self, x: Tensor) -> Tensor:
        """`x` through the convolution and everything around it."""
        y: Tensor = self.conv(x)
        if self.shortcut is None:
            return _through(self.act, self.norm(_through(self.pool, y)))
        y = _through(self.act, self.norm(y) + self.residual(x, y))
        return _through(self.pool, y)

    def residual(self, x: Tensor, y: Tensor) -> Tensor:
        """`gate * shortcut(x)`, brought to the shape of the convolution's output `y`; there is a shortcut."""
        assert self.shortcut is not None
        return self._gated(self.shortcut(x, (y.shape[2], y.shape[3])))

    def _gated(self, s: Tensor) -> Tensor:
        return s if self.gate is None else s * self.gate.reshape(-1, 1, 1)


class LinearUnit(Unit):
    """A unit around a linear layer, `[N, C]` to `[N, O]`.

    The layer counts as a convolution whose kernel is the whole map: `shape` is the `[C, H, W]` that was flattened to
    its features, and its shortcut is the average over that map, brought to the number of outputs.
    """

    def __init__(
        self,
        linear: nn.Module,
        norm: nn.Module,
        shortcut: nn.Module | None,
        gate: Tensor | None,
        *,
        shape: tuple[int, int, int],
    ) -> None:
        super().__init__(linear, norm, shortcut, gate)
        self.shape = shape

    def residual(self, x: Tensor, y: Tensor) -> Tensor:
        """`gate * shortcut(map)`, flattened to the shape of `y`."""
        assert self.shortcut is not None
        return self._gated(self.shortcut(x.unflatten(1, self.shape), (1, 1))).flatten(1)


def _through(module: nn.Module | None, x: Tensor) -> Tensor:
    """`module(x)`, or `x` where there is no module."""
    return x if module is None else cast(Tensor, module(x))


def pointwise(name: str, channels: int) -> nn.Module:
    """The nonlinearity called `name` for `channels` channels; BbgError for an unknown name."""
    if name not in ACTIVATIONS:
        raise BbgError(f"unknown nonlinearity {name!r}; {allowed(name, ACTIVATIONS)}")
    return ACTIVATIONS[name](channels)
