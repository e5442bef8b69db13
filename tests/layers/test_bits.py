"""The width of each layer, by pattern: in networks of `bbg.create`, in recipes and in `bbg.binarize`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import bbg
from bbg.errors import BbgError
from bbg.layers import BinaryConv2d, ByteConv2d, ByteLinear, Unit, set_bits
from bbg.layers.bits import bits_of, rules_of, width_of
from bbg.methods import METHODS
from bbg.models import NETWORKS
from bbg.recipe import Recipe

torch.set_num_threads(1)

NAMES = ["stem.0", *(f"units.{i}.conv" for i in range(6)), "head"]
RULES: list[tuple[Any, list[int]]] = [
    (None, [32, 1, 1, 1, 1, 1, 1, 32]),
    (8, [8] * 8),
    (32, [32] * 8),
    ({"*": 8}, [8] * 8),
    ({"first": 8, "last": 8}, [8, 1, 1, 1, 1, 1, 1, 8]),
    ({"units.0": 8, "units.1.conv": 32, "units.*": 1}, [32, 8, 32, 1, 1, 1, 1, 32]),
    ({"units.[01].*": 8, "*.conv": 32}, [32, 8, 8, 32, 32, 32, 32, 32]),
    ({"units": 8, "units.0": 1}, [32, 8, 8, 8, 8, 8, 8, 32]),  # the first that fits
]


def widths(model: nn.Module) -> dict[str, int]:
    return {name: bits for name, module in model.named_modules() if (bits := bits_of(module)) is not None}


@pytest.mark.parametrize(("bits", "wanted"), RULES, ids=str)
def test_the_first_pattern_that_fits_decides(bits: Any, wanted: list[int]) -> None:
    torch.manual_seed(0)
    model = bbg.create("resnet8", num_classes=3, width=4, bits=bits)
    assert widths(model) == dict(zip(NAMES, wanted, strict=True))
    torch.manual_seed(0)
    plain = dict(bbg.create("resnet8", num_classes=3, width=4).named_parameters())
    for name, parameter in model.named_parameters():  # the same draws at any width
        if name in plain:
            assert torch.equal(parameter, plain[name])
    rules = rules_of(bits)
    ends = {"first": NAMES[:1], "last": NAMES[-1:]}
    given = [width_of(name, rules, ends) for name in NAMES]
    assert [w for w, g in zip(wanted, given, strict=True) if g] == [g for g in given if g]


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("method", METHODS)
def test_every_network_by_every_method_has_every_width(name: str, method: str) -> None:
    size = {"vgg_small": {"size": 16}, "ssd300_vgg16": {"size": 257}}.get(name, {"size": 64} if "ssd" in name else {})
    for bits in (8, 32):
        model = bbg.create(name, method, num_classes=3, width=4, bits=bits, **size)
        assert set(widths(model).values()) == {bits}
        assert not [m for m in model.modules() if isinstance(m, BinaryConv2d)]
        side = 257 if name == "ssd300_vgg16" else 64 if name.startswith("ssd") else 16
        y = model(torch.randn(2, 3, 32 if name in ("resnet18", "resnet34") else side, side))
        scores = y["scores"] if isinstance(y, dict) else y
        scores.sum().backward()
        assert scores.shape[::2] == (2, 4) if isinstance(y, dict) else scores.shape == (2, 3)
        units = [m for m in model.modules() if isinstance(m, Unit)]
        assert len([u for u in units if (u.gate is None) == (METHODS[method].shortcut != "gated")]) == len(units)


@pytest.mark.parametrize(
    ("bits", "words"),
    [
        (4, "'\\*' has 4, allowed are patterns with 1, 8 or 32 bits"),
        ({"units.0": True}, "'units.0' has True"),
        ({"unit.0": 8}, "'unit.0' fits no convolution or linear layer; near are units.0.conv"),
        (1, "'stem.0' cannot have 1 bit: it stands in no unit of a binary method, or the network makes"),
    ],
)
def test_what_cannot_be_is_refused(bits: Any, words: str) -> None:
    with pytest.raises(BbgError, match=words):
        bbg.create("resnet8", num_classes=3, bits=bits)


def test_a_float_network_has_no_layers_of_one_bit() -> None:
    with pytest.raises(BbgError, match=r"'units.0.conv' cannot have 1 bit"):
        bbg.create("resnet8", "float", num_classes=3, bits={"units.0": 1})


def test_the_head_of_a_vgg_has_a_range_per_channel_of_its_map() -> None:
    head: Any = bbg.create("vgg_small", num_classes=3, width=4, size=16, bits={"last": 8}).head
    assert (head.in_features, head.channels) == (4 * 4 * 4, 16)


def test_widths_can_be_changed_again() -> None:
    model = bbg.create("resnet8", num_classes=3, width=4, bits={"units.0": 8, "last": 8})
    weight = model.get_submodule("units.0.conv").weight
    set_bits(model, {"units.0": 32, "last": 32})
    layer = model.get_submodule("units.0.conv")
    assert type(layer) is nn.Conv2d
    assert layer.weight is weight
    assert type(model.head) is nn.Linear


# ---- recipes


def test_recipes_hold_widths(tmp_path: Path) -> None:
    recipe = Recipe.find("digits_resnet8")
    for bits in (None, 8, {"units.[01]*": 8, 'a "name"': 32}):
        changed = recipe.changed({"bits": bits})
        (tmp_path / "r.toml").write_text(changed.to_toml())
        assert Recipe.load(tmp_path / "r.toml") == changed
        assert Recipe.from_dict(changed.to_dict()) == changed
    assert recipe.changed({"bits": '{first = 8, "units.*" = 1}'}).bits == {"first": 8, "units.*": 1}
    for wrong in ("eight", {"first": "8"}, {"first": 8.0}, [8]):
        with pytest.raises(BbgError, match="recipe key 'bits' is"):
            recipe.changed({"bits": wrong})


# ---- binarize


class Net(nn.Module):
    """A stem, three layers of which one is depthwise, and a head behind a flattened map."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.a = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.b = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.deep = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.pool = nn.AdaptiveAvgPool2d(2)
        self.fc = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.fc(self.pool(self.deep(self.b(self.a(self.stem(x))))).flatten(1))
        return y


EXAMPLE = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        ({}, {"stem.0": 32, "a.0": 1, "b.0": 1, "deep": 32, "fc": 32}),
        ({"bits": {"a": 8}}, {"stem.0": 32, "a.0": 8, "b.0": 1, "deep": 32, "fc": 32}),
        ({"bits": {"first": 8, "last": 8}}, {"stem.0": 8, "a.0": 1, "b.0": 1, "deep": 32, "fc": 8}),
        ({"bits": 8}, {"stem.0": 8, "a.0": 8, "b.0": 8, "deep": 8, "fc": 8}),
        ({"bits": {"*.0": 8}, "keep": ()}, {"stem.0": 8, "a.0": 8, "b.0": 8, "deep": 32, "fc": 1}),
        ({"bits": {"a": 1}, "keep": ("a", "b")}, {"stem.0": 1, "a.0": 1, "b.0": 32, "deep": 32, "fc": 1}),
        ({"bits": {"deep": 8}}, {"stem.0": 32, "a.0": 1, "b.0": 1, "deep": 8, "fc": 32}),
        ({"bits": {"deep": 1, "fc": 8}}, {"stem.0": 32, "a.0": 1, "b.0": 1, "deep": 32, "fc": 8}),  # never 1
        ({"bits": 8, "method": "float"}, {"stem.0": 8, "a.0": 8, "b.0": 8, "deep": 8, "fc": 8}),
    ],
    ids=str,
)
def test_binarize_gives_each_layer_its_width(arguments: dict[str, Any], wanted: dict[str, int]) -> None:
    torch.manual_seed(0)
    model = Net()
    binary = bbg.binarize(model, example=EXAMPLE, **arguments)
    rows = {row.name: row for row in binary.report.rows if row.bits is not None}
    assert {name: row.bits for name, row in rows.items()} == wanted
    assert {name: row.action for name, row in rows.items()} == {
        name: {1: "binary", 8: "rounded", 32: "kept"}[bits] for name, bits in wanted.items()
    }
    assert sum(binary.report.macs.values()) == sum(row.macs for row in rows.values())
    assert {id(p) for p in model.parameters()} <= {id(p) for p in binary.parameters()}
    proof = binary.report.proof
    assert proof is not None
    assert max(proof.evaluation, proof.training, proof.gradients, proof.statistics) < 1e-5
    for name, bits in wanted.items():
        if bits == 8:
            assert isinstance(binary.get_submodule(name), (ByteConv2d, ByteLinear))
    head: Any = binary.get_submodule("fc")
    if wanted["fc"] == 8:
        assert head.channels == 8  # of the map that is flattened


def test_activations_before_8_bit_layers_stay() -> None:
    binary = bbg.binarize(Net(), example=EXAMPLE, bits={"a": 8})
    replaced = [row.name for row in binary.report.of("replaced")]
    assert replaced == ["a.2"]  # before the sign of b; the one before a stays


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"bits": {"x": 8}}, "bits: 'x' fits no convolution or linear layer"),
        ({"bits": 16}, "allowed are patterns with 1, 8 or 32 bits"),
        ({"bits": 32}, "nothing is left to binarize: every layer is kept, as stem.0"),
        ({"bits": {"a": 8}, "method": "float"}, "method 'float' has no layers of 1 bit, as 'b.0' would be"),
    ],
)
def test_binarize_refuses_what_cannot_be(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(BbgError, match=words):
        bbg.binarize(Net(), example=EXAMPLE, **arguments)
