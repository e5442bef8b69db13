"""Binary layers: the stock layers of torch with a binarizer in each slot, and the unit that stands around one.

`BinaryConv2d(64, 128, 3, padding=1)` takes the arguments of `nn.Conv2d`, and computes

    conv(q_x(x), q_w(w)) + bias,    q(v) = shift + scale * sign(v - threshold).

The scales stand outside the convolution, in training too: sums of +-1 are exact in float32, sums of rounded scales are
not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bbg.errors import BbgError
from bbg.methods import ACTS, Method, get


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

    def _product(self, x: Tensor, w: Tensor) -> Tensor:
        raise NotImplementedError

    def _forward(self, x: Tensor) -> Tensor:
        # (shift_x + s_x a) * (shift_w + s_w b), a and b being signs, is s_x [ s_w (u * b) + shift_w (u * 1) ] with
        # u = a + shift_x / s_x: with no shift, one product of +-1, and one scale per output channel behind it.
        if self.real_weight:
            y = self._product(self.activation_binarizer(x), self.weight)
            return y if self.bias is None else y + self.bias.reshape(-1, *[1] * (x.ndim - 2))
        xf, wf = self.activation_binarizer.form(x), self.weight_binarizer.form(self.weight)
        u = self.activation_binarizer.signs(x, xf)
        b = self.weight_binarizer.signs(self.weight, wf)
        one = torch.ones((), device=x.device)
        scale = one if xf.scale is None else xf.scale
        if xf.shift is not None:
            u = u + self.activation_binarizer.along(xf.shift / scale, u)

        def along(vector: Tensor) -> Tensor:
            return vector.reshape(-1, *[1] * (x.ndim - 2))

        y = self._product(u, b)
        if wf.scale is not None or xf.scale is not None:
            y = y * along(scale * (one if wf.scale is None else wf.scale)).to(y.dtype)
        if wf.shift is not None:
            y = y + self._product(u, torch.ones_like(b)) * along(scale * wf.shift).to(y.dtype)
        return y if self.bias is None else y + along(self.bias)


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

    def _product(self, x: Tensor, w: Tensor) -> Tensor:
        return F.conv2d(x, w, None, self.stride, self.padding, self.dilation, self.groups)

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

    def _product(self, x: Tensor, w: Tensor) -> Tensor:
        return F.linear(x, w)

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
        return self.norm(self.conv(self.pool(x, size)))


class Unit(nn.Module):
    """One convolution and what the method puts around it: `act(BN(conv(x)) + gate * shortcut(x))`.

    A pool, if any, follows the unit; in methods without a shortcut it stands between convolution and BN. The keyword
    arguments go to the convolution. `gate`: `[out_channels]`, 1 at first. `act` None takes the method's nonlinearity.
    `project`: the shortcut is a `Projection`, in methods that have one.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, *, method: str | Method = "bbg",
                 act: str | None = None, pool: nn.Module | None = None, project: bool = False,
                 **options: Any) -> None:  # fmt: skip
        super().__init__()
        chosen = get(method)
        layer: Callable[..., nn.Module] = nn.Conv2d
        if chosen.weight is not None:
            layer, options = BinaryConv2d, {**options, "method": chosen}
        self.conv = layer(in_channels, out_channels, kernel_size, bias=False, **options)
        self.norm = nn.BatchNorm2d(out_channels)
        self.shortcut: nn.Module | None = None
        if chosen.shortcut != "none":
            self.shortcut = Projection(in_channels, out_channels) if project else Shortcut(out_channels)
        self.gate = nn.Parameter(torch.ones(out_channels)) if chosen.shortcut == "gated" else None
        self.act = pointwise(chosen.act if act is None else act, out_channels)
        self.pool = pool

    def forward(self, x: Tensor) -> Tensor:
        """`[N, C, H, W]` to `[N, O, H', W']`."""
        y = self.conv(x)
        if self.shortcut is None:
            y = y if self.pool is None else self.pool(y)
            return self.act(self.norm(y))
        size = (y.shape[2], y.shape[3])
        y = self.norm(y)
        s = self.shortcut(x, size)
        y = y + (s if self.gate is None else s * self.gate.reshape(-1, 1, 1))
        y = self.act(y)
        return y if self.pool is None else self.pool(y)


def pointwise(name: str, channels: int) -> nn.Module:
    """The nonlinearity called `name` for `channels` channels; BbgError for an unknown name."""
    if name not in ACTS:
        raise BbgError(f"unknown nonlinearity {name!r}; allowed are {', '.join(ACTS)}")
    return ACTS[name](channels)
