"""The rules of `bbg.binarize`, each on a small network made for it: what is replaced, what is kept, and layouts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from support.binarizing import EXAMPLE, conv, images, inputs_of_signs, storage, three, what
from torch import Tensor, nn

import bbg
from bbg import BbgError
from bbg.methods.base import Hardtanh, RPReLU
from cases.torchvision_networks import build

# ---- what is replaced, kept and why --------------------------------------------------------------------------------


REPLACED: dict[str, Callable[..., Tensor]] = {
    "F.relu": lambda x, a, b, c: c(b(F.relu(a(x)))),
    "in place": lambda x, a, b, c: c(b(F.relu(a(x), inplace=True))),
    "torch.relu": lambda x, a, b, c: c(b(torch.relu(a(x)))),
    "x.relu": lambda x, a, b, c: c(b(a(x).relu())),
    "x.relu_": lambda x, a, b, c: c(b(a(x).relu_())),
    "F.relu6": lambda x, a, b, c: c(b(F.relu6(a(x)))),
    "sigmoid": lambda x, a, b, c: c(b(torch.sigmoid(a(x)))),
    "F.hardsigmoid": lambda x, a, b, c: c(b(F.hardsigmoid(a(x)))),
    "F.softplus": lambda x, a, b, c: c(b(F.softplus(a(x)))),
    "clamp": lambda x, a, b, c: c(b(a(x).clamp(0, 1))),
    "clamp min": lambda x, a, b, c: c(b(torch.clamp(a(x), min=0))),
    "hardtanh": lambda x, a, b, c: c(b(F.hardtanh(a(x), 0.0, 6.0))),
    "max_pool": lambda x, a, b, c: c(b(F.max_pool2d(F.relu(a(x)), 2))),
    "avg_pool and dropout": lambda x, a, b, c: c(b(F.dropout(F.avg_pool2d(F.relu(a(x)), 2), 0.5, False))),
    "a sum": lambda x, a, b, c: c(b(F.max_pool2d(x_ := F.relu(a(x)), 3, 1, 1) + F.avg_pool2d(x_, 3, 1, 1))),
    "a join": lambda x, a, b, c: c(b(torch.cat([F.relu(a(x))[:, :2], a(x)[:, 2:]], 1))),
    "a shuffle": lambda x, a, b, c: c(b(F.relu(a(x)).view(-1, 2, 2, 12, 12).transpose(1, 2).reshape(-1, 4, 12, 12))),
    "a split": lambda x, a, b, c: c(b(torch.cat(F.relu(a(x)).chunk(2, 1)[::-1], 1))),
    "a gate": lambda x, a, b, c: c(b(torch.sigmoid(x[:, :1]) * F.relu(a(x)))),
    "a factor": lambda x, a, b, c: c(b(F.relu(a(x)) * 0.5)),
}


@pytest.mark.parametrize("name", REPLACED)
def test_what_is_never_negative_before_a_sign_is_replaced(name: str) -> None:
    if name in ("a join", "a sum"):
        binary = three(REPLACED[name], keep=("first", "last", "a"))
    else:
        binary = three(REPLACED[name])
    activations = [row for row in binary.report.of("replaced") if "never negative" in row.why]
    assert len(activations) == 1
    assert isinstance(binary.get_submodule(activations[0].name), Hardtanh)
    (x,) = inputs_of_signs(binary, EXAMPLE).values()
    assert (x < 0).any()


KEPT: dict[str, Callable[..., Tensor]] = {
    "silu": lambda x, a, b, c: c(b(F.silu(a(x)))),
    "leaky": lambda x, a, b, c: c(b(F.leaky_relu(a(x)))),
    "behind": lambda x, a, b, c: c(F.relu(b(a(x)))),
    "difference": lambda x, a, b, c: c(b(F.relu(a(x)) - 0.5)),
    "sum with signs": lambda x, a, b, c: c(b(F.relu(a(x)) + x[:, :1])),
    "gate": lambda x, a, b, c: c(b(a(x) * torch.sigmoid(x[:, :1]))),
    "clamp": lambda x, a, b, c: c(b(a(x).clamp(-1, 1))),
}


@pytest.mark.parametrize("name", KEPT)
def test_other_activations_stay(name: str) -> None:
    assert three(KEPT[name]).report.of("replaced") == []


def test_an_activation_in_place_counts_for_whoever_reads_its_input_later() -> None:
    def forward(x: Tensor, a: nn.Module, b: nn.Module, c: nn.Module) -> Tensor:
        y = a(x)
        F.relu_(y)
        result: Tensor = c(b(y))
        return result

    binary = three(forward)
    assert len(binary.report.of("replaced")) == 1
    assert (inputs_of_signs(binary, EXAMPLE)["b.conv"] < 0).any()


POOLED: dict[str, tuple[Callable[..., Tensor], list[str]]] = {
    "pool": (lambda x, a, b, c: c(b(F.max_pool2d(F.relu(a(x)), 2))), ["max_pool2d_norm"]),
    "pool, then act": (lambda x, a, b, c: c(b(F.relu(F.max_pool2d(a(x), 2)))), ["max_pool2d_norm"]),
    "two pools": (lambda x, a, b, c: c(F.max_pool2d(b(F.max_pool2d(a(x), 2)), 2)), ["max_pool2d_norm"]),
    "joined": (
        lambda x, a, b, c: c(b(torch.cat([F.max_pool2d(a(x), 2), a(x)[..., ::2, ::2]], 1)[:, 2:6])),
        ["max_pool2d_norm"],
    ),
    "average": (lambda x, a, b, c: c(b(F.avg_pool2d(a(x), 2))), []),
}


@pytest.mark.parametrize("name", POOLED)
def test_behind_a_max_pool_signs_are_balanced(name: str) -> None:
    torch.manual_seed(0)
    function, names = POOLED[name]
    binary = three(function)
    assert [row.name for row in binary.report.of("added") if row.why != "no BN followed"] == names
    x = inputs_of_signs(binary, EXAMPLE)["b.conv"]
    assert 0.3 < (x < 0).float().mean() < 0.7


def test_act_is_the_methods_or_the_given_one() -> None:
    forward = REPLACED["F.relu"]
    assert isinstance(three(forward, method="reactnet").relu, RPReLU)
    assert isinstance(three(forward, act="rprelu").relu, RPReLU)
    with pytest.raises(BbgError, match="act is 'relu', which is never negative"):
        three(forward, act="relu")
    with pytest.raises(BbgError, match="unknown nonlinearity 'gelu'; allowed are"):
        three(forward, act="gelu")


def excite(x: Tensor, a: nn.Module, b: nn.Module, c: nn.Module, d: nn.Module, e: nn.Module) -> Any:
    y = b(a(x))
    return c(y * torch.sigmoid(e(F.relu(d(y.mean((2, 3)))))).unsqueeze(-1).unsqueeze(-1))


# The gates of a squeeze-excite, of what its last layer `e` gives; x is the map that is scaled.
GATES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "sigmoid": lambda g, x: torch.sigmoid(g)[:, :, None, None],
    "hardsigmoid": lambda g, x: F.hardsigmoid(g).view(-1, 4, 1, 1),
    "relu6, shifted and scaled before": lambda g, x: (F.relu6(g + 3) / 6).reshape(-1, 4, 1, 1),
    "relu6, scaled by a factor": lambda g, x: F.relu6(g + 3.0).mul(1 / 6).unsqueeze(2).unsqueeze(3),
    "clamp": lambda g, x: (g + 0.5).clamp(0, 1)[..., None, None],
    "hardtanh from 0, shifted behind": lambda g, x: (F.hardtanh(g, 0.0, 2.0) - 0.5)[:, :, None, None],
    "relu": lambda g, x: F.relu(g)[:, :, None, None],
    "softplus": lambda g, x: F.softplus(g)[:, :, None, None],
    "expand_as": lambda g, x: torch.sigmoid(g).view(-1, 4, 1, 1).expand_as(x),
    "expand": lambda g, x: (g + 0.5).clamp(0, 1).view(-1, 4, 1, 1).expand(-1, 4, 12, 12),
    "repeat": lambda g, x: F.relu6(g).view(-1, 4, 1, 1).repeat(1, 1, 12, 12),
}


@pytest.mark.parametrize("name", GATES)
def test_gates_stay_however_they_are_written(name: str) -> None:
    torch.manual_seed(0)

    def forward(x: Tensor, a: Any, b: Any, c: Any, d: Any, e: Any) -> Any:
        y = F.relu(a(x))
        return c(b(y * GATES[name](e(F.relu(d(y.mean((2, 3))))), y)))

    binary = three(forward, nn.Linear(4, 2), nn.Linear(2, 4))
    rows = what(binary)
    assert rows["d"] == rows["e"] == ("kept", "squeeze-excite: a pooled map that becomes a factor")
    assert [row.name for row in binary.report.of("binary")] == ["b"]
    replaced = [row.name for row in binary.report.of("replaced")]
    assert replaced == ([] if "shifted behind" in name else ["relu"])  # the one before the product
    gates = [row for row in binary.report.rows if row.why == "a gate: it gives shares"]
    assert len(gates) == 2
    assert all((x < 0).any() for x in inputs_of_signs(binary, EXAMPLE).values())


def test_a_factor_of_the_whole_map_is_no_gate_but_a_sigmoid() -> None:
    """What scales each pixel alone is an activation: it may be replaced, so that its product has both signs."""
    binary = three(lambda x, a, b, c: c(b(F.relu(a(x)) * F.relu(x[:, :1]))))
    assert len(binary.report.of("replaced")) == 2


class Conv3x3(nn.Conv2d):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 3, padding=1)


class Features(nn.Linear):
    def extra(self) -> int:
        return self.in_features


class Norm(nn.BatchNorm2d):
    pass


class Standardized(nn.Conv2d):
    """Its weight is computed, in the method that computes."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return super()._conv_forward(input, weight - weight.mean(), bias)


def test_a_subclass_that_keeps_its_forward_is_the_layer_that_it_is_of() -> None:
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), Features(6, 5), nn.Linear(5, 2))
    model = nn.Sequential(conv(3), Conv3x3(4, 6), Norm(6), nn.ReLU(), *head)
    rows = what(bbg.binarize(model, example=EXAMPLE))
    assert rows["1"] == ("binary", "2 goes inside")
    assert rows["6"][0] == "binary"


def test_a_subclass_that_computes_with_other_numbers_stays() -> None:
    model = nn.Sequential(conv(3), conv(), Standardized(4, 4, 1), conv())
    rows = what(bbg.binarize(model, example=EXAMPLE))
    assert rows["1"][0] == "binary"
    assert not [name for name, (action, _) in rows.items() if name.startswith("2") and action == "binary"]


def test_why_layers_stay() -> None:
    reasons = what(three(excite, nn.Linear(4, 2), nn.Linear(2, 4)))
    assert reasons["a"] == ("kept", "first: it reads the images")
    assert reasons["c"] == ("kept", "last: the output comes from it")
    assert reasons["d"] == reasons["e"] == ("kept", "squeeze-excite: a pooled map that becomes a factor")
    assert reasons["b"][0] == "binary"
    strange = [conv(groups=4), conv(padding_mode="reflect"), conv(), nn.ConvTranspose2d(4, 4, 1)]
    weight = torch.randn(4, 4, 1, 1)
    reasons = what(three(lambda x, a, b, c, d, e, f, g: c(F.conv2d(g(f(f(e(d(b(a(x))))))), weight)), *strange))
    assert reasons["d"] == ("kept", "depthwise: one input channel per filter")
    assert reasons["e"] == ("kept", "padding_mode is 'reflect'")
    assert reasons["f"] == ("kept", "called 2 times")
    assert reasons["g"] == ("kept", "ConvTranspose2d has no binary twin")
    assert reasons["conv2d"] == ("kept", "a call of conv2d: there is no layer to replace")


def test_keep() -> None:
    def kept(*keep: str) -> set[str]:
        binary = bbg.binarize(build("resnet18"), keep=keep, example=images(1, 32))
        return {row.name for row in binary.report.of("kept") if row.macs}

    downsample = {f"layer{i}.0.downsample.0" for i in (2, 3, 4)}
    assert kept("first", "last", "*.downsample.*") == {"conv1", "fc"} | downsample
    assert kept("layer4") == {
        "layer4.0.conv1",
        "layer4.0.conv2",
        "layer4.1.conv1",
        "layer4.1.conv2",
        "layer4.0.downsample.0",
    }
    assert kept("first") == {"conv1"}
    with pytest.raises(BbgError, match=r"keep: 'layer2\.0\.conv3' fits no .*; near are .*layer2\.0\.conv2"):
        kept("layer2.0.conv3")


def test_all_heads_are_last_and_of_a_sum_what_comes_last() -> None:
    def heads(x: Tensor, a: nn.Module, b: nn.Module, c: nn.Module, d: nn.Module, e: nn.Module) -> Any:
        y = e(F.relu(a(x)))
        y = y + b(y)
        return {"boxes": torch.cat([c(y).flatten(1), d(y).flatten(1)], 1), "trunk": y}

    reasons = what(three(heads, conv(), conv()))
    assert [name for name, (_, why) in reasons.items() if why.startswith("last")] == ["b", "c", "d"]
    assert reasons["e"][0] == "binary"
    two = three(lambda x, a, b, c, d: c(y := d(F.relu(a(x)))) + b(y), conv())
    assert [name for name, (_, why) in what(two).items() if why.startswith("last")] == ["c", "b"]


# ---- layouts -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("act", ["hardtanh", "rprelu"])
def test_channels_last(act: str) -> None:
    def forward(x: Tensor, a: nn.Module, b: nn.Module, c: nn.Module, d: nn.Module, e: nn.Module) -> Tensor:
        y = a(x).permute(0, 2, 3, 1)
        y = e(F.relu(d(F.relu(y))))
        result: Tensor = c(b(y.permute(0, 3, 1, 2)))
        return result

    linears = nn.Linear(4, 7), nn.Linear(7, 4)
    binary = three(forward, *linears, act=act)
    assert len(binary.report.of("replaced")) == 2
    assert {row.name for row in binary.report.of("binary")} == {"b", "d", "e"}
    met = inputs_of_signs(binary, EXAMPLE)
    assert met["d.conv"].shape == (4, 4, 12, 12)
    assert met["e.conv"].shape == (4, 7, 12, 12)
    assert all((x < 0).any() for x in met.values())
    weight: Any = binary.get_submodule("d.conv").weight
    assert storage(weight) == storage(linears[0].weight)
    binary(EXAMPLE).sum().backward()
    assert all(p.grad is not None for p in binary.parameters())
    with torch.no_grad():
        weight.fill_(0.5)
    assert (linears[0].weight == 0.5).all()


def test_a_linear_layer_over_sequences_stays() -> None:
    reasons = what(three(lambda x, a, b, c, d: c(b(d(a(x).flatten(2)).view(-1, 4, 12, 12))), nn.Linear(144, 144)))
    assert reasons["d"] == ("kept", "its input has 3 dimensions, not 2 or 4")
