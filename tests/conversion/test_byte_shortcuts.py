"""Residual networks in 8 bits: what passes the convolutions is bytes too, where convolutions of bytes alone read it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import bbg
from bbg.graph import Graph
from bbg.graph.file import read
from bbg.image import Preprocess

HOW = replace(Preprocess.of("cifar10"), size=(8, 8))
PIXELS = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), dtype=np.uint8)
IMAGES = torch.from_numpy(HOW.normalize(PIXELS))


class Block(nn.Module):
    """`relu(b(relu(a(y))) + shortcut(y))` of `y = stem(x)`; `also`: what else reads y."""

    def __init__(self, project: bool, also: str = "") -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.a, self.b = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 1)
        self.shortcut = nn.Sequential(nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8)) if project else nn.Identity()
        self.last, self.also = nn.Conv2d(8, 4, 1), also

    def forward(self, x: Tensor) -> tuple[Tensor, ...] | Tensor:
        y = self.stem(x).relu()
        z = self.last((self.b(self.a(y).relu()) + self.shortcut(y)).relu())
        if self.also == "output":
            return z.mean((2, 3)), y
        return z.mean((2, 3)) + (F.adaptive_max_pool2d(y, 1).flatten(1)[:, :4] if self.also == "pool" else 0)


def packed(model: nn.Module, path: Path) -> Graph:
    """Converted, which holds engine and torch against each other, layer by layer."""
    bbg.convert(model.eval(), path, IMAGES, preprocess=HOW, calibration=IMAGES, edges="int8")
    return read(path).graph


def shortcuts(graph: Graph) -> list[str]:
    return [graph.values[op.shortcut].type for op in graph.ops if op.shortcut is not None]


def test_the_shortcut_is_bytes(tmp_path: Path) -> None:
    for project in (False, True):
        graph = packed(Block(project), tmp_path / "n.bbg")
        assert shortcuts(graph) == ["bytes"]
        assert [op.real is None for op in graph.ops if op.kind == "byte_conv"][:-1] == [True] * (4 if project else 3)


def test_it_stays_real_where_others_read_it(tmp_path: Path) -> None:
    assert shortcuts(packed(Block(False, "output"), tmp_path / "n.bbg")) == ["real"]
    assert shortcuts(packed(Block(False, "pool"), tmp_path / "n.bbg"))[0] == "real"


def test_layers_trained_in_8_bits_keep_their_real_stream(tmp_path: Path) -> None:
    """Their training adds the real numbers, so the engine does."""
    model = bbg.create("resnet8", "float", num_classes=4, width=8, bits=8)
    for layer in model.modules():
        if isinstance(layer, (bbg.layers.ByteConv2d, bbg.layers.ByteLinear)):
            layer.recording = True
    model.train()(IMAGES)
    bbg.convert(model.eval(), tmp_path / "n.bbg", IMAGES, preprocess=HOW)
    assert set(shortcuts(read(tmp_path / "n.bbg").graph)) == {"real"}


def test_bytes_cost_little_more_than_real_shortcuts(tmp_path: Path) -> None:
    """On drawn weights: the outputs move by a few steps of a byte, as they do by the rounded inputs alone."""
    torch.manual_seed(1)
    model = bbg.create("resnet8", "float", num_classes=4, width=8).eval()
    report = bbg.convert(model, tmp_path / "n.bbg", IMAGES, preprocess=HOW, calibration=IMAGES, edges="int8")
    assert report.edges is not None
    with torch.no_grad():
        reach = float(model(IMAGES).abs().max())
    assert report.edges.difference.largest < 0.03 * reach
