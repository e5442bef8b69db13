"""Positions and keys of a network's containers behind `binarize`, also in copies."""

from __future__ import annotations

import copy
import pickle
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import bbg
from bbg.errors import BbgError


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.norm(self.conv(x)).relu()


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3)
        self.layer1 = nn.Sequential(Block(), Block())
        self.named = nn.Sequential(OrderedDict(one=Block(), two=Block()))
        self.blocks = nn.ModuleList([Block(), Block(), Block()])
        self.parts = nn.ModuleDict({"a": Block(), "b": Block()})
        self.unused = nn.Sequential(nn.Conv2d(4, 4, 3))
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.named(self.layer1(self.stem(x)))
        for block in self.blocks[:2]:
            x = block(x)
        return self.head(self.parts["a"](x).mean((2, 3)))


def flat() -> nn.Module:
    convs = [nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.ReLU()]
    return nn.Sequential(nn.Conv2d(3, 4, 3), *convs, nn.Flatten(), nn.Linear(64, 3))


def binarized(network: nn.Module) -> Any:
    torch.manual_seed(0)
    return bbg.binarize(network, example=torch.randn(2, 3, 8, 8))


COPIES: dict[str, Callable[[Any], Any]] = {
    "itself": lambda network: network,
    "a copy": copy.copy,
    "a deep copy": copy.deepcopy,
    "a pickle": lambda network: pickle.loads(pickle.dumps(network)),
}


@pytest.mark.parametrize("how", COPIES)
def test_a_container_has_its_positions_and_keys(how: str) -> None:
    binary = COPIES[how](binarized(Network()))
    inside = dict(binary.named_modules())
    assert binary.layer1[0] is inside["layer1.0"]
    assert binary.layer1[-1] is inside["layer1.1"]
    assert binary.layer1[0].conv is inside["layer1.0.conv"]
    assert binary.named[1] is binary.named.two is inside["named.two"]
    assert binary.parts["a"] is inside["parts.a"]
    assert (len(binary.layer1), len(binary.blocks), len(binary.parts)) == (2, 3, 2)
    assert list(binary.parts) == binary.parts.keys() == ["a"]
    assert binary.parts.values() == [binary.parts["a"]]
    assert binary.parts.items() == [("a", binary.parts["a"])]
    assert "a" in binary.parts
    assert binary.report.rows
    assert list(binary.blocks) == [inside["blocks.0"], inside["blocks.1"]]
    assert binary.blocks[1:] == [inside["blocks.1"]]
    with pytest.raises(IndexError):
        binary.layer1[2]
    with pytest.raises(KeyError):
        binary.parts["c"]
    for gone in (lambda: binary.blocks[2], lambda: binary.parts["b"]):
        with pytest.raises(BbgError, match="is no more: it went inside another, or is not called; see the report"):
            gone()


@pytest.mark.parametrize("how", COPIES)
def test_a_network_that_is_a_container_has_them_too(how: str) -> None:
    binary = COPIES[how](binarized(flat()))
    inside = dict(binary.named_modules())
    assert len(binary) == 6
    assert binary[1] is inside["1"]
    assert binary[-1] is inside["5"]
    assert list(binary) == [binary[i] for i in (0, 1, 3, 4, 5)]
    with pytest.raises(BbgError, match="module '2' is no more"):
        binary[2]
    assert binary(torch.randn(2, 3, 8, 8)).shape == (2, 3)


def test_a_network_that_is_none_has_none() -> None:
    binary = binarized(Network())
    with pytest.raises(TypeError, match="no container"):
        len(binary)
    with pytest.raises(TypeError, match="no container"):
        binary[0]
    assert binary


@pytest.mark.parametrize("exchange", [lambda b, new: setattr(b, "5", new), lambda b, new: b.__setitem__(-1, new)])
def test_a_layer_can_be_exchanged_by_its_position(exchange: Callable[[Any, nn.Module], None]) -> None:
    """As one does to get a new head."""
    binary = binarized(flat())
    names = list(binary.state_dict())
    new = nn.Linear(64, 7)
    exchange(binary, new)
    assert binary[5] is new
    assert list(binary.state_dict()) == names
    assert binary(torch.randn(2, 3, 8, 8)).shape == (2, 7)
