"""The dataflow of signs: each transfer function on a network made for it, beside what the numbers themselves say."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from support.binarizing import EXAMPLE, Functional
from torch import Tensor, fx, nn

from bbg.binarization.network import TracedNetwork
from bbg.binarization.signs import SignFlow
from bbg.tracing.in_place import works_in_place

torch.set_num_threads(1)

# The sources at the output of a function of an image [N, 3, 12, 12]: the names of nodes, in order.
SOURCES: dict[str, tuple[Callable[[Any], Any], list[str]]] = {
    "the images": (lambda x: x, []),
    "an activation": (lambda x: F.relu(x), ["relu"]),
    "both of two": (lambda x: torch.sigmoid(F.relu(x)), ["relu", "sigmoid"]),
    "a sum of two behind a third": (lambda x: F.relu(F.relu(x) + F.softplus(x)), ["relu", "softplus", "relu_1"]),
    "a curve behind it": (lambda x: F.silu(F.relu(x)), ["relu"]),
    "a clamp behind it": (lambda x: F.relu(x).clamp(max=1), ["relu"]),
    "an attribute": (lambda x: F.relu(x).mT, []),
    "a convolution behind it": (lambda x: F.conv2d(F.relu(x), -torch.ones(2, 3, 1, 1)), []),
    "a blur behind it": (lambda x: F.conv2d(F.relu(x), torch.ones(3, 1, 2, 2), groups=3), ["relu"]),
    "a blur with a bias": (lambda x: F.conv2d(F.relu(x), torch.ones(3, 1, 2, 2), -torch.ones(3), groups=3), []),
    "moved": (lambda x: F.relu(x).permute(0, 2, 3, 1).flatten(1), ["relu"]),
    "pooled": (lambda x: F.avg_pool2d(F.max_pool2d(F.relu(x), 2), 2), ["relu"]),
    "resized": (lambda x: F.interpolate(F.relu(x), scale_factor=2), ["relu"]),
    "dropped": (lambda x: F.dropout(F.relu(x), 0.5, False), ["relu"]),
    "a part": (lambda x: F.relu(x)[:, 1:], ["relu"]),
    "one of a split": (lambda x: F.relu(x).chunk(3, 1)[1], ["relu"]),
    "a join of two": (lambda x: torch.cat([F.relu(x), F.softplus(x)], 1), ["relu", "softplus"]),
    "a join with signs": (lambda x: torch.cat([x, F.relu(x)], 1), ["relu"]),
    "a sum of two": (lambda x: F.relu(x) + torch.sigmoid(x), ["relu", "sigmoid"]),
    "a sum with signs": (lambda x: F.relu(x) + x, []),
    "a sum with a constant": (lambda x: F.relu(x) + 1, []),
    "twice the same": (lambda x: (lambda y: y + y)(F.relu(x)), []),
    "a difference": (lambda x: F.relu(x) - F.relu(x), []),
    "the smaller of two": (lambda x: torch.minimum(F.relu(x), F.softplus(x)), ["relu", "softplus"]),
    "the smaller, with signs": (lambda x: torch.minimum(F.relu(x), x), []),
    "a product of two": (lambda x: F.relu(x) * F.softplus(x), ["relu", "softplus"]),
    "a product with signs": (lambda x: F.relu(x) * x, []),
    "a product with a constant": (lambda x: F.relu(x) * 0.5, ["relu"]),
    "a quotient": (lambda x: F.relu(x) / 3, ["relu"]),
    "a gate": (lambda x: torch.sigmoid(x) * F.relu(x), ["relu"]),
    "two gates": (lambda x: torch.sigmoid(x) * F.hardsigmoid(x), ["sigmoid", "hardsigmoid"]),
    "a gate of signs": (lambda x: torch.sigmoid(x) * x, []),
    "a gate that is added": (lambda x: torch.sigmoid(x) + F.relu(x), ["sigmoid", "relu"]),
    "a clamp at 0": (lambda x: x.clamp(0, 1), ["clamp"]),
    "a clamp below 0": (lambda x: x.clamp(-1, 1), []),
    "a clamp from above": (lambda x: x.clamp(max=1), []),
    "hardtanh at 0": (lambda x: F.hardtanh(x, 0.0, 6.0), ["hardtanh"]),
    "hardtanh by name": (lambda x: F.hardtanh(x, min_val=0.0), ["hardtanh"]),
    "hardtanh": (lambda x: F.hardtanh(x), []),
    "not known": (lambda x: torch.special.entr(F.relu(x)), []),
    "no activation": (lambda x: F.relu(x).exp(), []),
}


UNSEEN = {"not known", "no activation", "twice the same", "a sum with a constant", "an attribute"}  # for all positive


def network_of(function: Callable[[Any], Any]) -> TracedNetwork:
    return TracedNetwork.of(Functional(function), EXAMPLE)


def output(network: TracedNetwork) -> fx.Node:
    (result,) = next(node for node in network.trace.graph.nodes if node.op == "output").all_input_nodes
    return result


@pytest.mark.parametrize("name", SOURCES)
def test_the_sources_of_what_is_never_negative(name: str) -> None:
    function, expected = SOURCES[name]
    network = network_of(function)
    assert [node.name for node in SignFlow(network).nonnegative_sources(output(network))] == expected


@pytest.mark.parametrize("name", SOURCES)
def test_where_there_are_sources_no_number_is_negative(name: str) -> None:
    """But in joins, whose other channels may hold some."""
    function, expected = SOURCES[name]
    result = function(EXAMPLE)
    if expected and name != "a join with signs":
        assert (result >= 0).all()
    elif not expected and name not in UNSEEN:
        assert not (result > 0).all()


PRODUCTS = {"a product of two", "two gates"}  # of two negative numbers


@pytest.mark.parametrize("name", [name for name, (_, sources) in SOURCES.items() if sources and name not in PRODUCTS])
def test_without_the_sources_numbers_are_negative_again(name: str) -> None:
    """What takes the place of every source lets signs through: they were to blame."""
    network = network_of(SOURCES[name][0])
    for node in SignFlow(network).nonnegative_sources(output(network)):
        node.replace_all_uses_with(network.inputs(node)[0])
    assert (network.trace.module()(EXAMPLE - 10) < 0).any()


POOLS: dict[str, tuple[Callable[[Any], Any], list[str]]] = {
    "a max-pool": (lambda x: F.max_pool2d(x, 2), ["max_pool2d"]),
    "behind an activation": (lambda x: F.relu(F.max_pool2d(x, 2)), ["max_pool2d"]),
    "moved": (lambda x: F.max_pool2d(x, 2).flatten(1), ["max_pool2d"]),
    "joined": (lambda x: torch.cat([F.max_pool2d(x, 2), F.avg_pool2d(x, 2)], 1), ["max_pool2d"]),
    "the last of two": (lambda x: F.max_pool2d(F.max_pool2d(x, 2), 2), ["max_pool2d_1"]),
    "a curve behind it": (lambda x: F.silu(F.max_pool2d(x, 2)), []),
    "a sum": (lambda x: F.max_pool2d(x, 2) + 1, []),
    "of a sequence": (lambda x: F.max_pool1d(x.flatten(2), 2), []),
    "an average": (lambda x: F.avg_pool2d(x, 2), []),
}


@pytest.mark.parametrize("name", POOLS)
def test_the_max_pools_whose_values_are_still_there(name: str) -> None:
    function, expected = POOLS[name]
    network = network_of(function)
    assert [node.name for node in SignFlow(network).max_pool_sources(output(network))] == expected


ASSUMPTIONS: dict[str, tuple[Callable[[Any], Any], int]] = {
    "known": (lambda x: F.silu(F.relu(x)).flatten(1), 0),
    "not known": (lambda x: torch.special.entr(x).flatten(1), 1),
    "behind a curve": (lambda x: F.silu(torch.special.entr(x)), 1),
    "an attribute": (lambda x: F.silu(x).mT, 1),
    "behind a difference": (lambda x: torch.special.entr(x) - 1, 0),
    "behind a convolution": (lambda x: F.conv2d(torch.special.entr(x), -torch.ones(2, 3, 1, 1)), 0),
    "two": (lambda x: torch.cat([torch.special.entr(x), x.square()], 1), 2),
}


@pytest.mark.parametrize("name", ASSUMPTIONS)
def test_only_what_decides_is_assumed(name: str) -> None:
    function, count = ASSUMPTIONS[name]
    network = network_of(function)
    flow = SignFlow(network)
    flow.nonnegative_sources(output(network))
    assert len(flow.assumptions) == count


IN_PLACE: dict[str, tuple[Callable[[Any], Any], bool]] = {
    "a method": (lambda x: x.relu_(), True),
    "a function": (lambda x: F.relu_(x), True),
    "a keyword": (lambda x: F.relu(x, inplace=True), True),
    "an argument": (lambda x: F.relu(x, True), True),
    "the last argument": (lambda x: F.hardtanh(x, 0.0, 6.0, True), True),
    "none": (lambda x: F.relu(x), False),
    "a builtin": (lambda x: torch.relu(x), False),
    "an operator without": (lambda x: x + 1, False),
}


@pytest.mark.parametrize("name", IN_PLACE)
def test_what_works_in_place(name: str) -> None:
    function, expected = IN_PLACE[name]
    assert works_in_place(output(network_of(function)), None) == expected
    copy = EXAMPLE.clone()
    function(copy)
    assert torch.equal(copy, EXAMPLE) != expected


def test_each_value_has_one_node() -> None:
    """What reads a tensor after it was changed in place reads the result of the change."""

    def forward(x: Tensor) -> Tensor:
        y = x * 1
        before = y + 0
        y.relu_()
        y.add_(1)
        return before + y

    network = network_of(forward)
    nodes = {node.name: node for node in network.trace.graph.nodes}
    assert nodes["relu_"].all_input_nodes == [nodes["mul"]]
    assert nodes["add_"].all_input_nodes == [nodes["relu_"]]
    assert output(network).all_input_nodes == [nodes["add"], nodes["add_"]]
    assert torch.equal(network.trace.module()(EXAMPLE), forward(EXAMPLE))


def test_a_layer_in_place_counts_too() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.act = nn.ReLU(inplace=True)

        def forward(self, x: Tensor) -> Tensor:
            y = x * 1
            self.act(y)
            return y.flatten(1)

    network = TracedNetwork.of(Net(), EXAMPLE)
    assert [node.name for node in SignFlow(network).nonnegative_sources(output(network))] == ["act"]
