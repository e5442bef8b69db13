"""The unit: one convolution and what stands around it, with the shortcuts that it can have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bbg.errors import BbgError, allowed
from bbg.layers.binary import BinaryConv2d, BinaryLinear
from bbg.methods import ACTIVATIONS, Method, get


class Shortcut(nn.Module):
    """The parameter-free shortcut to `[N, channels, height, width]`, defined for every shape.

    Over space: adaptive average pooling. Over channels: wider, output c takes input `c mod in`; narrower, output c
    takes the mean of the inputs congruent to c modulo `channels`.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """`x` `[N, C, H, W]` brought to `[N, channels, *size]`; in float32 under autocast too."""
        if x.dtype in (torch.bfloat16, torch.float16):
            x = x.float()  # the stream that passes the convolutions; and torch 2.14 compiles a pool of bf16 wrongly
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
