"""What the tests of the folding passes share: small networks, their graphs, and that two graphs compute the same."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

import bbg.conversion  # noqa: F401  (registers the rules)
from bbg.conversion.lowering import lower_network
from bbg.graph import Graph, reference
from bbg.layers import BinaryConv2d

RNG = np.random.default_rng(0)


def settled(network: nn.Module) -> nn.Module:
    """Statistics and parameters as after a training; the scales of batch norms alternate in sign."""
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            nn.init.normal_(module.bias)
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2)
            with torch.no_grad():
                module.weight.uniform_(0.5, 2)[::2].neg_()
    return network.eval().requires_grad_(False)


def unfolded(network: nn.Module, channels: int = 4, size: int = 5) -> Graph:
    return lower_network(settled(network), torch.randn(1, channels, size, size)).graph


def listed(graph: Graph) -> list[str]:
    """One line per op: its kind, whether it has a shortcut, its epilogue, whether it clips, and what it writes."""
    return [
        " ".join(
            [
                op.kind,
                *["+"] * (op.shortcut is not None),
                *op.epilogue,
                *["clip"] * (op.clip != (None, None)),
                "->",
                *["real"] * (op.real is not None),
                *["bits"] * (op.bits is not None),
            ]
        )
        for op in graph.ops
    ]


def same(before: Graph, after: Graph) -> None:
    """The oracle computes the same values under the same names: bits equal, real values up to rounding."""
    x = RNG.normal(size=(3, *before.input_shape)).astype(np.float32)
    a, b = reference.run(before, x), reference.run(after, x)
    assert all(name in b for output in after.outputs for name in output.values)
    for name in set(a) & set(b):
        if a[name].dtype == np.int8:
            assert np.array_equal(a[name], b[name])
        else:
            assert np.abs(a[name] - b[name]).max() <= 1e-6 * np.abs(a[name]).max()


def conv(out: int = 4, channels: int = 4) -> nn.Module:
    return nn.Conv2d(channels, out, 3, padding=1, bias=False)


def binary(out: int = 4, channels: int = 4, method: object = "bbg") -> nn.Module:
    return BinaryConv2d(channels, out, 3, padding=1, bias=False, method=method)
