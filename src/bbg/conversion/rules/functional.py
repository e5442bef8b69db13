"""Lowering rules of functions that do what a layer does: each is lowered as that layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bbg.conversion.builder import Builder
from bbg.conversion.rules.registry import lowers, rule_of
from bbg.conversion.views import TracedTensor


def _max_pool2d(
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> nn.MaxPool2d:
    return nn.MaxPool2d(kernel_size, stride, padding, dilation, return_indices, ceil_mode)


def _interpolate(
    size: Any = None,
    scale_factor: Any = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> nn.Upsample:
    return nn.Upsample(size, scale_factor, mode, align_corners, recompute_scale_factor)


def _layer_norm(
    normalized_shape: Any, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> nn.LayerNorm:
    layer = nn.LayerNorm(normalized_shape, eps)
    for name, vector in (("weight", weight), ("bias", bias)):
        layer.register_parameter(name, None if vector is None else nn.Parameter(vector.detach()))
    return layer


# The layer of each function, from the arguments behind the input.
LAYER_OF: dict[tuple[Any, ...], Callable[..., nn.Module]] = {
    (F.relu, torch.relu, "relu", "relu_", F.relu_, torch.relu_): lambda inplace=False: nn.ReLU(),
    (F.relu6,): lambda inplace=False: nn.ReLU6(),
    (F.hardtanh, F.hardtanh_): lambda min_val=-1.0, max_val=1.0, inplace=False: nn.Hardtanh(min_val, max_val),
    (F.leaky_relu, F.leaky_relu_): lambda negative_slope=0.01, inplace=False: nn.LeakyReLU(negative_slope),
    (F.max_pool2d,): _max_pool2d,
    (F.avg_pool2d,): nn.AvgPool2d,
    (F.adaptive_avg_pool2d,): nn.AdaptiveAvgPool2d,
    (F.adaptive_max_pool2d,): nn.AdaptiveMaxPool2d,
    (F.interpolate,): _interpolate,
    (F.sigmoid, torch.sigmoid, "sigmoid", "sigmoid_"): nn.Sigmoid,
    (F.tanh, torch.tanh, "tanh", "tanh_"): nn.Tanh,
    (F.silu,): lambda inplace=False: nn.SiLU(),
    (F.hardsigmoid,): lambda inplace=False: nn.Hardsigmoid(),
    (F.hardswish,): lambda inplace=False: nn.Hardswish(),
    (F.gelu,): nn.GELU,
    (F.layer_norm,): _layer_norm,
}


def _as_layer(build: Callable[..., nn.Module]) -> Callable[..., TracedTensor]:
    """The rule of a function that does what the layer `build(*arguments)` does."""

    def rule(builder: Builder, input: TracedTensor, *args: Any, **kwargs: Any) -> TracedTensor:
        try:
            layer = build(*args, **kwargs).eval()
        except TypeError as error:
            raise builder.error(f"with these arguments it cannot be converted ({error})") from None
        lower = rule_of(layer)
        assert lower is not None
        result: TracedTensor = lower(builder, layer, input)
        return result

    return rule


for _targets, _build in LAYER_OF.items():
    lowers(*_targets)(_as_layer(_build))
