"""`bbg.binarize`: torchvision's networks, networks made for one rule each, what is refused, and the conversion."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from support.binarizing import EXAMPLE, conv, images, inputs_of_signs, storage, what
from torch import Tensor, fx, nn

import bbg
from bbg import BbgError
from bbg.binarization.network import Network
from bbg.graph import file as packed
from bbg.layers import BinaryConv2d, BinaryLinear, Shortcut, Unit
from bbg.methods import METHODS, Method
from bbg.methods.base import Hardtanh
from bbg.tracing.tracer import Tracer
from cases.foreign_networks import NETWORKS, build

torch.set_num_threads(1)
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

WHOLE = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(1))
SLOW = {"vgg11", "vgg11_bn", "vgg16", "vgg16_bn"}  # 100 million weights
EVERY = [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in NETWORKS]


def binary_layers(model: nn.Module) -> dict[str, BinaryConv2d | BinaryLinear]:
    return {n: m for n, m in model.named_modules() if isinstance(m, (BinaryConv2d, BinaryLinear))}


class Functional(nn.Module):
    """`function` of the images and the layers, which are called `a`, `b`, `c`, ..."""

    def __init__(self, function: Callable[..., Any], *layers: nn.Module) -> None:
        super().__init__()
        self.function, self.count = function, len(layers)
        for name, layer in zip("abcdefgh", layers, strict=False):
            setattr(self, name, layer)

    def forward(self, x: Tensor) -> Any:
        return self.function(x, *(getattr(self, name) for name in "abcdefgh"[: self.count]))


@pytest.mark.parametrize("name", EVERY)
def test_networks_that_nobody_here_wrote(name: str) -> None:
    torch.manual_seed(0)
    model, size = build(name), NETWORKS[name][1]
    loaded = copy.deepcopy(model.state_dict())
    binary = bbg.binarize(model, example=WHOLE)
    report = binary.report
    assert report.share_beside_depthwise >= 0.95
    assert {row.why for row in report.of("kept") if row.macs} <= {
        "first: it reads the images",
        "last: the output comes from it",
        "depthwise: one input channel per filter",
        "squeeze-excite: a pooled map that becomes a factor",
    }
    # The parameters are the given ones, with the numbers that were loaded.
    for row in report.of("binary"):
        unit, layer = binary.get_submodule(row.name), model.get_submodule(row.name)
        assert isinstance(unit, Unit)
        assert isinstance(layer, (nn.Conv2d, nn.Linear))
        weight: Any = unit.conv.weight
        assert weight is layer.weight or storage(weight) == storage(layer.weight)
        assert torch.equal(weight.flatten(), loaded[f"{row.name}.weight"].flatten())
        assert unit.conv.bias is layer.bias
    # No activation is left whose signs are all +1.
    again = Network.of(binary, images(1, size))
    signs = [node for node in again.graph.nodes if isinstance(again.module(node), (BinaryConv2d, BinaryLinear))]
    assert len(signs) == len(report.of("binary"))
    assert not [node for node in signs if again.silent(again.inputs(node)[0])]
    # A step of training.
    x = images(4, size)
    assert binary.training
    fractions = {n: float((v < 0).float().mean()) for n, v in inputs_of_signs(binary, x).items()}
    assert len(fractions) == len(signs)
    assert {n: f for n, f in fractions.items() if not 0.02 < f < 0.98} == {}
    optimizer = torch.optim.SGD(binary.parameters(), 1e-3)
    loss = F.cross_entropy(binary(x), torch.arange(4))
    loss.backward()
    assert loss.isfinite()
    assert [n for n, p in binary.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []
    optimizer.step()
    binary.eval()
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


# ---- conversion ----------------------------------------------------------------------------------------------------


class Own(nn.Module):
    """What people write: functions, one ReLU for all, a pool, dropout, a flattened map with a hidden layer behind."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1)
        self.conv2 = nn.Conv2d(8, 16, 3, padding=1, groups=2)
        self.conv3 = nn.Conv2d(16, 12, (3, 1), stride=2)
        self.bn3 = nn.BatchNorm2d(12)
        self.relu = nn.ReLU(inplace=True)
        self.fc1 = nn.Linear(12 * 2 * 3, 10)
        self.fc2 = nn.Linear(10, 16)
        self.bn2 = nn.BatchNorm1d(16)
        self.fc3 = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = self.relu(self.conv2(x))
        x = self.relu(self.bn3(self.conv3(x)))
        x = F.dropout(x, 0.5, training=self.training)
        x = torch.flatten(x, 1)
        x = self.relu(self.fc1(x))
        return self.fc3(torch.relu(self.bn2(self.fc2(x))))


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


# ---- the unit ------------------------------------------------------------------------------------------------------


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


def test_a_method_without_shortcut_has_none() -> None:
    plain = Method("plain", METHODS["bbg"].weight, METHODS["bbg"].activation, "none")
    binary = bbg.binarize(Own(), plain, example=EXAMPLE)
    assert not [m for m in binary.modules() if isinstance(m, Shortcut)]
    assert "conv2.gate" not in dict(binary.named_parameters())
    assert binary(EXAMPLE).shape == (4, 5)


def test_the_report() -> None:
    binary = bbg.binarize(build("mobilenet_v2"), example=WHOLE)
    report = binary.report
    by_name = {row.name: row for row in report.rows}
    assert by_name["features.0.0"].macs == 3 * 9 * 32 * 112 * 112
    assert by_name["features.1.conv.0.0"].macs == 9 * 32 * 112 * 112
    assert by_name["features.1.conv.1"].macs == 32 * 16 * 112 * 112
    assert by_name["features.1.conv.1"].why == "features.1.conv.2 goes inside"
    data = report.to_dict()
    assert data["share"] < data["share_beside_depthwise"] == 1
    inner = [row for row in report.rows if row.name not in ("features.0.0", "classifier.1")]
    total = sum(row.macs for row in inner)
    assert report.share == pytest.approx(sum(row.macs for row in inner if row.what == "binary") / total)
    lines = str(report).splitlines()
    assert len(lines) == len(report.rows) + 2
    assert lines[-1].startswith(f"method bbg: {report.share:.1%} of the multiply-accumulates outside the first")
    assert "100.0% beside the depthwise ones" in lines[-1]
    starts = {line.index(row.what) for line, row in zip(lines[1:], report.rows, strict=False)}
    assert len(starts) == 1
    assert copy.deepcopy(binary).report == report


# ---- modes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [True, False])
def test_modes_stay_and_dropout_lives(training: bool) -> None:
    torch.manual_seed(0)
    model = Own().train(training)
    model.bn3.eval()
    before = {name: module.training for name, module in model.named_modules()}
    binary = bbg.binarize(model, example=EXAMPLE)
    assert {name: module.training for name, module in model.named_modules()} == before
    assert binary.training == training
    assert not binary.get_submodule("conv3.norm").training
    assert all(m.training == training for n, m in binary.named_modules() if n != "conv3.norm")
    dropout = binary.get_submodule("dropout")
    assert isinstance(dropout, nn.Dropout)
    assert dropout.p == 0.5
    binary.train()
    assert not torch.equal(binary(EXAMPLE), binary(EXAMPLE))
    binary.eval()
    assert torch.equal(binary(EXAMPLE), binary(EXAMPLE))


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


def test_what_only_training_does_is_named() -> None:
    rows = bbg.binarize(build("googlenet"), example=images(1, 64)).report.of("dropped")
    assert [(row.name, row.why) for row in rows] == [
        ("", "it does more in training mode"),  # it returns what the heads say, too
        ("aux1", "not reached in evaluation mode"),
        ("aux2", "not reached in evaluation mode"),
    ]
    model = nn.Sequential(conv(3), Noisy(), conv())
    attributes = set(vars(model))
    rows = bbg.binarize(model, example=EXAMPLE).report.of("dropped")
    assert [(row.name, row.why) for row in rows] == [("1", "it does more in training mode")]
    assert set(vars(model)) == attributes  # torch.fx leaves its constants there


def test_the_result_can_be_traced_and_binarized_no_further() -> None:
    binary = bbg.binarize(Own(), example=EXAMPLE).eval()
    again = fx.GraphModule(binary, Tracer().trace(binary))
    assert torch.equal(again(EXAMPLE), binary(EXAMPLE))
    with pytest.raises(BbgError, match=r"nothing is left to binarize: .* conv2.conv .it was binary"):
        bbg.binarize(binary, example=EXAMPLE)


def test_a_network_of_our_own_becomes_binary_where_it_was_not() -> None:
    binary = bbg.binarize(bbg.create("resnet8", "float", num_classes=4, width=4), example=EXAMPLE)
    assert len(binary.report.of("binary")) == 6
    assert all((x < 0).any() for x in inputs_of_signs(binary, EXAMPLE).values())
    half = nn.Sequential(conv(3), nn.ReLU(), BinaryConv2d(4, 4, 1), nn.ReLU(), conv(), nn.ReLU(), conv())
    reasons = what(bbg.binarize(half, example=EXAMPLE))
    assert reasons["2"] == ("binary", "it was binary")
    assert reasons["1"][0] == reasons["3"][0] == "replaced"


# ---- refusals ------------------------------------------------------------------------------------------------------


class Branches(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


BAD: list[tuple[Callable[[], object], str]] = [
    (lambda: bbg.binarize(Own(), "float", example=EXAMPLE), "method 'float' is real-valued"),
    (lambda: bbg.binarize(Own(), "bgb", example=EXAMPLE), "unknown method 'bgb'; allowed are bbg"),
    (lambda: bbg.binarize(Own()), r"the example is NoneType; give example=images, a float tensor \[N, C, H, W\]"),
    (lambda: bbg.binarize(Own(), example=EXAMPLE.long()), r"the example is torch.int64 \[4, 3, 12, 12\]"),
    (lambda: bbg.binarize(Own(), example=EXAMPLE[0]), r"the example is torch.float32 \[3, 12, 12\]"),
    (lambda: bbg.binarize(Own(), example=EXAMPLE[:, :2]), r"cannot run on an example \[1, 2, 12, 12\]"),
    (lambda: bbg.binarize(nn.ReLU(), example=EXAMPLE), "no convolution and no linear layer"),
    (lambda: bbg.binarize(conv(3), example=EXAMPLE), "nothing is left to binarize: every layer is kept, as 0 .first"),
    (lambda: bbg.binarize(nn.Sequential(conv(3), Branches()), example=EXAMPLE), r"1 \(Branches\): torch.fx cannot"),
    (lambda: bbg.binarize(Functional(lambda x, a: a(x), conv(3)), keep="nope", example=EXAMPLE), "near are a"),
]


@pytest.mark.parametrize(("make", "words"), BAD)
def test_bad_requests_are_refused(make: Callable[[], object], words: str) -> None:
    with pytest.raises(BbgError, match=words):
        make()


def test_a_layer_that_sees_one_sign_only_is_told() -> None:
    """Of functions that no list knows: the example shows it."""

    class Squares(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.blind, self.sees = (nn.Conv2d(3, 3, 3, padding=1) for _ in range(3))
            self.last = nn.Conv2d(3, 2, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.first(x)
            return self.last(self.blind(x * x) + self.sees(x))

    model = Squares().train()
    rows = {row.name: row for row in bbg.binarize(model, example=torch.randn(2, 3, 8, 8)).report.rows}
    assert "its input has one sign only on the example" in rows["blind"].why
    assert "one sign" not in rows["sees"].why
    assert model.training
