"""Lowering rules of functions that do what a layer does: each is lowered as that layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bbg.conversion.builder import Builder
from bbg.conversion.rules.registry import TAKE_VIEWS, lowers, rule_of
from bbg.conversion.views import TracedTensor, View


def _max_pool(layer: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    """What makes the layer by the arguments of its function, whose last two come in another order."""

    def made(
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        dilation: Any = 1,
        ceil_mode: bool = False,
        return_indices: bool = False,
    ) -> nn.Module:
        return layer(kernel_size, stride, padding, dilation, return_indices, ceil_mode)

    return made


def _interpolate(
    size: Any = None,
    scale_factor: Any = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> nn.Upsample:
    if antialias:
        raise TypeError("antialias is True")
    return nn.Upsample(size, scale_factor, mode, align_corners, recompute_scale_factor)


def _layer_norm(
    normalized_shape: Any, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> nn.LayerNorm:
    layer = nn.LayerNorm(normalized_shape, eps)
    _given(layer, weight=weight, bias=bias)
    return layer


def _given(layer: nn.Module, **tensors: Tensor | None) -> None:
    """Give `layer` the tensors that a function was called with; TypeError for one that is not constant."""
    for name, tensor in tensors.items():
        if tensor is not None and not isinstance(tensor, Tensor):
            raise TypeError(f"its {name} depends on the images")
        if name in layer._buffers:
            setattr(layer, name, tensor)
        else:
            layer.register_parameter(name, None if tensor is None else nn.Parameter(tensor.detach()))


def _rms_norm(normalized_shape: Any, weight: Tensor | None = None, eps: float | None = None) -> nn.RMSNorm:
    layer = nn.RMSNorm(normalized_shape, eps)
    _given(layer, weight=weight)
    return layer


def _softmax(layer: type[nn.Module]) -> Callable[..., nn.Module]:
    """The layer of a function that takes more arguments than it."""

    def build(dim: int | None = None, _stacklevel: int = 3, dtype: Any = None) -> nn.Module:
        return layer(dim)

    return build


def _group_norm(
    num_groups: int, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5, *_: Any
) -> nn.GroupNorm:
    layer = nn.GroupNorm(num_groups, num_groups, eps)
    _given(layer, weight=weight, bias=bias)
    return layer


def _instance_norm(
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> nn.Module:
    if not use_input_stats:
        return _batch_norm(running_mean, running_var, weight, bias, False, momentum, eps)
    layer = nn.InstanceNorm2d(1, eps)
    _given(layer, weight=weight, bias=bias)
    return layer


class _BatchNorm(nn.BatchNorm2d):
    """Of maps and of features alike, as the function is."""

    def _check_input_dim(self, input: Tensor) -> None:
        pass


def _batch_norm(
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> nn.BatchNorm2d:
    if training or running_mean is None or running_var is None:
        raise TypeError("in evaluation, too, it normalises by the images of a batch")
    layer = _BatchNorm(1, eps)
    _given(layer, running_mean=running_mean, running_var=running_var, weight=weight, bias=bias)
    return layer


def _torch_batch_norm(
    weight: Any,
    bias: Any,
    running_mean: Any,
    running_var: Any,
    training: bool,
    momentum: float,
    eps: float,
    cudnn_enabled: bool,
) -> nn.BatchNorm2d:
    return _batch_norm(running_mean, running_var, weight, bias, training, momentum, eps)


def _conv(kind: type[nn.Conv1d] | type[nn.Conv2d]) -> Callable[..., nn.Module]:
    """The layer of a convolution over so many axes."""

    def build(
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> nn.Module:
        if not isinstance(weight, Tensor):
            raise TypeError("its weight depends on the images")
        filters, inputs, *kernel = weight.shape
        size: Any = tuple(kernel)
        layer = kind(inputs * groups, filters, size, stride, padding, dilation, groups, bias=False, device="meta")
        _given(layer, weight=weight, bias=bias)
        return layer

    return build


def _conv_transpose2d(
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> nn.ConvTranspose2d:
    if not isinstance(weight, Tensor):
        raise TypeError("its weight depends on the images")
    inputs, filters, *kernel = weight.shape
    size = (kernel[0], kernel[1])
    window = (size, stride, padding, output_padding, groups, False, dilation)
    layer = nn.ConvTranspose2d(inputs, filters * groups, *window, device="meta")
    _given(layer, weight=weight, bias=bias)
    return layer


def _linear(weight: Tensor, bias: Tensor | None = None) -> nn.Linear:
    layer = nn.Linear(1, 1)
    _given(layer, weight=weight, bias=bias)
    if weight.ndim != 2:
        raise TypeError(f"its weight has the shape {list(weight.shape)}")
    layer.out_features, layer.in_features = weight.shape
    return layer


# The layer of each function, from the arguments behind the input.
LAYER_OF: dict[tuple[Any, ...], Callable[..., nn.Module]] = {
    (F.relu, torch.relu, "relu", "relu_", F.relu_, torch.relu_): lambda inplace=False: nn.ReLU(),
    (F.relu6,): lambda inplace=False: nn.ReLU6(),
    (F.hardtanh, F.hardtanh_): lambda min_val=-1.0, max_val=1.0, inplace=False: nn.Hardtanh(min_val, max_val),
    (F.leaky_relu, F.leaky_relu_): lambda negative_slope=0.01, inplace=False: nn.LeakyReLU(negative_slope),
    (F.max_pool2d,): _max_pool(nn.MaxPool2d),
    (F.avg_pool2d,): nn.AvgPool2d,
    (F.max_pool1d, torch.max_pool1d): _max_pool(nn.MaxPool1d),
    (F.avg_pool1d, torch.avg_pool1d): nn.AvgPool1d,
    (F.adaptive_avg_pool1d, torch.adaptive_avg_pool1d): nn.AdaptiveAvgPool1d,
    (F.adaptive_max_pool1d,): nn.AdaptiveMaxPool1d,
    (F.adaptive_avg_pool2d,): nn.AdaptiveAvgPool2d,
    (F.adaptive_max_pool2d,): nn.AdaptiveMaxPool2d,
    (F.interpolate,): _interpolate,
    (F.sigmoid, torch.sigmoid, "sigmoid", "sigmoid_"): nn.Sigmoid,
    (F.tanh, torch.tanh, "tanh", "tanh_"): nn.Tanh,
    (F.silu,): lambda inplace=False: nn.SiLU(),
    (F.hardsigmoid,): lambda inplace=False: nn.Hardsigmoid(),
    (F.hardswish,): lambda inplace=False: nn.Hardswish(),
    (F.gelu,): nn.GELU,
    (F.mish,): lambda inplace=False: nn.Mish(),
    (F.softshrink,): nn.Softshrink,
    (F.softplus,): nn.Softplus,
    (F.logsigmoid,): nn.LogSigmoid,
    (F.elu, F.elu_): lambda alpha=1.0, inplace=False: nn.ELU(alpha),
    (F.celu, F.celu_): lambda alpha=1.0, inplace=False: nn.CELU(alpha),
    (F.selu, F.selu_): lambda inplace=False: nn.SELU(),
    (F.softmax, torch.softmax, "softmax"): _softmax(nn.Softmax),
    (F.log_softmax, torch.log_softmax, "log_softmax"): _softmax(nn.LogSoftmax),
    (F.group_norm, torch.group_norm): _group_norm,
    (F.instance_norm,): _instance_norm,
    (F.local_response_norm,): nn.LocalResponseNorm,
    (F.conv1d, torch.conv1d): _conv(nn.Conv1d),
    (F.conv_transpose2d, torch.conv_transpose2d): _conv_transpose2d,
    (F.layer_norm,): _layer_norm,
    (F.rms_norm,): _rms_norm,
    (F.batch_norm,): _batch_norm,
    (torch.batch_norm,): _torch_batch_norm,
    (F.conv2d, torch.conv2d): _conv(nn.Conv2d),
    (F.linear,): _linear,
}


def _as_layer(build: Callable[..., nn.Module]) -> Callable[..., TracedTensor]:
    """The rule of a function that does what the layer `build(*arguments)` does."""

    def rule(builder: Builder, input: View, *args: Any, **kwargs: Any) -> TracedTensor:
        try:
            layer = build(*args, **kwargs).eval()
        except TypeError as error:
            raise builder.error(f"with these arguments it cannot be converted ({error}); call it otherwise") from None
        lower = rule_of(layer)
        assert lower is not None
        if lower not in TAKE_VIEWS:
            input = builder.materialize(input)
        result: TracedTensor = lower(builder, layer, input)
        return result

    return rule


for _targets, _build in LAYER_OF.items():
    lowers(*_targets, takes_views=True)(_as_layer(_build))
