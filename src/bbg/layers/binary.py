"""Binary layers: the stock layers of torch with a binarizer in each slot.

`BinaryConv2d(64, 128, 3, padding=1)` takes the arguments of `nn.Conv2d`, and computes

    conv(q_x(x), q_w(w)) + bias,    q(v) = shift + scale * sign(v - threshold).

The scales stand outside the convolution, in training too: sums of +-1 are exact in float32, sums of rounded scales are
not.
"""

from __future__ import annotations

from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bbg.errors import BbgError
from bbg.layers.stock import arguments_of
from bbg.methods import Method, get
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
        return cls(**arguments_of(layer), method=method)._take(layer)

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
