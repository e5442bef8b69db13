"""Lowering rules of layers over sequences `[N, C, L]`, which are lines of a map: each is lowered as its 2-D kind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from bbg.conversion.builder import Builder
from bbg.conversion.lines import Lines, lines_of, sequence
from bbg.conversion.rules.conv import conv, window_of
from bbg.conversion.rules.pool import adaptive_avg_pool, adaptive_max_pool, avg_pool, max_pool
from bbg.conversion.rules.registry import lowers
from bbg.conversion.rules.transposed import conv_over_channels, slides_over_channels
from bbg.conversion.views import TracedTensor, View


@lowers(nn.Conv1d, takes_views=True)
def conv_of_sequence(builder: Builder, layer: nn.Conv1d, given: View) -> TracedTensor:
    """Convolution over a sequence -> conv whose kernel has all lines of a channel, as 1 x k where that is one row."""
    if slides_over_channels(layer, given):
        return conv_over_channels(builder, layer, builder.materialize(given))
    groups = layer.groups
    lines = lines_of(builder, given)
    if groups > 1 and (not lines.in_order or lines.x.shape[0] % groups):
        lines = lines_of(builder, given, single=True)
    window = {name: _single(value) for name, value in window_of(builder, layer).items()}
    if len(lines.order) != layer.in_channels:
        raise builder.error(f"its input has {len(lines.order)} channels, not {layer.in_channels}", of_input=True)
    weight = layer.weight.detach()
    if groups == 1:
        weight = weight.clone()
        weight[:, lines.order] = layer.weight.detach()
    weight = weight.unflatten(1, (-1, lines.across))  # [O, C/g, lines, k]
    flat = nn.Conv2d(
        lines.x.shape[0],
        layer.out_channels,
        lines.pair(window["kernel"], lines.across),
        lines.pair(window["stride"], 1),
        lines.pair(window["padding"], 0),
        lines.pair(window["dilation"], 1),
        groups,
        bias=layer.bias is not None,
        device="meta",
    )
    flat.weight = nn.Parameter(weight if lines.along else weight.transpose(2, 3))
    flat.bias = layer.bias
    return sequence(conv(builder, flat, lines.map))


def _pool(kind: type[nn.Module], build: Callable[[Any, Lines], Any], rule: Callable[..., TracedTensor]) -> None:
    """Registers the rule of a pool over sequences, which is what `build` makes of it over the map of its lines."""

    @lowers(kind, takes_views=True)
    def pool(builder: Builder, layer: nn.Module, given: View) -> TracedTensor:
        if getattr(layer, "return_indices", False):
            raise builder.error("return_indices is True; leave it out")
        lines = lines_of(builder, given)
        pooled = rule(builder, build(layer, lines), lines.map)
        return pooled.with_layout(lines.layout(pooled.shape))


def _max_pool(layer: nn.MaxPool1d, lines: Lines) -> nn.MaxPool2d:
    stride = layer.kernel_size if layer.stride is None else layer.stride
    numbers = ((layer.kernel_size, 1), (stride, 1), (layer.padding, 0), (layer.dilation, 1))
    kernel, steps, padding, dilation = (lines.pair(_single(of_line), other) for of_line, other in numbers)
    return nn.MaxPool2d(kernel, steps, padding, dilation, ceil_mode=layer.ceil_mode)


def _avg_pool(layer: nn.AvgPool1d, lines: Lines) -> nn.AvgPool2d:
    numbers = ((layer.kernel_size, 1), (layer.stride, 1), (layer.padding, 0))
    kernel, stride, padding = (lines.pair(_single(of_line), other) for of_line, other in numbers)
    return nn.AvgPool2d(kernel, stride, padding, ceil_mode=layer.ceil_mode, count_include_pad=layer.count_include_pad)


def _size(layer: Any, lines: Lines) -> tuple[int, int]:
    size = _single(layer.output_size)
    return lines.pair(lines.x.indices.shape[1] if size is None else size, lines.across)


_pool(nn.MaxPool1d, _max_pool, max_pool)
_pool(nn.AvgPool1d, _avg_pool, avg_pool)
_pool(nn.AdaptiveAvgPool1d, lambda layer, lines: nn.AdaptiveAvgPool2d(_size(layer, lines)), adaptive_avg_pool)
_pool(nn.AdaptiveMaxPool1d, lambda layer, lines: nn.AdaptiveMaxPool2d(_size(layer, lines)), adaptive_max_pool)


def _single(value: Any) -> Any:
    """The number of a layer that holds it in a tuple of one, or as it is."""
    return value[0] if isinstance(value, (tuple, list)) else value
