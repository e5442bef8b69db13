"""Networks whose two modes differ."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import stochastic_depth

from support.binarizing import Functional, conv


class Block(nn.Module):
    """Two convolutions between two others, and what `between` makes of the output of the first, given the module."""

    def __init__(self, between: Callable[[Any, Tensor], Tensor], **parts: Any) -> None:
        super().__init__()
        self.first, self.one, self.two, self.last = conv(3), conv(), conv(), conv()
        self.between = between
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.last(self.two(self.between(self, self.one(self.first(x)))))
        return y


class Called(nn.BatchNorm2d):
    """Batch norm by a call, as timm's BatchNormAct2d has it."""

    def forward(self, input: Tensor) -> Tensor:
        if self.training and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        statistics = self.running_mean, self.running_var
        y = F.batch_norm(input, *statistics, self.weight, self.bias, self.training, 0.1, self.eps)
        return F.relu(y)


class CalledAct(Called):
    """With the activation as a part of it."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.act = nn.ReLU(inplace=True)

    def forward(self, input: Tensor) -> Tensor:
        statistics = self.running_mean, self.running_var
        return self.act(F.batch_norm(input, *statistics, self.weight, self.bias, self.training, 0.1, self.eps))


class Cumulative(nn.BatchNorm2d):
    """With `momentum=None`: the call gets a share that changes with each step."""

    def forward(self, input: Tensor) -> Tensor:
        share = 0.0
        if self.training:
            self.num_batches_tracked.add_(1)
            share = 1.0 / float(self.num_batches_tracked)
        statistics = self.running_mean, self.running_var
        return F.batch_norm(input, *statistics, self.weight, self.bias, self.training, share, self.eps)


def drop_by_hand(m: Any, x: Tensor) -> Tensor:
    if m.training:
        x = x / 0.5 * x.new_empty(x.size(0), 1, 1, 1).bernoulli_(0.5)
    return x


def drop_by_rand(m: Any, x: Tensor) -> Tensor:
    return x * torch.floor(0.5 + torch.rand(x.shape[0], 1, 1, 1)) if m.training else x


def noise_of_a_fixed_size(m: Any, x: Tensor) -> Tensor:
    return x + torch.randn(1, 4, 1, 1) if m.training else x


def a_layer_in_training(m: Any, x: Tensor) -> Tensor:
    return x + torch.tanh(m.extra(x)) if m.training else x


def other_in_either(m: Any, x: Tensor) -> Tensor:
    return F.softplus(x) if m.training else x * 2


# the network, and whether two steps of training on the same images differ
FOLLOWED: dict[str, tuple[Callable[[], nn.Module], bool]] = {
    "batch norm called": (lambda: nn.Sequential(conv(3), conv(), Called(4), conv()), False),
    "batch norm with an activation inside": (
        lambda: nn.Sequential(conv(3), CalledAct(4), conv(), conv()),
        False,
    ),
    "batch norm called without affine": (
        lambda: nn.Sequential(conv(3), conv(), Called(4, affine=False), conv()),
        False,
    ),
    "batch norm called behind a linear layer": (
        lambda: Functional(
            lambda x, a, b, n, c: c(
                F.batch_norm(b(a(x).mean((2, 3))), n.running_mean, n.running_var, n.weight, n.bias, n.training)
            ),
            conv(3), nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 2),
        ),
        False,
    ),
    "batch norm with a momentum of the call": (
        lambda: Block(
            lambda m, x: F.batch_norm(
                x, m.n.running_mean, m.n.running_var, m.n.weight, m.n.bias, m.training, momentum=0.3
            ),
            n=nn.BatchNorm2d(4),
        ),
        False,
    ),
    "batch norm with the mean of all batches": (
        lambda: nn.Sequential(conv(3), conv(), Cumulative(4, momentum=None), conv()),
        False,
    ),
    "torch.batch_norm": (
        lambda: Block(
            lambda m, x: torch.batch_norm(
                x, m.n.weight, m.n.bias, m.n.running_mean, m.n.running_var, m.training, 0.1, 1e-5, False
            ),
            n=nn.BatchNorm2d(4),
        ),
        False,
    ),
    "dropout called": (lambda: Block(lambda m, x: F.dropout(x, 0.5, m.training)), True),
    "dropout called by keywords": (lambda: Block(lambda m, x: F.dropout2d(input=x, training=m.training)), True),
    "torch.dropout": (lambda: Block(lambda m, x: torch.dropout(x, 0.5, m.training)), True),
    "dropout in both modes": (lambda: Block(lambda m, x: F.dropout(x, 0.5, True)), True),
    "stochastic depth called": (lambda: Block(lambda m, x: stochastic_depth(x, 0.5, "row", m.training)), True),
    "drop-connect by hand": (lambda: Block(drop_by_hand), True),
    "drop-connect by torch.rand": (lambda: Block(drop_by_rand), True),
    "noise of a fixed size": (lambda: Block(noise_of_a_fixed_size), True),
    "noise with a learned size": (
        lambda: Block(
            lambda m, x: x + m.size * torch.randn_like(x) if m.training else x, size=nn.Parameter(torch.ones(1))
        ),
        True,
    ),
    "a layer in training mode": (lambda: Block(a_layer_in_training, extra=conv()), False),
    "softmax in evaluation mode": (
        lambda: Functional(
            lambda x, a, b, c: c(b(a(x))) if c.training else c(b(a(x))).softmax(1), conv(3), conv(), conv()
        ),
        False,
    ),
    "other functions in either mode": (lambda: Block(other_in_either), False),
}  # fmt: skip


class Fixed(nn.Sequential):
    """`train` keeps some kinds of layers in one mode."""

    def __init__(self, kind: type[nn.Module], mode: bool, *layers: nn.Module) -> None:
        super().__init__(*layers)
        self.kind, self.fixed = kind, mode

    def train(self, mode: bool = True) -> Fixed:
        super().train(mode)
        for module in self.modules():
            if isinstance(module, self.kind):
                module.training = self.fixed
        return self
