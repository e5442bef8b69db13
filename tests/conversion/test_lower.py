"""The lowering rules: what torch computes by layers and by functions, the engine computes too."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support.lowering import EXAMPLE, Functional
from torch import nn

import bbg
from bbg.conversion.rules.registry import FUNCTIONS, LAYERS
from bbg.layers import BinaryConv2d, BinaryLinear
from bbg.tracing.vocabulary import Trait, ops_with

torch.set_num_threads(1)  # small maps


def last(x: torch.Tensor) -> torch.Tensor:
    """`[N, C, H, W]` as `[N, H, W, C]`."""
    return x.permute(0, 2, 3, 1)


def first(x: torch.Tensor) -> torch.Tensor:
    """`[N, H, W, C]` as `[N, C, H, W]`."""
    return x.permute(0, 3, 1, 2)


def turned(x: torch.Tensor) -> torch.Tensor:
    """The means of the maps of four channels, in another order."""
    return x.mean((2, 3)).view(x.size(0), 2, 2).transpose(1, 2).flatten(1)


def four(x: torch.Tensor, c: nn.Module) -> torch.Tensor:
    return torch.cat([c(x), x[:, :1]], 1)


def shuffled(x: torch.Tensor, groups: int) -> torch.Tensor:
    """Channels of `groups` groups in turn, as ShuffleNet has it."""
    n, c, h, w = x.size()
    return x.view(n, groups, c // groups, h, w).transpose(1, 2).contiguous().view(n, c, h, w)


FOREIGN: dict[str, Callable[..., object]] = {
    "relu": lambda x, c: F.relu(c(x)),
    "torch.relu": lambda x, c: torch.relu(c(x)),
    ".relu": lambda x, c: c(x).relu(),
    "relu6": lambda x, c: F.relu6(c(x)),
    "hardtanh": lambda x, c: F.hardtanh(c(x), -0.5, 0.25),
    "leaky_relu": lambda x, c: F.leaky_relu(c(x), 0.3),
    "clamp": lambda x, c: torch.clamp(c(x), max=0.5),
    "max_pool2d": lambda x, c: F.max_pool2d(c(x), 3, 2, 1, ceil_mode=True),
    "avg_pool2d": lambda x, c: F.avg_pool2d(c(x), (2, 3), 1, (1, 0)),
    "adaptive_avg_pool2d": lambda x, c: F.adaptive_avg_pool2d(c(x), (3, 5)),
    "dropout": lambda x, c: F.dropout(c(x), 0.5, False),
    "flatten": lambda x, c: torch.flatten(c(x), 1),
    ".flatten": lambda x, c: c(x).flatten(1),
    "view": lambda x, c: (lambda y: y.view(y.size(0), -1))(c(x)),
    "reshape": lambda x, c: (lambda y: y.reshape(y.shape[0], y.shape[1] * y.shape[2] * y.shape[3]))(c(x)),
    "mean": lambda x, c: c(x).mean([2, 3]),
    "mean, kept": lambda x, c: c(x).mean((-1, -2), keepdim=True),
    "mean of [N, H, W, C]": lambda x, c: last(c(x)).mean((1, 2)),
    "mean of [N, H, W, C], kept": lambda x, c: last(c(x)).mean((1, 2), keepdim=True).permute(0, 3, 1, 2),
    "iadd": lambda x, c: c(x).add_(c(x)),
    "sub": lambda x, c: c(x) - x,
    "isub of a constant": lambda x, c: c(x).sub_(0.25),
    "a constant minus": lambda x, c: 1.5 - c(x),
    "neg": lambda x, c: -c(x),
    "div": lambda x, c: c(x) / torch.tensor([2.0, 3.0, -0.7]).reshape(3, 1, 1),
    "product": lambda x, c: c(x) * c(c(x)),
    "square": lambda x, c: c(x) * c(x),
    "squeeze and excite": lambda x, c: c(x) * torch.sigmoid(c(F.adaptive_avg_pool2d(x, 1))),
    "excite first": lambda x, c: F.hardsigmoid(c(F.adaptive_avg_pool2d(x, 1))) * c(x),
    "product of [N, H, W, C]": lambda x, c: (last(c(x)) * last(c(x)).mean((1, 2), True)).permute(0, 3, 1, 2),
    "sigmoid": lambda x, c: torch.sigmoid(3 * c(x)),
    "tanh": lambda x, c: c(x).tanh(),
    "silu": lambda x, c: F.silu(4 * c(x)),
    "hardswish": lambda x, c: F.hardswish(4 * c(x)),
    "gelu": lambda x, c: F.gelu(3 * c(x)),
    "gelu by tanh": lambda x, c: F.gelu(3 * c(x), approximate="tanh"),
    "silu of a flat map": lambda x, c: F.silu(c(x).flatten(1)),
    "layer_norm": lambda x, c: F.layer_norm(last(c(x)), (3,)).permute(0, 3, 1, 2),
    "batch_norm": lambda x, c: F.batch_norm(c(x), c.bias, c.bias**2 + 0.5, 1 + c.bias, c.bias, eps=0.1),
    "batch_norm, bare, of features": lambda x, c: F.batch_norm(c(x).mean((2, 3)), c.bias, c.bias**2 + 0.5),
    "torch.batch_norm": lambda x, c: torch.batch_norm(
        c(x), c.bias + 1, c.bias, c.bias, c.bias**2 + 0.5, False, 0.1, 1e-3, True
    ),
    "linear": lambda x, c: F.linear(c(x).mean((2, 3)), c.weight[:, :, 0, 1], c.bias),
    "linear of pixels, without bias": lambda x, c: first(F.linear(last(c(x)), c.weight[:, :, 1, 0])),
    "cat": lambda x, c: torch.cat([c(x), x, c(c(x))], 1),
    "cat of [N, H, W, C]": lambda x, c: torch.cat((last(x), last(c(x))), -1).permute(0, 3, 1, 2),
    "cat of features": lambda x, c: torch.cat([c(x).mean((2, 3)), x.mean((2, 3))], dim=1),
    "cat of one": lambda x, c: torch.cat([c(x)], 1),
    "chunk": lambda x, c: (lambda y: y[0] + y[2])(torch.chunk(c(x), 3, 1)),
    "split": lambda x, c: (lambda y: torch.cat([y[1], y[0]], 1))(torch.split(c(x), [1, 2], 1)),
    "slices": lambda x, c: c(x)[:, 1:] * c(x)[:, :2],
    "a channel": lambda x, c: c(x)[:, 1:2],
    "unbind": lambda x, c: c(x).unbind(1)[2].unsqueeze(1),
    "channel shuffle": lambda x, c: shuffled(torch.cat([c(x), x], 1), 3),
    "shuffle, then a product": lambda x, c: shuffled(torch.cat([c(x), x], 1), 2) * torch.cat([x, x], 1),
    "an activation of a shuffle": lambda x, c: F.relu(shuffled(torch.cat([c(x), x], 1), 2)),
    "mean of a shuffle": lambda x, c: shuffled(torch.cat([c(x), x], 1), 2).mean((2, 3)),
    "squeeze and excite of a shuffle": lambda x, c: (lambda y: y * y.mean((2, 3), keepdim=True))(c(x)[:, [2, 0, 1]]),
    "layer_norm of a shuffle": lambda x, c: first(F.layer_norm(last(shuffled(torch.cat([c(x), x], 1), 2)), (6,))),
    "cat of shuffled [N, H, W, C]": lambda x, c: first(torch.cat([last(c(x)), last(c(x)[:, [1, 2, 0]])], 3)),
    "sum of shuffled [N, H, W, C]": lambda x, c: first(last(c(x)) - last(c(x)[:, [1, 2, 0]])),
    "there and back": lambda x, c: c(x).flatten(2).transpose(1, 2).transpose(1, 2).unflatten(2, (16, 16)),
    "features as a map": lambda x, c: c(x.mean((2, 3))[:, :, None, None]),
    "features in another order": lambda x, c: (lambda y: torch.cat([turned(y), y.mean((2, 3))], 1))(four(x, c)),
    "a product of features in two orders": lambda x, c: (lambda y: turned(y) * y.mean((2, 3)) - turned(y))(four(x, c)),
    "in place, read again": lambda x, c: (lambda y: torch.cat([F.relu(y, inplace=True), y, y + 1], 1))(c(x)),
    "in place": lambda x, c: F.leaky_relu_(c(x), 0.2).clamp_(-0.5, 0.75).tanh_(),
    "copies": lambda x, c: c(x).clone().float() + x.detach().type_as(x),
    "cat by axis": lambda x, c: torch.concatenate([c(x), x], axis=1),
    "chunks in a list": lambda x, c: torch.cat(list(torch.cat([c(x), x], 1).chunk(2, 1))[::-1], 1),
    "nearest": lambda x, c: F.interpolate(c(x), scale_factor=2, mode="nearest"),
    "nearest to a size": lambda x, c: F.interpolate(c(x), size=(32, 48)),
    "adaptive_max_pool2d": lambda x, c: F.adaptive_max_pool2d(c(x), (4, 1)),
    "by name": lambda x, c: torch.add(input=c(x), other=1) - torch.mul(c(x), other=x),
    "some features": lambda x, c: c(x).mean((2, 3))[:, 1:],
    "a constant of [N, H, W, C]": lambda x, c: (last(c(x)) * torch.tensor([1.0, 2.0, -3.0])).permute(0, 3, 1, 2),
    "a layer used twice": lambda x, c: c(c(x)) + x,
    "gate": lambda x, c: c(x) * torch.arange(3.0).reshape(3, 1, 1),
    "a dict": lambda x, c: {"map": c(x), "vector": c(x).flatten(1)},
}


# Each spelling of an activation that has a rule and needs no argument but its input.
ACTIVATIONS: dict[str, Callable[[torch.Tensor], object]] = {
    f"{op.name} as {'layer' if as_layer else 'function'} {i}": spelling() if as_layer else spelling
    for op in ops_with(Trait.ACTIVATION)
    for as_layer in (True, False)
    for i, spelling in enumerate(op.modules if as_layer else op.functions)
    if spelling in (LAYERS if as_layer else FUNCTIONS)
    and op.name not in ("hinge", "clamp", "clamp_min")
    and spelling not in (F.prelu, torch.prelu)
}


@pytest.mark.parametrize("case", ACTIVATIONS)
def test_activations(case: str, tmp_path: Path) -> None:
    spelling, conv = ACTIVATIONS[case], nn.Conv2d(3, 3, 3, padding=1)
    layers = (spelling,) if isinstance(spelling, nn.Module) else ()
    model = Functional(lambda x, c, layer=spelling: layer(4 * c(x)), conv, *layers)
    bbg.convert(model, tmp_path / "net.bbg", EXAMPLE)
    with torch.no_grad():
        wanted = model(EXAMPLE).numpy()
    assert np.abs(bbg.load(tmp_path / "net.bbg")(EXAMPLE.numpy()) - wanted).max() <= 1e-5 * np.abs(wanted).max()


@pytest.mark.parametrize("case", FOREIGN)
def test_functions(case: str, tmp_path: Path) -> None:
    model = Functional(FOREIGN[case], nn.Conv2d(3, 3, 3, padding=1))
    bbg.convert(model, tmp_path / "net.bbg", EXAMPLE)
    given = bbg.load(tmp_path / "net.bbg")(EXAMPLE.numpy())
    with torch.no_grad():
        wanted = model(EXAMPLE)
    pairs = [(given[k], wanted[k]) for k in wanted] if isinstance(wanted, dict) else [(given, wanted)]
    for a, b in pairs:
        assert a.shape == tuple(b.shape)
        assert np.abs(a - b.numpy()).max() <= 1e-5 * b.abs().max()


class LinearOfLast(nn.Module):
    """A linear layer over the channels of `[N, H, W, C]`, and one over that flattened."""

    def __init__(self, binary: bool) -> None:
        super().__init__()
        self.pointwise, self.norm = nn.Linear(3, 5), nn.LayerNorm(5)
        self.head = (BinaryLinear if binary else nn.Linear)(5 * 16 * 16, 7)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.pointwise(last(x))).flatten(1))


class LinearOfParts(nn.Module):
    """A linear layer over some channels of `[N, H, W, C]` in another order, one over some of its results flattened."""

    def __init__(self, binary: bool) -> None:
        super().__init__()
        self.conv, self.pointwise = nn.Conv2d(3, 4, 1), nn.Linear(3, 5)
        self.head = (BinaryLinear if binary else nn.Linear)(2 * 16 * 16, 7)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.pointwise(last(self.conv(x)[:, [3, 0, 1]]))[..., 2:4].flatten(1))


LAYERS: dict[str, nn.Module] = {
    "a convolution alone": nn.Conv2d(3, 4, 3),
    "padding 'same'": nn.Conv2d(3, 4, (3, 5), padding="same", dilation=(2, 1)),
    "padding 'valid', binary": BinaryConv2d(3, 4, 3, padding="valid"),
    "no affine parameters": nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, affine=False)),
    "a pool of the input": nn.Sequential(nn.MaxPool2d(2), nn.AdaptiveAvgPool2d((None, 3))),
    "a binary linear layer on a map": nn.Sequential(nn.Conv2d(3, 2, 3, stride=2), nn.Flatten(), BinaryLinear(98, 5)),
    "a flattened [N, H, W, C]": LinearOfLast(binary=False),
    "a flattened [N, H, W, C], binary": LinearOfLast(binary=True),
    "a part of [N, H, W, C]": LinearOfParts(binary=False),
    "a part of [N, H, W, C], binary": LinearOfParts(binary=True),
    "features": nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LayerNorm(3), nn.GELU(), nn.Linear(3, 4)),
    "movers": nn.Sequential(
        nn.Conv2d(3, 8, 1), nn.ChannelShuffle(4), nn.Hardswish(), nn.Flatten(), nn.Unflatten(1, (8, 16, 16)), nn.SiLU()
    ),
    "depthwise": nn.Sequential(nn.Conv2d(3, 6, 1), nn.Conv2d(6, 6, 3, padding=1, groups=6), nn.Hardsigmoid()),
    "upsampling": nn.Sequential(nn.Conv2d(3, 4, 3), nn.Upsample(scale_factor=(2, 3)), nn.AdaptiveMaxPool2d(1)),
    "a batch norm for many devices": nn.Sequential(nn.Conv2d(3, 4, 3), nn.SyncBatchNorm(4)),
    "a half": nn.Conv2d(3, 4, 3).half(),
}


@pytest.mark.parametrize("case", LAYERS)
def test_layers(case: str, tmp_path: Path) -> None:
    assert bbg.convert(LAYERS[case], tmp_path / "net.bbg", EXAMPLE).difference <= 1e-5


def test_signs_of_exact_ties_behind_a_rounded_function(tmp_path: Path) -> None:
    """Where torch's GELU is exactly at the threshold, that made of products may be below: no reason to refuse."""
    conv, binary = nn.Conv2d(3, 64, 1), BinaryConv2d(64, 8, 3)
    with torch.no_grad():
        ties = F.gelu(conv(EXAMPLE))[0, :, :1, :1]
    model = Functional(lambda x, c, b: b(F.gelu(c(x)) - ties), conv, binary)
    report = bbg.convert(model, tmp_path / "net.bbg", EXAMPLE)
    assert report.difference <= 1e-5
    assert report.agreement.diverged
    assert report.agreement.divergence <= 1e-5


@pytest.mark.parametrize("below", [9, 13, 25])
@pytest.mark.parametrize("function", [torch.sigmoid, F.silu, F.gelu])
def test_low_values_are_right_to_what_came_in(
    function: Callable[..., torch.Tensor], below: int, tmp_path: Path
) -> None:
    """Far out a sigmoid is nearly 0, and so is what is computed from it: no reason to refuse."""
    model = Functional(lambda x, c: function(c(x) - below), nn.Conv2d(3, 3, 3))
    assert bbg.convert(model, tmp_path / "net.bbg", EXAMPLE).difference <= 1e-5
    given = bbg.load(tmp_path / "net.bbg")(EXAMPLE.numpy())
    with torch.no_grad():
        assert np.abs(given - model(EXAMPLE).numpy()).max() <= 1e-6 * below


class Flags(nn.Module):
    """A forward with arguments that have defaults, which decide what is computed; it keeps what it computed."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.inner = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)
        self.seen: torch.Tensor | None = None

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None, negative: bool = False) -> torch.Tensor:
        self.seen = self.inner(F.relu(self.conv(x)))
        y = self.seen.mean((2, 3))
        if mask is not None:
            y = y * mask
        return -y if negative else y


def test_defaults_of_the_forward_decide_and_results_kept_in_the_module_do_no_harm(tmp_path: Path) -> None:
    model = Flags()
    model(EXAMPLE).sum().backward()
    for network in (model, bbg.binarize(model, keep=("conv",), example=EXAMPLE).eval()):
        bbg.check(network, EXAMPLE)
        bbg.convert(network, tmp_path / "net.bbg", EXAMPLE)
        with torch.no_grad():
            wanted = network(EXAMPLE).numpy()
        assert np.abs(bbg.load(tmp_path / "net.bbg")(EXAMPLE.numpy()) - wanted).max() <= 1e-4 * np.abs(wanted).max()


def test_torchvision_is_loaded_by_networks_that_use_it_only(tmp_path: Path) -> None:
    code = "import sys, bbg.conversion; assert 'torchvision' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
    ops = pytest.importorskip("torchvision.ops")
    function = Functional(lambda x, c: ops.stochastic_depth(c(x), 0.5, "row", training=False), nn.Conv2d(3, 4, 3))
    for model in (nn.Sequential(nn.Conv2d(3, 4, 3), ops.StochasticDepth(0.5, "row")), function):
        assert bbg.convert(model, tmp_path / "net.bbg", EXAMPLE).difference <= 1e-5
