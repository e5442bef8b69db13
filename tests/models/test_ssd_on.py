"""Detectors that see with a classifier: its maps by name, nothing behind them, priors of the maps; and refusals."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from support.detectors_packed import packed_agrees
from support.voc import write_voc
from torch import Tensor, nn
from torchvision.models.feature_extraction import create_feature_extractor

import bbg
from bbg.boxes import count
from bbg.data import open_recipe
from bbg.errors import BbgError
from bbg.layers import BinaryConv2d, Unit
from bbg.models import ssd_on
from bbg.models.ssd import SSD
from bbg.recipe import Recipe
from bbg.training.loop import fit
from bbg.training.transfer import Weights

torch.set_num_threads(1)

SIZE = (64, 96)
LAYERS = ("layer2", "layer3", "layer4")
ours = bbg.create
theirs = torchvision.models


def narrow(**options: Any) -> nn.Module:
    """A ResNet of torchvision with few channels."""
    torch.manual_seed(0)
    return theirs.resnet._resnet(theirs.resnet.BasicBlock, [1, 1, 1, 1], None, False, **options)


def lively(model: nn.Module) -> nn.Module:
    """Statistics that are not those of a new network."""
    torch.manual_seed(1)
    for name, tensor in model.named_buffers():
        if tensor.is_floating_point():
            tensor.add_(0.1 * torch.rand_like(tensor)) if "var" in name else tensor.add_(0.1 * torch.randn_like(tensor))
    return model


BACKBONES: dict[str, tuple[Callable[[], nn.Module], Sequence[str], dict[str, Any]]] = {
    "resnet18": (lambda: ours("resnet18", num_classes=5, width=4), ("units.7", "units.11", "units.15"), {}),
    "xnor": (lambda: ours("resnet18", "xnor", num_classes=5, width=4), ("units.3", "units.7"), {"method": "xnor"}),
    "vgg_small": (lambda: ours("vgg_small", num_classes=5, width=4, size=SIZE), ("units.2", "units.4"), {"extra": 1}),
    "bbgnet": (
        lambda: ours("bbgnet_s", num_classes=5, width=4, bits=32),
        ("units.3", "units.5"),
        {"heads": "binary"},
    ),
    "vgg16": (lambda: ours("vgg16", num_classes=5, width=2), ("stages.0", "stages.1"), {"extra": 1}),
    "torchvision": (narrow, LAYERS, {"method": "float", "extra": 1}),
    "one map": (narrow, ("layer3",), {"method": "reactnet", "extra": 0, "heads": "separable"}),
    "mobilenet": (lambda: theirs.mobilenet_v3_small(num_classes=4), ("features.3", "features.8"), {"channels": 8}),
}


def made(name: str, **options: Any) -> tuple[nn.Module, SSD]:
    torch.manual_seed(0)
    make, layers, more = BACKBONES[name]
    backbone = lively(make())
    return backbone, ssd_on(backbone, layers, 3, SIZE, **({"channels": 8} | more | options))


@pytest.mark.parametrize("name", BACKBONES)
def test_the_maps_are_those_of_the_named_layers(name: str) -> None:
    """As torch's hooks see them in the whole classifier, in evaluation mode; all parts learn."""
    backbone, model = made(name)
    assert model.training
    assert model.backbone is not None
    wanted: list[Tensor] = []
    handles = [
        backbone.get_submodule(layer).register_forward_hook(lambda _, __, out: wanted.append(out))
        for layer in BACKBONES[name][1]
    ]
    x = torch.randn(2, 3, *SIZE)
    with torch.no_grad():
        backbone.eval()(x)
        for handle in handles:
            handle.remove()
        found = model.eval().backbone(x)  # type: ignore[misc]
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))
    maps = [tuple(one.shape[2:]) for one in wanted]
    assert [level.map for level in model.detection.levels][: len(maps)] == maps
    outputs = model.train()(x)
    number = count(model.detection.levels)
    assert {key: tuple(value.shape) for key, value in outputs.items()} == {
        "boxes": (2, number, 4),
        "scores": (2, number, 4),
    }
    (outputs["boxes"].square().mean() + outputs["scores"].square().mean()).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())


@pytest.mark.parametrize("name", BACKBONES)
def test_it_runs_packed(name: str, tmp_path: Path) -> None:
    packed_agrees(made(name)[1].eval(), SIZE, tmp_path / "n.bbg")


def test_what_comes_behind_the_last_layer_is_gone() -> None:
    backbone, model = made("torchvision")
    names = {key for key in model.state_dict() if key.startswith("backbone.")}
    assert names == {f"backbone.{key}" for key in backbone.state_dict() if not key.startswith("fc.")}
    shallow = ssd_on(backbone, ("layer1", "layer2"), 3, SIZE, extra=1)
    assert not [key for key in shallow.state_dict() if "layer3" in key]
    assert model.backbone.layer2 is backbone.layer2  # type: ignore[union-attr]


def test_maps_agree_with_torchvision() -> None:
    backbone = lively(narrow())
    model = ssd_on(backbone, LAYERS, 3, SIZE, method="float").eval()
    other = create_feature_extractor(backbone.eval(), list(LAYERS))
    x = torch.randn(2, 3, *SIZE)
    with torch.no_grad():
        found, wanted = model.backbone(x), other(x)  # type: ignore[misc]
    assert all(torch.equal(a, wanted[key]) for a, key in zip(found, LAYERS, strict=True))


def test_a_layer_and_one_inside_of_it_may_both_be_read() -> None:
    backbone = ours("vgg16", num_classes=5, width=2).eval()
    model = ssd_on(backbone, ("stages.0.5", "stages.0", "stages"), 3, SIZE, extra=0).eval()
    x = torch.randn(1, 3, *SIZE)
    with torch.no_grad():
        assert torch.equal(model.backbone(x)[2], backbone.stages(x))  # type: ignore[misc, operator]


@pytest.mark.parametrize("order", ["the backbone first", "the whole"])
def test_a_strangers_classifier_becomes_binary_and_learns(order: str, tmp_path: Path) -> None:
    recipe = Recipe(dataset="voc", task="detection", size="64x96", epochs=1, batch_size=4, lr=1e-3)
    split = open_recipe(recipe, write_voc(tmp_path / "data", 4, 2))
    example = torch.randn(2, 3, *SIZE)
    if order == "the whole":
        real = ssd_on(narrow(), LAYERS, 2, SIZE, method="float", extra=1, channels=16)
        model: nn.Module = bbg.binarize(real, example=example)
        assert model.detection == real.detection
        assert copy.deepcopy(model).detection == real.detection
        assert [row.why for row in model.report.rows if row.name == "scores.0"] == ["last: the output comes from it"]
    else:
        model = ssd_on(bbg.binarize(narrow(), example=example), LAYERS, 2, SIZE, extra=1, channels=16)
    assert sum(isinstance(m, BinaryConv2d) for m in model.modules()) > 8
    state = fit(model, recipe, split, progress=False)
    assert "test_map" in state.history[-1]
    packed_agrees(model.eval(), SIZE, tmp_path / "n.bbg")


def test_a_binarized_classifier_has_no_detection() -> None:
    binary = bbg.binarize(narrow(), example=torch.randn(2, 3, *SIZE))
    assert getattr(binary, "detection", None) is None


def test_it_starts_from_the_classifiers_weights() -> None:
    given, (_, model) = lively(narrow()), made("torchvision", extra=2)
    plan = Weights("given", given.state_dict()).give_to(model)
    assert set(plan.left) == {"fc.weight", "fc.bias"}
    assert plan.share == 1
    assert torch.equal(model.state_dict()["backbone.layer4.0.bn2.running_var"], given.layer4[0].bn2.running_var)  # type: ignore[index, union-attr, arg-type]
    own = ours("resnet18", num_classes=5)
    seeing = ssd_on(own, ("units.7", "units.15"), 3, SIZE)
    plan = Weights("theirs", theirs.resnet18().state_dict()).give_to(seeing)
    assert set(plan.left) == {"fc.weight", "fc.bias"}


def test_further_maps_are_units_of_the_method() -> None:
    model = made("resnet18", extra=2, channels=6)[1]
    units = [m for m in model.stages.modules() if isinstance(m, Unit)]
    assert len(units) == 4
    assert {m.conv.out_channels for m in units} == {6}
    sides = [level.map for level in model.detection.levels]
    assert sides[-3:] == [(2, 3), (1, 2), (1, 1)]


class Odd(nn.Module):
    """What a backbone may do that has no map to read."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.twice = nn.Conv2d(4, 4, 1)
        self.pair = Pair()
        self.unused = nn.Conv2d(4, 4, 1)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.conv(x))
        x, y = self.pair(self.twice(self.twice(x)))
        result: Tensor = self.head((x + y).mean((2, 3)))
        return result


class Pair(nn.Module):
    """Two tensors."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, 2 * x


class Choosing(Odd):
    """A branch on numbers."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x if x.sum() > 0 else -x)


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "an unknown name": (
        lambda: ssd_on(narrow(), ("layer2", "layer5"), 3, SIZE),
        r"has no layer 'layer5'; near that are 'layer",
    ),
    "a name far from all": (lambda: ssd_on(Odd(), ("xyz",), 3, SIZE), "near that are 'conv', 'relu', 'twice'"),
    "one name": (lambda: ssd_on(narrow(), "layer2", 3, SIZE), r"give a sequence of names, as \('layer2',\)"),
    "no name": (lambda: ssd_on(Odd(), (), 3, SIZE), "layers is empty; name those whose maps are read, as 'conv'"),
    "a name twice": (lambda: ssd_on(narrow(), ("layer2", "layer2"), 3, SIZE), "names 'layer2' twice"),
    "no map": (lambda: ssd_on(narrow(), ("layer2", "fc"), 3, SIZE), r"layer 'fc' gives \[1, 1000\], no map"),
    "two maps": (lambda: ssd_on(Odd(), ("pair",), 3, SIZE), "layer 'pair' gives a tuple, no map"),
    "called twice": (lambda: ssd_on(Odd(), ("twice",), 3, SIZE), "layer 'twice' is called 2 times"),
    "not called": (lambda: ssd_on(Odd(), ("unused",), 3, SIZE), "layer 'unused' is not called"),
    "changed in place": (lambda: ssd_on(Odd(), ("conv",), 3, SIZE), "'conv' gives is changed in place by relu"),
    "a branch on numbers": (lambda: ssd_on(Choosing(), ("relu",), 3, SIZE), "cannot trace its forward"),
    "too small": (lambda: ssd_on(narrow(), LAYERS, 3, 32), "behind 'layer4' a map is 1x1 after 0 further maps of 2"),
    "too small in between": (lambda: ssd_on(narrow(), LAYERS, 3, 64), "a map is 1x1 after 1 further maps of 2"),
    "smaller than a kernel": (
        lambda: ssd_on(nn.Sequential(nn.Conv2d(3, 4, 7)), ("0",), 3, 5),
        r"cannot run on images \[1, 3, 5, 5\] \(.*\); give the size",
    ),
    "other channels": (
        lambda: ssd_on(narrow(), LAYERS, 3, SIZE, in_channels=1),
        r"cannot run on images \[1, 1, 64, 96\]",
    ),
    "no size": (lambda: ssd_on(narrow(), LAYERS, 3, 0), "allowed are sides from 1"),
    "no classes": (lambda: ssd_on(narrow(), LAYERS, 0, SIZE), "num_classes is 0"),
    "extra": (lambda: ssd_on(narrow(), LAYERS, 3, SIZE, extra=-1), "extra is -1, allowed are integers from 0"),
    "channels": (lambda: ssd_on(narrow(), LAYERS, 3, SIZE, channels=2.5), r"channels is 2\.5"),  # type: ignore[arg-type]
    "scales": (lambda: ssd_on(narrow(), LAYERS, 3, SIZE, extra=0, scales=(0.1, 0.2)), "allowed are 4 scales"),
    "ratios": (lambda: ssd_on(narrow(), LAYERS, 3, SIZE, extra=0, ratios=(0,)), "ratios above 0"),
    "heads": (lambda: ssd_on(narrow(), LAYERS, 3, SIZE, extra=0, heads="wide"), "heads is 'wide'"),
    "a state dict": (lambda: ssd_on(narrow().state_dict(), LAYERS, 3, SIZE), "give the torch.nn.Module itself"),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_refused(case: str) -> None:
    call, message = REFUSED[case]
    with pytest.raises(BbgError, match=message):
        call()
