"""Lowering rules of convolutions that are none of maps as they stand: transposed ones, and those over channels."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bbg.conversion.builder import Builder
from bbg.conversion.rules.registry import lowers
from bbg.conversion.views import TracedTensor, View


class _Axis(NamedTuple):
    """One axis of a transposed convolution as a convolution with phases.

    `taps[k]`: phase and place in the new kernel of row k of the old one. `kernel` and `padding`: of the new one.
    `phases`: rows of the result for each row of the convolution. `size`: rows that are wanted of these.
    """

    taps: list[tuple[int, int]]
    kernel: int
    padding: int
    phases: int
    size: int

    @staticmethod
    def of(layer: nn.ConvTranspose2d, axis: int, given: int) -> _Axis:
        """The axis of a map of `given` rows.

        Row k of the kernel adds row i of the map to row `y = s i + d k - p` of the result. Phase r takes the rows
        `y = s q + r`. So it reads row `i = q + t`, `t = (r + p - d k) / s`, for those k for which t is an integer. Rows
        of all phases are those of one convolution: with P rows of padding and a kernel of K rows, t stands at `t + P`,
        and it has `given + 2 P - K + 1` rows.
        """
        s, p, d, size = layer.stride[axis], int(layer.padding[axis]), layer.dilation[axis], layer.kernel_size[axis]
        wanted = (given - 1) * s - 2 * p + d * (size - 1) + layer.output_padding[axis] + 1
        phases = [(d * k - p) % s for k in range(size)]
        steps = [(r + p - d * k) // s for k, r in enumerate(phases)]
        rows = -(-wanted // s)
        padding = max(0, -min(steps), max(steps) + rows - given)
        taps = [(r, t + padding) for r, t in zip(phases, steps, strict=True)]
        return _Axis(taps, given - rows + 2 * padding + 1, padding, s, wanted)


@lowers(nn.ConvTranspose2d)
def conv_transpose(builder: Builder, layer: nn.ConvTranspose2d, x: TracedTensor, *rest: Any) -> TracedTensor:
    """Transposed convolution -> conv that computes every phase of the result, depth_to_space."""
    x = builder.as_nchw(x)
    if rest or layer.padding_mode != "zeros":
        raise builder.error("is given an output size or another padding than zeros; use output_padding")
    rows, columns = (_Axis.of(layer, axis, x.shape[1 + axis]) for axis in (0, 1))
    groups, phases = layer.groups, rows.phases * columns.phases
    weight = layer.weight.detach()  # [I, O/g, kh, kw]
    inputs, filters = weight.shape[0] // groups, weight.shape[1]
    whole = torch.zeros(groups, rows.phases, columns.phases, filters, inputs, rows.kernel, columns.kernel)
    for ky, (i, y) in enumerate(rows.taps):
        for kx, (j, x_) in enumerate(columns.taps):
            whole[:, i, j, :, :, y, x_] = weight[:, :, ky, kx].reshape(groups, inputs, filters).transpose(1, 2)
    whole = whole.flatten(0, 3)
    bias = None if layer.bias is None else layer.bias.detach().reshape(groups, 1, filters).expand(-1, phases, -1)
    flat = None if bias is None else bias.flatten()
    padding = (rows.padding, columns.padding)

    def of_phases(v: Tensor) -> Tensor:
        return F.conv2d(v, whole, flat, padding=padding, groups=groups)

    result = builder.add(
        "conv",
        (x,),
        of_phases,
        suffix=".phases",
        tensors={"weight": whole.permute(0, 2, 3, 1).numpy()},
        parameters={"bias": None if flat is None else flat.double().numpy()},
        kernel=(rows.kernel, columns.kernel),
        padding=padding,
        groups=groups,
        channels=len(whole),
    )
    # Torch's order of [groups, phases, filters] rows becomes [phases, groups, filters], then the map.
    order = torch.arange(len(whole)).reshape(groups, rows.phases, columns.phases, filters)
    height, width = result.shape[1:]
    area = torch.arange(height * width).reshape(height, width)
    moved = order[..., None, None] * height * width + area  # [g, p, q, f, H, W]
    moved = moved.permute(0, 3, 4, 1, 5, 2).reshape(groups * filters, height * rows.phases, width * columns.phases)
    result = builder.as_nchw(result.with_layout(moved))
    if result.shape[1:] == (rows.size, columns.size):
        return result
    return builder.as_nchw(result.with_layout(result.indices[:, : rows.size, : columns.size]))


def slides_over_channels(layer: nn.Conv1d, x: View) -> bool:
    """Whether it is one filter over the channels of `[N, 1, C]`, as ECA has it."""
    if not isinstance(x, TracedTensor) or (layer.in_channels, layer.out_channels) != (1, 1) or x.shape[0] == 1:
        return False
    return x.shape[1:] == (1, 1) and x.indices.shape == (1, x.shape[0]) and x.is_complete


def conv_over_channels(builder: Builder, layer: nn.Conv1d, x: TracedTensor) -> TracedTensor:
    """One filter that slides over the channels, `[N, 1, C]` (ECA) -> conv of 1x1 whose weight is a band."""
    channels = x.shape[0]
    if layer.padding_mode != "zeros":
        raise builder.error(f"padding_mode is {layer.padding_mode!r}; use 'zeros'")
    x = builder.in_channel_order(x.with_layout(x.indices.flatten()))
    x = x.with_layout(x.indices[None])
    band = layer(torch.eye(channels)[:, None])[:, 0].detach().T  # [C', C], with the bias in each
    bias = 0.0 if layer.bias is None else float(layer.bias.detach())
    weight = (band - bias)[:, None, None].numpy()
    return builder.add(
        "conv",
        (x,),
        layer,
        tensors={"weight": np.ascontiguousarray(weight)},
        parameters={"bias": np.full(len(band), bias)},
        layout=torch.arange(len(band))[None],
        kernel=(1, 1),
        channels=len(band),
    )
