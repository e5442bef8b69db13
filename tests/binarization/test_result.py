"""What `bbg.binarize` gives: it converts, keeps modes, reports, and can be traced and binarized again."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from support.binarizing import EXAMPLE, Own, conv, images, inputs_of_signs, what
from torch import Tensor, nn

import bbg
from bbg import BbgError
from bbg.binarization import Binarized
from bbg.binarization.network import traced
from bbg.graph import file as packed
from bbg.layers import BinaryConv2d, Shortcut
from bbg.methods import METHODS, Method
from cases.torchvision_networks import build

torch.set_num_threads(1)
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def thin_vgg(name: str) -> nn.Module:
    model = build(name)
    model.classifier = nn.Sequential(nn.Linear(512 * 49, 96), nn.ReLU(True), nn.Dropout(), nn.Linear(96, 10))
    return model


CONVERTED: dict[str, tuple[Callable[[], nn.Module], Tensor]] = {
    "own": (Own, EXAMPLE),
    "resnet18": (lambda: build("resnet18"), images(3, 48)),
    "resnet50": (lambda: build("resnet50"), images(3, 32)),
    "vgg11": (lambda: thin_vgg("vgg11"), images(3, 32)),
    "vgg11_bn": (lambda: thin_vgg("vgg11_bn"), images(3, 32)),
}


@pytest.mark.parametrize("method", ["bbg", "reactnet"])
@pytest.mark.parametrize("name", CONVERTED)
def test_the_result_converts(name: str, method: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    make, x = CONVERTED[name]
    binary = bbg.binarize(make(), method, example=x)
    with torch.no_grad():
        for _ in range(2):
            binary(x)  # moves the statistics
    report = bbg.convert(binary, tmp_path / "net.bbg", x)
    assert report.difference <= 1e-5
    assert report.agreement.divergence <= 1e-5
    ops = packed.read(tmp_path / "net.bbg").graph.ops
    assert sum(op.kind == "binary_conv" for op in ops) == len(binary.report.of("binary"))
    assert sum(op.kind == "conv" for op in ops) == 2


def test_a_method_without_shortcut_has_none() -> None:
    plain = Method("plain", METHODS["bbg"].weight, METHODS["bbg"].activation, "none")
    binary = bbg.binarize(Own(), plain, example=EXAMPLE)
    assert not [m for m in binary.modules() if isinstance(m, Shortcut)]
    assert "conv2.gate" not in dict(binary.named_parameters())
    assert binary(EXAMPLE).shape == (4, 5)


# ---- the report -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mobilenet() -> Binarized:
    return bbg.binarize(build("mobilenet_v2"), example=images(1, 224))


def test_the_report_counts_products(mobilenet: Binarized) -> None:
    macs = {row.name: row.macs for row in mobilenet.report.rows}
    assert macs["features.0.0"] == 3 * 9 * 32 * 112 * 112
    assert macs["features.1.conv.0.0"] == 9 * 32 * 112 * 112
    assert macs["features.1.conv.1"] == 32 * 16 * 112 * 112


def test_the_report_says_which_batch_norm_went_inside(mobilenet: Binarized) -> None:
    why = {row.name: row.why for row in mobilenet.report.rows}
    assert why["features.1.conv.1"] == "features.1.conv.2 goes inside"


def test_the_share_is_that_of_the_products_between_the_ends(mobilenet: Binarized) -> None:
    report = mobilenet.report
    inner = [row for row in report.rows if row.name not in ("features.0.0", "classifier.1")]
    total = sum(row.macs for row in inner)
    assert report.share == pytest.approx(sum(row.macs for row in inner if row.action == "binary") / total)
    assert report.share < report.share_beside_depthwise == 1


def test_the_report_as_data(mobilenet: Binarized) -> None:
    report = mobilenet.report
    data = report.to_dict()
    assert set(data) == {"method", "rows", "macs", "assumptions", "proof", "share", "share_beside_depthwise"}
    assert set(data["rows"][0]) == {"name", "layer", "action", "why", "macs", "bits"}
    assert [row["name"] for row in data["rows"]] == [row.name for row in report.rows]
    assert (data["share"], data["share_beside_depthwise"]) == (report.share, report.share_beside_depthwise)
    assert json.loads(json.dumps(data)) == data


def test_the_report_as_a_table(mobilenet: Binarized) -> None:
    report = mobilenet.report
    lines = str(report).splitlines()
    assert len(lines) == len(report.rows) + 3
    assert lines[-2].startswith("proved: without binarizers, gates and what was added it equals the given network")
    assert report._repr_html_().count("<tr>") == len(report.rows) + 1
    assert lines[-1].startswith(f"method bbg: {report.share:.1%} of the multiply-accumulates outside the first")
    assert "100.0% beside the depthwise ones" in lines[-1]
    starts = {line.index(row.action) for line, row in zip(lines[1:], report.rows, strict=False)}
    assert len(starts) == 1


def test_a_copy_has_the_report(mobilenet: Binarized) -> None:
    assert copy.deepcopy(mobilenet).report == mobilenet.report


# ---- modes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [True, False])
def test_every_module_keeps_its_mode(training: bool) -> None:
    model = Own().train(training)
    model.bn3.eval()
    before = {name: module.training for name, module in model.named_modules()}
    binary = bbg.binarize(model, example=EXAMPLE)
    assert {name: module.training for name, module in model.named_modules()} == before
    assert binary.training == training
    assert not binary.get_submodule("conv3.norm").training
    assert all(m.training == training for n, m in binary.named_modules() if n != "conv3.norm")


def test_a_call_of_dropout_becomes_a_layer() -> None:
    dropout = bbg.binarize(Own(), example=EXAMPLE).get_submodule("dropout")
    assert isinstance(dropout, nn.Dropout)
    assert dropout.p == 0.5


@pytest.mark.parametrize("training", [True, False])
def test_dropout_follows_the_mode(training: bool) -> None:
    torch.manual_seed(0)
    binary = bbg.binarize(Own(), example=EXAMPLE).train(training)
    assert torch.equal(binary(EXAMPLE), binary(EXAMPLE)) == (not training)


def test_stochastic_depth_lives() -> None:
    binary = bbg.binarize(build("efficientnet_b0", stochastic_depth_prob=0.9), example=images(1, 64))
    depths = [m for m in binary.modules() if type(m).__name__ == "StochasticDepth"]
    assert len(depths) == 9
    for module in binary.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    x = images(2, 64)
    assert not torch.equal(binary(x), binary(x))


class Noisy(nn.Module):
    """A layer with weights that does more in training mode, and one that it reaches in that mode only."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.extra = conv(), conv()

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            x = x + torch.tanh(self.extra(x))
        y: Tensor = self.conv(x) * torch.tensor(2.0)
        return y


def test_heads_of_the_training_alone_are_dropped() -> None:
    rows = bbg.binarize(build("googlenet"), example=images(1, 64)).report.of("dropped")
    assert [(row.name, row.why) for row in rows] == [
        ("", "it does more in training mode"),  # it returns what the heads say, too
        ("aux1", "not reached in evaluation mode"),
        ("aux2", "not reached in evaluation mode"),
    ]


def test_the_model_gets_no_attribute() -> None:
    model = nn.Sequential(conv(3), Noisy(), conv())
    attributes = set(vars(model))
    bbg.binarize(model, example=EXAMPLE)
    assert set(vars(model)) == attributes  # torch.fx leaves its constants there


def test_the_result_can_be_traced() -> None:
    binary = bbg.binarize(Own(), example=EXAMPLE).eval()
    again = traced(binary, EXAMPLE).module()
    assert torch.equal(again(EXAMPLE), binary(EXAMPLE))


def test_the_result_is_binarized_no_further() -> None:
    binary = bbg.binarize(Own(), example=EXAMPLE)
    with pytest.raises(BbgError, match=r"nothing is left to binarize: .* conv2.conv .it was binary"):
        bbg.binarize(binary, example=EXAMPLE)


def test_a_network_of_our_own_becomes_binary() -> None:
    binary = bbg.binarize(bbg.create("resnet8", "float", num_classes=4, width=4), example=EXAMPLE)
    assert len(binary.report.of("binary")) == 6
    assert all((x < 0).any() for x in inputs_of_signs(binary, EXAMPLE).values())


def test_layers_that_were_binary_stay_and_get_both_signs() -> None:
    half = nn.Sequential(conv(3), nn.ReLU(), BinaryConv2d(4, 4, 1), nn.ReLU(), conv(), nn.ReLU(), conv())
    reasons = what(bbg.binarize(half, example=EXAMPLE))
    assert reasons["2"] == ("binary", "it was binary")
    assert reasons["1"][0] == reasons["3"][0] == "replaced"
