"""torchvision's networks, binarized: what becomes of their layers, parameters and signs, and that they train."""

from __future__ import annotations

import copy
import io
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from support.binarizing import images, inputs_of_signs, storage
from torch import Tensor, nn

import bbg
from bbg.binarization import Binarized
from bbg.binarization.network import TracedNetwork
from bbg.binarization.signs import SignFlow
from bbg.layers import BinaryConv2d, BinaryLinear, Unit
from bbg.methods.base import Hardtanh
from cases.torchvision_networks import NETWORKS, build

torch.set_num_threads(1)
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

WHOLE = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(1))
# The VGGs have 100 million weights; ResNet-34 is ResNet-18 with more of the same.
SLOW = {"vgg11", "vgg11_bn", "vgg16", "vgg16_bn", "resnet34"}
EVERY = [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in NETWORKS]
STAYS = {
    "first: it reads the images",
    "last: the output comes from it",
    "depthwise: one input channel per filter",
    "squeeze-excite: a pooled map that becomes a factor",
}


@dataclass
class Case:
    """A network as torchvision builds it, its numbers before, and what `binarize` made of it."""

    size: int
    model: nn.Module
    loaded: dict[str, Tensor]
    binary: Binarized


@pytest.fixture(scope="module", params=EVERY)
def case(request: pytest.FixtureRequest) -> Case:
    torch.manual_seed(0)
    model, size = build(request.param), NETWORKS[request.param][1]
    loaded = copy.deepcopy(model.state_dict())
    return Case(size, model, loaded, bbg.binarize(model, example=WHOLE))


def test_all_becomes_binary_but_the_ends_and_what_has_few_products(case: Case) -> None:
    report = case.binary.report
    assert report.share_beside_depthwise >= 0.95
    assert {row.why for row in report.of("kept") if row.macs} <= STAYS


def test_nothing_is_assumed(case: Case) -> None:
    assert case.binary.report.assumptions == ()


def test_it_is_proved(case: Case) -> None:
    proof = case.binary.report.proof
    assert proof is not None
    assert max(proof.evaluation, proof.training, proof.gradients, proof.statistics) <= 1e-4


def test_parameters_are_the_given_ones_with_the_numbers_that_were_loaded(case: Case) -> None:
    for row in case.binary.report.of("binary"):
        unit, layer = case.binary.get_submodule(row.name), case.model.get_submodule(row.name)
        assert isinstance(unit, Unit)
        assert isinstance(layer, (nn.Conv2d, nn.Linear))
        weight: Any = unit.conv.weight
        assert weight is layer.weight or storage(weight) == storage(layer.weight)
        assert torch.equal(weight.flatten(), case.loaded[f"{row.name}.weight"].flatten())
        assert unit.conv.bias is layer.bias


def test_no_activation_is_left_whose_signs_are_all_plus(case: Case) -> None:
    again = TracedNetwork.of(case.binary, images(1, case.size))
    signs = SignFlow(again)
    layers = [node for node in again.trace.graph.nodes if isinstance(again.module(node), (BinaryConv2d, BinaryLinear))]
    assert len(layers) == len(case.binary.report.of("binary"))
    assert not [node for node in layers if signs.nonnegative_sources(again.inputs(node)[0])]


def test_every_binary_layer_gets_both_signs(case: Case) -> None:
    binary = copy.deepcopy(case.binary)
    assert binary.training
    fractions = {n: float((v < 0).float().mean()) for n, v in inputs_of_signs(binary, images(4, case.size)).items()}
    assert len(fractions) == len(binary.report.of("binary"))
    assert {n: f for n, f in fractions.items() if not 0.02 < f < 0.98} == {}


def test_a_step_of_training_reaches_every_parameter(case: Case) -> None:
    binary = copy.deepcopy(case.binary)
    loss = F.cross_entropy(binary(images(4, case.size)), torch.arange(4))
    loss.backward()
    assert loss.isfinite()
    assert [n for n, p in binary.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []


def test_a_copy_computes_the_same(case: Case) -> None:
    binary, x = copy.deepcopy(case.binary).eval(), images(4, case.size)
    with torch.no_grad():
        logits = binary(x)
        assert logits.shape == (4, 10)
        assert logits.isfinite().all()
        assert torch.equal(copy.deepcopy(binary)(x), logits)


@pytest.mark.parametrize("name", ["resnet18", "shufflenet_v2_x1_0", "squeezenet1_1"])
def test_the_state_dict_round_trips(name: str) -> None:
    one, two = (bbg.binarize(build(name), example=images(1, 64), method="reactnet").eval() for _ in range(2))
    file = io.BytesIO()
    torch.save(one.state_dict(), file)
    file.seek(0)
    x = images(2, 64)
    with torch.no_grad():
        assert not torch.equal(one(x), two(x))
        two.load_state_dict(torch.load(file, weights_only=True), strict=True)
        assert torch.equal(one(x), two(x))


def test_names_stay_readable() -> None:
    binary = bbg.binarize(build("resnet18"), example=WHOLE)
    names = dict(binary.named_modules())
    assert isinstance(names["layer1.0.conv1"], Unit)
    assert isinstance(names["layer1.0.conv1.norm"], nn.BatchNorm2d)
    assert isinstance(names["layer1.0.relu"], Hardtanh)
    assert isinstance(names["layer1.0.relu_1"], Hardtanh)  # the second call of the same module
    assert isinstance(names["layer4.1.relu"], nn.ReLU)  # behind it comes no sign
    assert "layer1.0.bn1" not in names
    assert {"conv1.weight", "layer1.0.conv1.conv.weight", "layer1.0.conv1.gate", "fc.bias"} <= set(binary.state_dict())
    assert type(binary).__name__ == "ResNet"
