"""`Unit.around`: the unit that `binarize` builds around layers that exist."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bbg.layers import BinaryConv2d, BinaryLinear, Shortcut, Unit
from bbg.methods import METHODS

torch.set_num_threads(1)
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.mark.parametrize("method", [name for name in METHODS if name != "float"])
def test_a_unit_around_layers_that_exist(method: str) -> None:
    torch.manual_seed(0)
    x, passes = torch.randn(4, 6, 5, 4), METHODS[method].shortcut != "none"
    for layer, norm in ((nn.Conv2d(6, 9, 3, 2, 1), nn.BatchNorm2d(9)), (nn.Conv2d(6, 4, (1, 3), bias=False), None)):
        unit = Unit.around(layer, norm, method=method)
        y = BinaryConv2d.of(layer, method)(x)
        s = Shortcut(layer.out_channels)(x, (y.shape[2], y.shape[3])) * passes
        assert torch.allclose(unit(x), nn.BatchNorm2d(layer.out_channels)(y) + s, atol=1e-5)
        assert (unit.norm is norm) == (norm is not None)
        assert unit.conv.weight is layer.weight
    linear = nn.Linear(6 * 5 * 4, 9)
    unit = Unit.around(linear, method=method, shape=(6, 5, 4))
    y = nn.BatchNorm1d(9)(BinaryLinear.of(linear, method)(x.flatten(1)))
    s = x.mean((2, 3))[:, [0, 1, 2, 3, 4, 5, 0, 1, 2]] * passes
    assert torch.allclose(unit(x.flatten(1)), y + s, atol=1e-5)
    assert (unit.gate is None) == (METHODS[method].shortcut != "gated")
