"""8-bit layers: the stock layers of torch, computed in training as the engine computes them later.

An input x of channel c becomes a byte u, and a weight w of filter o a signed integer q, of at most 127:

    x ~ s_c u + b_c          u = round(clip((x - b_c) / s_c, 0, 255)),  halves to even
    w s_c ~ a_o q            q = round(w s_c / a_o),                    a_o = max |w s_c| / 127 over the filter

With the byte that stands nearest to 0, z_c = clip(round(-b_c / s_c), 0, 255), and b'_c = b_c + s_c z_c,

    conv(x, w)  ~  a_o conv(u - z, q)  +  conv(b', w'),    w'_oc = a_o q_oc / s_c
                   an exact integer       the same for every image

A padded tap adds 0 to both convolutions. Sums of integers are exact in float32 up to 2^24, which sums of a thousand
products hardly reach; so no rounding is left for the conversion. Counting from z keeps the sums small.

Gradients go straight through the roundings, and are 0 for an input outside of the range, whose scale and offset learn
from it then (Esser et al., arXiv 1902.08153; Bhalgat et al., arXiv 2004.09576).
"""

from __future__ import annotations

import math
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bbg.errors import BbgError
from bbg.layers.stock import arguments_of

LEVELS = 255  # steps of a byte
MOST = 127  # the largest integer of a weight
MOMENTUM = 0.1  # of the running range
TINY = 1e-8


class _Byte(nn.Module):
    """What the two 8-bit layers share: the ranges of the inputs, and the arithmetic around the product of integers.

    `low` and `high` `[C]`: the range of each channel of the input, a running average over the `batches` that were
    recorded. Behind the recording the range is learned, relative to the recorded one:

        s = (high - low) exp(stretch) / 255        b = low + (high - low) shift

    `recording`: whether a forward in training mode records (a training sets it, epoch by epoch); it learns otherwise.
    `fixed`: the range is that of pixels, `fix` set it.
    """

    weight: Tensor
    bias: Any  # a tensor or None: torch declares it differently in its two layers
    low: Tensor
    high: Tensor
    batches: Tensor
    recording = False
    fixed = False

    def _ranges(self, channels: int, device: Any = None) -> None:
        """Ranges of `channels` channels that nothing has been recorded of: those of normalised numbers."""
        self.register_buffer("low", torch.full((channels,), -4.0, device=device))
        self.register_buffer("high", torch.full((channels,), 4.0, device=device))
        self.register_buffer("batches", torch.zeros((), dtype=torch.int64, device=device))
        self.stretch = nn.Parameter(torch.zeros(channels, device=device))
        self.shift = nn.Parameter(torch.zeros(channels, device=device))

    def _take(self, layer: Any) -> Self:
        """Takes over the parameters of `layer`: the very same ones, not copies."""
        self.weight, self.bias = layer.weight, layer.bias
        self.to(layer.weight.device)
        return self.train(layer.training)

    def fix(self, low: Tensor, high: Tensor) -> None:
        """Set the range for good: that of pixels, which are bytes already."""
        with torch.no_grad():
            self.low.copy_(low)
            self.high.copy_(high)
            self.batches.fill_(1)
            for learned in (self.stretch, self.shift):
                learned.zero_()
                learned.requires_grad_(False)
        self.fixed = True

    def quantization(self, factor: float = 1.0) -> tuple[Tensor, Tensor]:
        """Scale s and offset b of the bytes, `[C]`; their gradients are those of the roundings times `factor`."""
        width = (self.high - self.low).clamp(min=TINY)
        stretch, shift = (p * factor + (p * (1 - factor)).detach() for p in (self.stretch, self.shift))
        return width * torch.exp(stretch) / LEVELS, self.low + width * shift

    @torch.no_grad()
    def record(self, x: Tensor) -> None:
        """Bring the running range nearer to that of the batch `x`."""
        channels = self._channels_first(x).float()
        self.batches += 1
        pace = torch.clamp(1 / self.batches, min=MOMENTUM)
        self.low += pace * (channels.amin(1) - self.low)
        self.high += pace * (channels.amax(1) - self.high)

    def integers(self, scale: Tensor) -> tuple[Tensor, Tensor]:
        """The weight as integers q, in float32, and the scale a `[O]` that they have; `scale`: s of the inputs `[C]`.

        A gradient goes straight through the rounding, to weight and `scale`.
        """
        scaled = self.weight * self._of_inputs(scale)
        a = scaled.detach().abs().amax(dim=tuple(range(1, scaled.ndim))) / MOST
        a = torch.where(a > 0, a, 1.0)
        q = scaled / a.reshape(-1, *([1] * (scaled.ndim - 1)))
        return q + (q.detach().round() - q.detach()), a

    def real(self, x: Tensor) -> Tensor:
        """The layer without roundings: what `nn.Conv2d` or `nn.Linear` computes."""
        return self._product(x, self.weight, self.bias)

    def outline(self, x: Tensor) -> Tensor:
        """A tensor of the shape and dtype of `forward(x)`, for `x` on the meta device: no number is computed."""
        return self._product(x, torch.empty_like(self.weight, dtype=x.dtype, device=x.device))

    def _forward(self, x: Tensor) -> Tensor:
        if self.recording and self.training and not self.fixed:
            self.record(x)
        # Scaled as the weights' gradients are (1902.08153). While ranges are recorded it is 0, and not missing: torch's
        # fused SGD cannot take in parameters later.
        factor = 0.0 if self.recording else 1 / math.sqrt(x.numel() / len(self.low) * LEVELS)
        scale, offset = self.quantization(factor)
        u = ((x - self._along_inputs(offset)) / self._along_inputs(scale)).clamp(0, LEVELS)
        u = u + (u.detach().round() - u.detach())
        return self.of_integers(u, *self.integers(scale), scale, offset)

    def of_integers(self, u: Tensor, q: Tensor, a: Tensor, scale: Tensor, offset: Tensor) -> Tensor:
        """The layer of bytes `u`, which stand for `scale * u + offset`, and the weights `q` of the scale `a`."""
        zero = zero_of(scale, offset)
        rounded = q * a.reshape(-1, *([1] * (q.ndim - 1))) / self._of_inputs(scale)
        rest = self._along_inputs(offset + scale * zero)
        tap_bias = self._product(rest.expand(1, *u.shape[1:]), rounded)
        y = self._product(u - self._along_inputs(zero), q) * self._along_outputs(a) + tap_bias
        return y if self.bias is None else y + self._along_outputs(self.bias)

    def _product(self, x: Tensor, w: Tensor, bias: Tensor | None = None) -> Tensor:
        raise NotImplementedError

    def _of_inputs(self, vector: Tensor) -> Tensor:
        """A vector of the channels as each weight meets it, broadcasting over the weight."""
        raise NotImplementedError

    def _along_inputs(self, vector: Tensor) -> Tensor:
        """A vector of the channels, broadcasting over the input."""
        raise NotImplementedError

    def _along_outputs(self, vector: Tensor) -> Tensor:
        """A vector of the outputs, broadcasting over the output."""
        raise NotImplementedError

    def _channels_first(self, x: Tensor) -> Tensor:
        """`x` as `[C, numbers]`."""
        raise NotImplementedError


def zero_of(scale: Tensor, offset: Tensor) -> Tensor:
    """The byte z that stands nearest to 0, `[C]`, for bytes that stand for `scale * u + offset`."""
    return (-offset / scale).detach().clamp(0, LEVELS).round()


def fix_pixels(model: nn.Module, images: Tensor, mean: Tensor, std: Tensor) -> None:
    """Give the 8-bit layers of `model` that read the images the range of pixels, for good.

    A pixel p, an integer, reaches the network as `(p / 255 - mean) / std`: it is a byte already, so nothing is lost.
    `images`: one batch as `model` takes it, which goes through once. `mean`, `std`: per channel, `[C]`.
    """
    reads: list[_Byte] = []

    def look(layer: nn.Module, inputs: Any) -> None:
        x = inputs[0]
        if isinstance(layer, _Byte) and x.data_ptr() == images.data_ptr() and x.shape == images.shape:
            reads.append(layer)

    layers = [module for module in model.modules() if isinstance(module, _Byte)]
    handles = [layer.register_forward_pre_hook(look) for layer in layers]
    modes = [(module, module.training) for module in model.modules()]
    try:
        if layers:
            with torch.no_grad():
                model.eval()(images)
    finally:
        for handle in handles:
            handle.remove()
        for module, mode in modes:
            module.training = mode
    for layer in reads:
        layer.fix(-mean / std, (1 - mean) / std)


class ByteConv2d(_Byte, nn.Conv2d):
    """`nn.Conv2d` with 8-bit weight and input; a padded tap adds 0 to the sums.

    Input `[N, C, H, W]`, output `[N, O, H', W']`, float32. Raises BbgError for a padding mode other than zeros, and for
    sums of more than 65,535 products.
    """

    def __init__(self, in_channels: int, out_channels: int, *args: Any, **kwargs: Any):
        super().__init__(in_channels, out_channels, *args, **kwargs)
        if self.padding_mode != "zeros":
            raise BbgError(f"ByteConv2d: padding_mode is {self.padding_mode!r}, only 'zeros' is allowed")
        _check_products(self.weight)
        self._ranges(in_channels, self.weight.device)

    @classmethod
    def of(cls, layer: nn.Conv2d) -> Self:
        """The 8-bit twin of `layer`, which holds the very same parameters."""
        twin = cls(**arguments_of(layer))
        twin._ranges(layer.in_channels)
        return twin._take(layer)

    def _product(self, x: Tensor, w: Tensor, bias: Tensor | None = None) -> Tensor:
        return F.conv2d(x, w, bias, self.stride, self.padding, self.dilation, self.groups)

    def _of_inputs(self, vector: Tensor) -> Tensor:
        grouped = vector.reshape(self.groups, -1).repeat_interleave(self.out_channels // self.groups, 0)
        return grouped[:, :, None, None]

    def _along_inputs(self, vector: Tensor) -> Tensor:
        return vector.reshape(-1, 1, 1)

    def _along_outputs(self, vector: Tensor) -> Tensor:
        return vector.reshape(-1, 1, 1)

    def _channels_first(self, x: Tensor) -> Tensor:
        return x.transpose(0, 1).flatten(1)

    def forward(self, input: Tensor) -> Tensor:
        """The 8-bit convolution of `input` `[N, C, H, W]`; raises BbgError for any other rank."""
        if input.ndim != 4:
            raise BbgError(f"ByteConv2d takes [N, C, H, W], got {list(input.shape)}; a batch may hold one image")
        return self._forward(input)


class ByteLinear(_Byte, nn.Linear):
    """`nn.Linear` with 8-bit weight and input: `[N, ..., F]` to `[N, ..., O]`.

    `channels`: of the map `[C, H, W]` that was flattened to the features, which has one range per channel. By default
    each feature is a channel. Raises BbgError for channels that do not divide the features.
    """

    def __init__(self, in_features: int, out_features: int, *args: Any, channels: int | None = None, **kwargs: Any):
        super().__init__(in_features, out_features, *args, **kwargs)
        self.channels = in_features if channels is None else channels
        if self.channels < 1 or in_features % self.channels:
            raise BbgError(f"ByteLinear: {channels} channels do not divide the {in_features} features")
        _check_products(self.weight)
        self._ranges(self.channels, self.weight.device)

    @classmethod
    def of(cls, layer: nn.Linear, channels: int | None = None) -> Self:
        """The 8-bit twin of `layer`, which holds the very same parameters."""
        twin = cls(layer.in_features, layer.out_features, bias=False, device="meta", channels=channels)
        twin._ranges(twin.channels)
        return twin._take(layer)

    def _product(self, x: Tensor, w: Tensor, bias: Tensor | None = None) -> Tensor:
        return F.linear(x, w, bias)

    def _of_inputs(self, vector: Tensor) -> Tensor:
        return vector.repeat_interleave(self.in_features // self.channels)

    def _along_inputs(self, vector: Tensor) -> Tensor:
        return self._of_inputs(vector)

    def _along_outputs(self, vector: Tensor) -> Tensor:
        return vector

    def _channels_first(self, x: Tensor) -> Tensor:
        return x.reshape(-1, self.channels, self.in_features // self.channels).transpose(0, 1).flatten(1)

    def forward(self, input: Tensor) -> Tensor:
        """The 8-bit product of `input` `[N, ..., F]`."""
        return self._forward(input)


def _check_products(weight: Tensor) -> None:
    products = weight[0].numel()
    if products > 65535:  # 255 * 128 * 65535 < 2^31: the sum fits 32 bits
        raise BbgError(f"{products:,} products per number are too many for 8 bits, allowed are 65,535")
