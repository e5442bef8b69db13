"""Layers that were trained in 8 bits, packed: nothing is rounded anew, at any place, beside layers of other widths."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import bbg
from bbg.errors import BbgError
from bbg.graph.file import read
from bbg.layers import ByteConv2d, ByteLinear
from bbg.layers.byte import fix_pixels

torch.set_num_threads(1)

HOW = dataclasses.replace(bbg.Preprocess.of("cifar10"), size=(16, 16))
PIXELS = np.random.default_rng(0).integers(0, 256, (16, 16, 16, 3), dtype=np.uint8)
IMAGES = torch.from_numpy(HOW.normalize(PIXELS))


def recorded(model: nn.Module, images: Tensor = IMAGES, pixels: bool = False) -> nn.Module:
    """`model` behind a few batches in training mode, which its 8-bit layers have recorded."""
    if pixels:
        fix_pixels(model, images, torch.tensor(HOW.mean), torch.tensor(HOW.std))
    layers = [m for m in model.modules() if isinstance(m, (ByteConv2d, ByteLinear))]
    for layer in layers:
        layer.recording = True
    for i in range(3):
        model.train()(images.roll(i, -1))
    generator = torch.Generator().manual_seed(0)
    for layer in layers:
        layer.recording = False
        if not layer.fixed:
            with torch.no_grad():  # as if something had been learned
                layer.stretch += 0.05 * torch.randn(len(layer.low), generator=generator)
                layer.shift += 0.02 * torch.randn(len(layer.low), generator=generator)
    return model.eval()


NETWORKS: list[tuple[str, str, Any]] = [
    ("resnet8", "bbg", {"first": 8, "units.0": 8, "units.1": 32, "last": 8}),
    ("resnet8", "adabin", {"first": 8, "units.[02]": 8, "last": 8}),
    ("resnet8", "float", 8),
    ("resnet8", "bbg", 8),
    ("resnet18_cifar", "bireal", {"units.[0-3].*": 8, "last": 8}),
    ("resnet18_cifar", "float", {"units.[4-7].*": 8}),  # the projections beside them too
    ("vgg_small", "bbg", {"first": 8, "units.[01].*": 8, "last": 8}),
    ("vgg_small", "xnor", {"units.3.*": 8, "last": 8}),
    ("vgg_small", "float", 8),
]


@pytest.mark.parametrize(("name", "method", "bits"), NETWORKS, ids=str)
def test_the_engine_computes_what_was_trained(name: str, method: str, bits: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    options = {"size": 16} if name == "vgg_small" else {}
    model = recorded(bbg.create(name, method, num_classes=10, width=4, bits=bits, **options))
    report = bbg.convert(model, tmp_path / "n.bbg", IMAGES)  # integers are compared exactly in it
    assert not [found for found in report.findings if found.wrong]
    kinds = [op.kind for op in read(tmp_path / "n.bbg").graph.ops]
    layers = [m for m in model.modules() if isinstance(m, (ByteConv2d, ByteLinear))]
    assert kinds.count("byte_conv") == len(layers) > 0
    with torch.no_grad():
        same = bbg.load(tmp_path / "n.bbg", 1)(IMAGES.numpy()).argmax(1) == model(IMAGES).argmax(1).numpy()
    assert same.all()


@pytest.mark.parametrize("edges", [None, "fp32", "int8"])
def test_pixels_go_straight_into_a_stem_of_8_bits(edges: str | None, tmp_path: Path) -> None:
    torch.manual_seed(0)
    bits = {"first": 8, "units.0": 8, "last": 8}
    model = recorded(bbg.create("resnet8", num_classes=10, width=4, bits=bits), pixels=True)
    report = bbg.convert(model, tmp_path / "n.bbg", IMAGES, preprocess=HOW, edges=edges)
    graph = read(tmp_path / "n.bbg").graph
    assert graph.input_type == "bytes"
    assert graph.ops[0].kind == "byte_conv"
    assert report.edges is None
    with torch.no_grad():
        wanted = model(IMAGES).numpy()
    engine = bbg.load(tmp_path / "n.bbg", 1)
    for given in (PIXELS, IMAGES.numpy()):
        assert np.abs(engine(given) - wanted).max() < 1e-5 * np.abs(wanted).max()


def test_a_stem_with_a_range_of_its_own_reads_rounded_numbers(tmp_path: Path) -> None:
    model = recorded(bbg.create("resnet8", num_classes=10, width=4, bits={"first": 8}))
    bbg.convert(model, tmp_path / "n.bbg", IMAGES, preprocess=HOW)
    graph = read(tmp_path / "n.bbg").graph
    assert (graph.input_type, [op.kind for op in graph.ops[:2]]) == ("real", ["pointwise", "byte_conv"])


def test_real_layers_beside_them_take_the_bytes_that_are_there(tmp_path: Path) -> None:
    """Edges in 8 bits read a value whose bytes a trained layer has made already."""
    torch.manual_seed(0)
    a, b = ByteConv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1)

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.a, self.b = nn.Conv2d(3, 4, 3, padding=1), a, b

        def forward(self, x: Tensor) -> Tensor:
            y = self.stem(x).relu()
            return (self.a(y) + self.b(y)).mean((2, 3))

    model = recorded(Two())
    bbg.convert(model, tmp_path / "n.bbg", IMAGES, preprocess=HOW, calibration=IMAGES, edges="int8")
    ops = {op.name: op for op in read(tmp_path / "n.bbg").graph.ops}
    assert ops["a"].operands == ops["b"].operands
    assert [op.kind for op in ops.values()][:3] == ["byte_conv"] * 3


LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "grouped": (lambda: ByteConv2d(4, 8, 3, padding=1, groups=2), (4, 7, 7)),
    "strided and dilated": (lambda: ByteConv2d(3, 5, 3, stride=2, padding=2, dilation=2), (3, 9, 8)),
    "depthwise": (lambda: ByteConv2d(5, 5, 3, padding=1, groups=5), (5, 7, 7)),
    "depthwise, strided and dilated": (lambda: ByteConv2d(4, 4, 5, 2, 3, 2, groups=4, bias=False), (4, 9, 8)),
    "depthwise, no padding": (lambda: ByteConv2d(3, 3, (7, 1), groups=3), (3, 8, 3)),
    "two filters per channel": (lambda: ByteConv2d(4, 8, 3, padding=1, groups=4), (4, 7, 7)),
    "no padding": (lambda: ByteConv2d(3, 5, (1, 3)), (3, 6, 6)),
    "kernel larger than the map": (lambda: ByteConv2d(3, 5, 7, padding=3, bias=False), (3, 3, 2)),
    "flattened": (lambda: nn.Sequential(nn.Flatten(), ByteLinear(18, 4, channels=2)), (2, 3, 3)),
    "behind a join": (lambda: Joined(), (3, 6, 6)),
    "behind a pool": (lambda: nn.Sequential(ByteConv2d(3, 4, 3), nn.MaxPool2d(2), ByteConv2d(4, 4, 1)), (3, 8, 8)),
    "twice": (lambda: Twice(), (3, 6, 6)),
}


class Joined(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 2, 1), nn.Conv2d(3, 3, 1), ByteConv2d(5, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.c(torch.cat([self.a(x), self.b(x)], 1))
        return y


class Twice(nn.Module):
    """Two 8-bit layers read one value, each with its own range."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.b = nn.Conv2d(3, 4, 1), ByteConv2d(4, 4, 3, padding=1), ByteConv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x)
        z: Tensor = self.a(y) + self.b(y)
        return z


@pytest.mark.parametrize("name", LAYERS)
def test_any_place(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    make, shape = LAYERS[name]
    x = torch.randn(8, *shape, generator=torch.Generator().manual_seed(1))
    model = recorded(nn.Sequential(make()), x)
    report = bbg.convert(model, tmp_path / "n.bbg", x)
    assert not [found for found in report.findings if found.wrong]


class Bottleneck(nn.Module):
    """A block of MobileNetV2: 1x1 to more channels, depthwise, 1x1 back."""

    def __init__(self, channels: int, wide: int) -> None:
        super().__init__()

        def layers(inputs: int, outputs: int, **options: Any) -> list[nn.Module]:
            return [nn.Conv2d(inputs, outputs, bias=False, **options), nn.BatchNorm2d(outputs)]

        expand = layers(channels, wide, kernel_size=1)
        deep = layers(wide, wide, kernel_size=3, padding=1, groups=wide)
        self.body = nn.Sequential(*expand, nn.ReLU6(), *deep, nn.ReLU6(), *layers(wide, channels, kernel_size=1))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.body(x)
        return y


def test_a_network_with_depthwise_layers_is_bytes_throughout(tmp_path: Path) -> None:
    """Its depthwise layers learn like the others; packed, only the sums of the blocks are real numbers."""
    torch.manual_seed(0)
    blocks = (Bottleneck(8, 40), nn.Conv2d(8, 16, 1), Bottleneck(16, 24))
    net = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5))
    net = bbg.binarize(net, "float", example=IMAGES[:2], bits=8)
    layers = [m for m in net.modules() if isinstance(m, (ByteConv2d, ByteLinear))]
    assert len(layers) == 9
    model = recorded(net, pixels=True).train()
    model(IMAGES).square().sum().backward()
    assert all(layer.weight.grad.abs().sum() > 0 for layer in layers)
    assert all(layer.stretch.grad.abs().sum() > 0 for layer in layers if not layer.fixed)
    report = bbg.convert(model.eval(), tmp_path / "n.bbg", IMAGES, preprocess=HOW)
    assert not [found for found in report.findings if found.wrong]
    ops = read(tmp_path / "n.bbg").graph.ops
    assert [op.kind for op in ops if op.tensors.get("weight") is not None] == ["byte_conv"] * 9
    deep = [op for op in ops if op.attributes.get("groups", 1) > 1]
    assert [(op.real, bool(op.bytes)) for op in deep] == [(None, True)] * 2
    with torch.no_grad():
        wanted = model(IMAGES).numpy()
    for threads in (1, 2):
        given = bbg.load(tmp_path / "n.bbg", threads)(PIXELS)
        assert np.abs(given - wanted).max() < 1e-5 * np.abs(wanted).max()


@pytest.mark.parametrize("name", ["bbgnet_xs", "bbgnet_224"])
def test_a_network_is_checked_before_its_training(name: str) -> None:
    """Its ranges come later."""
    model = bbg.create(name, num_classes=3, width=4)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    bbg.check(model, torch.randn(1, 3, 64, 64))
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_without_a_range_it_is_refused(tmp_path: Path) -> None:
    model = bbg.create("resnet8", num_classes=3, width=4, bits={"units.0": 8})
    words = r"units.0.conv \(ByteConv2d\): no range of its input is known; train the network"
    with pytest.raises(BbgError, match=words):
        bbg.convert(model, tmp_path / "n.bbg", IMAGES)
