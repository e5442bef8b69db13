"""Laws of the analysis, against plain torch and against numbers worked out by hand."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import bbg
from bbg.analysis import activity, binary_layers, costs, flips, gates, histograms, signs, weight_entropy
from bbg.errors import BbgError
from bbg.graph.file import read
from bbg.layers import BinaryConv2d, BinaryLinear, ByteConv2d, Unit
from bbg.methods import METHODS, Binarizer, BinarizerForm, Method

torch.set_num_threads(1)


class Shifted(Binarizer):
    """Every vector of the form, per filter of a weight or per channel of an activation."""

    def __init__(self, axis: int, channels: int) -> None:
        super().__init__(axis)
        self.shift = nn.Parameter(torch.linspace(-0.1, 0.1, channels))

    def form(self, x: Tensor) -> BinarizerForm:
        scale = torch.tensor(0.75) if self.axis else torch.full_like(self.shift, 0.5)
        return BinarizerForm(threshold=self.shift, scale=scale, shift=self.shift)


class Bare(Binarizer):
    """Signs alone."""

    def __init__(self, axis: int, channels: int) -> None:
        super().__init__(axis)


SHIFTED, BARE = (Method(form.__name__, partial(form, 0), partial(form, 1), "none") for form in (Shifted, Bare))
BINARY = [*(m for m in METHODS.values() if m.weight is not None), SHIFTED, BARE]


def network(method: str | Method = "bbg", **options: Any) -> nn.Module:
    torch.manual_seed(0)
    return bbg.create("resnet8", method, num_classes=10, **options)


def images(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def entropy(p: float) -> float:
    return 0.0 if p in (0, 1) else -p * math.log2(p) - (1 - p) * math.log2(1 - p)


def fill(layer: nn.Module, share: float) -> None:
    """Make the first `share` of each filter of `layer` +1, the others -1."""
    weight: Any = layer.weight
    flat = torch.full_like(weight.data.flatten(1), -1.0)
    flat[:, : round(share * flat.shape[1])] = 1.0
    weight.data = flat.reshape(weight.shape)


# Signs, entropy, flips


@pytest.mark.parametrize("method", BINARY, ids=lambda method: method.name)
def test_signs_are_those_that_the_layer_multiplies_with(method: Method) -> None:
    model = network(method, width=8)
    found = signs(model)
    assert list(found) == [name for name, m in model.named_modules() if isinstance(m, BinaryConv2d)]
    for name, sign in found.items():
        layer = model.get_submodule(name)
        form = layer.weight_binarizer.form(layer.weight)
        q = layer.weight_binarizer(layer.weight)
        centre = 0 if form.shift is None else form.shift[:, None, None, None]
        assert sign.dtype == torch.bool
        assert torch.equal(sign, q > centre)


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 1.0])
def test_entropy_of_crafted_weights(share: float) -> None:
    model = nn.Sequential(
        BinaryConv2d(4, 6, 2, method="bbg-plain"), nn.Flatten(), BinaryLinear(6, 8, method="bbg-plain")
    )
    fill(model[0], share)
    rows = weight_entropy(model)
    assert [row.name for row in rows] == ["0", "2"]
    assert (rows[0].weights, rows[0].positive) == (96, share)
    assert rows[0].filters.shape == (6,)
    for value in (rows[0].layer, rows[0].least, rows[0].mean):
        assert value == pytest.approx(entropy(share), abs=1e-12)


def test_entropy_of_a_layer_is_not_that_of_its_filters() -> None:
    layer = BinaryLinear(8, 2, method="bbg-plain")
    layer.weight.data = torch.ones(2, 8) * torch.tensor([[1.0], [-1.0]])
    (row,) = weight_entropy(layer)
    assert (row.name, row.layer, row.least, row.mean) == ("", pytest.approx(1), 0, 0)


def test_centred_weights_have_much_entropy_and_shifted_ones_need_the_centring() -> None:
    for method, high in (("bbg", True), ("bbg-plain", False)):
        model = network(method)
        for layer in binary_layers(model).values():
            layer.weight.data += 2 * layer.weight.data.std()
        assert all((row.least > 0.9) == high and (row.layer > 0.9) == high for row in weight_entropy(model)), method


def test_flips_count_the_signs_that_differ() -> None:
    model = nn.Sequential(BinaryConv2d(4, 6, 2, method="bbg-plain"), BinaryConv2d(6, 4, 1, method="bbg-plain"))
    fill(model[0], 1.0)
    before = signs(model)
    assert flips(before, signs(model)) == {"0": 0.0, "1": 0.0}
    fill(model[0], 0.25)
    model[1].weight.data.neg_()
    assert flips(before, signs(model)) == {"0": 0.75, "1": 1.0}
    assert before["0"].all(), "an answer does not follow the weights"


def test_flips_of_two_networks_are_refused() -> None:
    before = signs(network())
    for other in (network(width=8), network("float")):
        with pytest.raises(BbgError, match=r"layer 'units.0.conv' is .* before and .* after; compare one network"):
            flips(before, signs(other))


# Gates


def test_gates() -> None:
    model = network(width=4)
    values = torch.tensor([-1.0, 0.0, 2.0, 3.0])
    model.units[0].gate.data = values.clone()
    rows = gates(model)
    assert [row.name for row in rows] == [f"units.{i}" for i in range(6)]
    assert torch.equal(rows[0].values, values)
    assert (rows[0].mean, rows[0].least, rows[0].largest, rows[0].negative) == (1.0, -1.0, 3.0, 0.25)
    assert rows[0].std == pytest.approx(math.sqrt(2.5))
    assert (rows[1].mean, rows[1].std, rows[1].negative) == (1.0, 0.0, 0.0)
    for method in ("bbg-balanced", "float", "reactnet"):
        assert gates(network(method)) == []


# Dead filters and stuck activations

NO_SHORTCUT = Method("no-shortcut", METHODS["bbg"].weight, METHODS["bbg"].activation, shortcut="none")


def test_a_live_network_has_none() -> None:
    for row in activity(network(), images(8, 3, 16, 16)):
        assert not row.dead.any()
        assert not row.stuck.any()


@pytest.mark.parametrize("kill", ["weights", "scale"])
@pytest.mark.parametrize(("name", "options"), [("resnet8", {}), ("vgg_small", {"width": 8, "size": 16})])
def test_a_filter_made_dead_is_found_and_only_that(kill: str, name: str, options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    for method in ("bbg", NO_SHORTCUT):  # then vgg pools before its BN
        model = bbg.create(name, method, num_classes=10, **options)
        place, unit = [(n, m) for n, m in model.named_modules() if isinstance(m, Unit)][2]
        if kill == "weights":
            unit.conv.weight.data[5] = 0.3  # centred, all its weights are 0 up to rounding
        else:
            unit.norm.weight.data[5] = -1e-6
        found = {row.name: row.dead.nonzero().flatten().tolist() for row in activity(model, images(6, 3, 16, 16))}
        assert {key: dead for key, dead in found.items() if dead} == {f"{place}.conv": [5]}


def test_a_channel_made_stuck_is_found_and_only_that() -> None:
    model = network()
    model.units[0].gate.data[:] = 0
    model.units[0].norm.bias.data[3:5] = torch.tensor([100.0, -100.0])
    rows = {row.name: row for row in activity(model, images(8, 3, 16, 16))}
    assert rows["units.1.conv"].stuck.nonzero().flatten().tolist() == [3, 4]
    assert rows["units.1.conv"].positive[3:5].tolist() == [1.0, 0.0]
    assert not rows["units.0.conv"].stuck.any()
    assert not rows["units.0.conv"].dead.any()


def test_shares_and_dead_filters_are_those_of_all_images_together() -> None:
    """Against the inputs and outputs of one layer, whatever the size of the batches."""
    layer = BinaryConv2d(5, 7, 3, padding=1, method="reactnet")
    layer.activation_binarizer.threshold.data = images(5, seed=1)
    x = images(10, 5, 6, 6)
    expected = (x >= layer.activation_binarizer.threshold[:, None, None]).double().mean((0, 2, 3))
    for batch in (250, 10, 4, 1):
        (row,) = activity(layer, x, batch=batch)
        assert torch.allclose(row.positive, expected, rtol=0, atol=1e-15)
        assert row.dead.shape == (7,)
        assert not row.dead.any()
    (single,) = activity(BinaryLinear(5, 7), x[:1, :, 0, 0])
    assert single.dead.all(), "on one image a linear layer cannot vary"


def test_batch_by_batch_constant_is_not_constant() -> None:
    layer = BinaryLinear(4, 3)
    x = torch.cat([torch.ones(2, 4), -torch.ones(2, 4), images(2, 4)])
    assert torch.equal(activity(layer, x, batch=2)[0].dead, activity(layer, x)[0].dead)
    assert not activity(layer, x, batch=2)[0].stuck.any()


def all_state(model: nn.Module) -> list[Any]:
    hooks = [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()]
    return [hooks, [m.training for m in model.modules()], {k: v.clone() for k, v in model.state_dict().items()}]


LOOKS: dict[str, Callable[[nn.Module, Tensor], object]] = {
    "activity": activity,
    "costs": costs,
    "entropy": lambda model, x: weight_entropy(model),
    "gates": lambda model, x: gates(model),
}


@pytest.mark.parametrize("look", LOOKS)
def test_a_look_leaves_the_model_as_it_was(look: str) -> None:
    model = network().train()
    model.units[1].norm.eval()  # a mixture, as in fine-tuning
    before = all_state(model)
    LOOKS[look](model, images(4, 3, 16, 16))
    after = all_state(model)
    assert before[:2] == after[:2]
    assert all(torch.equal(before[2][k], after[2][k]) for k in before[2])
    assert torch.is_grad_enabled()
    assert all(p.grad is None for p in model.parameters())
    if look in ("activity", "costs"):
        with pytest.raises(RuntimeError):
            LOOKS[look](model, images(4, 5, 16, 16))  # five channels
        assert all_state(model)[:2] == before[:2]
        with pytest.raises(BbgError, match=r"shape \[0, 3, 16, 16\], at least one is needed"):
            LOOKS[look](model, images(0, 3, 16, 16))


# Costs


def test_costs_of_resnet20_by_hand() -> None:
    found = costs(bbg.create("resnet20", num_classes=10), images(2, 3, 32, 32))
    same = 16 * 16 * 9 * 32 * 32  # each of the 16 units that keep their width: half the places, twice the channels
    assert found.macs == {1: 16 * same + 2 * (same // 2), 8: 0, 32: 3 * 16 * 9 * 32 * 32 + 64 * 10}
    bits = 9 * (6 * 16 * 16 + 16 * 32 + 5 * 32 * 32 + 32 * 64 + 5 * 64 * 64)
    filters = 6 * (16 + 32 + 64)
    real = 3 * 16 * 9 + 64 * 10 + 10 + 4 * (16 + filters + 64) + filters  # convolution, linear, BN, gates
    assert found.bytes == {1: bits // 8, 8: 0, 32: 4 * (real + filters)}  # and one scale per filter
    assert found.float_bytes == 4 * (bits + real + filters)
    rows = {row.name: row for row in found.rows}
    assert len(rows) == len(found.rows)
    unit = rows["units.6.conv"]
    assert (unit.kind, unit.shape, unit.bits, unit.weights, unit.vectors) == ("BinaryConv2d", (32, 16, 16), 1, 4608, 32)
    assert (unit.macs, unit.bytes) == (same // 2, 576 + 4 * 32)
    assert (rows["units.6"].vectors, rows["units.6.norm"].vectors, rows["stem.0"].bits) == (32, 128, 32)


VECTORS = {"bbg": 12, "reactnet": 12 + 8, "Shifted": 12 + 12 + 8 + 1 + 8, "Bare": 0}


@pytest.mark.parametrize("name", VECTORS)
def test_the_vectors_are_those_of_the_forms(name: str) -> None:
    """Scales and shifts of 12 filters; thresholds, one scale and shifts of 8 inputs; and 12 biases."""
    method = next(m for m in BINARY if m.name == name)
    (row,) = costs(BinaryConv2d(8, 12, 3, method=method), images(2, 8, 5, 5)).rows
    assert (row.weights, row.vectors) == (8 * 12 * 9, VECTORS[name] + 12)


CONVS: list[tuple[dict[str, Any], int]] = [
    ({"kernel_size": 3}, 8 * 9 * 12 * 8 * 6),
    ({"kernel_size": 3, "padding": 1, "groups": 4}, 2 * 9 * 12 * 10 * 8),
    ({"kernel_size": 3, "dilation": 2, "padding": 1}, 8 * 9 * 12 * 8 * 6),
    ({"kernel_size": (5, 1), "stride": (1, 2), "groups": 2}, 4 * 5 * 12 * 6 * 4),
]


@pytest.mark.parametrize(("options", "macs"), CONVS)
@pytest.mark.parametrize("layer", [nn.Conv2d, ByteConv2d, BinaryConv2d])
def test_costs_of_convolutions(layer: Any, options: dict[str, Any], macs: int) -> None:
    conv = layer(8, 12, bias=False, **options)
    found = costs(conv, images(3, 8, 10, 8))
    bits = {BinaryConv2d: 1, ByteConv2d: 8}.get(layer, 32)
    assert found.macs == {1: 0, 8: 0, 32: 0} | {bits: macs}
    assert found.bytes[bits] == -(-conv.weight.numel() * bits // 8)


def test_costs_of_8_bits() -> None:
    """A byte per weight; scale and offset of each input channel, and the bias, beside them."""
    (row,) = costs(ByteConv2d(8, 12, 3), images(2, 8, 5, 5)).rows
    assert (row.bits, row.weights, row.vectors, row.bytes) == (8, 864, 2 * 8 + 12, 864 + 4 * 28)


def test_a_shared_layer_is_held_once_and_runs_twice() -> None:
    conv = nn.Conv2d(4, 4, 1, bias=False)
    found = costs(nn.Sequential(conv, conv, nn.Flatten(2), nn.Linear(9, 5)), images(2, 4, 3, 3))
    assert [(row.name, row.macs, row.bytes) for row in found.rows] == [("0", 2 * 144, 64), ("3", 4 * 45, 4 * 50)]


@pytest.mark.parametrize("name", ["resnet18", "vgg_small"])
def test_products_are_those_of_the_converted_network(name: str, tmp_path: Path) -> None:
    model = bbg.create(name, num_classes=7, width=8).eval()
    x = images(2, 3, 32, 32)
    bbg.convert(model, tmp_path / "net.bbg", x)
    rows = read(tmp_path / "net.bbg").graph.costs()
    assert costs(model, x).macs == {bits: sum(r.macs for r in rows if r.bits == bits) for bits in (1, 8, 32)}


# Pictures


@pytest.mark.parametrize("method", ["bbg", "reactnet"])
def test_histograms_are_a_picture(method: str, tmp_path: Path) -> None:
    model = network(method, width=4)
    assert histograms(model, tmp_path / "a.png", title="a network") == tmp_path / "a.png"
    assert histograms(model, tmp_path) == tmp_path / "histograms.png"
    for name in ("a.png", "histograms.png"):
        picture = Image.open(io.BytesIO((tmp_path / name).read_bytes()))
        assert picture.format == "PNG"
        assert len(picture.convert("L").getcolors()) > 20
    with pytest.raises(BbgError, match=r"cannot be written .*choose another path"):
        histograms(model, tmp_path / "none" / "a.png")
    with pytest.raises(BbgError, match="no binary layer"):
        histograms(network("float"), tmp_path / "b.png")


def test_a_network_without_binary_layers_gives_empty_answers() -> None:
    model = network("float")
    assert (signs(model), flips({}, {}), weight_entropy(model), gates(model)) == ({}, {}, [], [])
    assert activity(model, images(2, 3, 16, 16)) == []
    assert costs(model, images(2, 3, 16, 16)).macs[1] == 0


def test_units_of_ones_own_network_are_found() -> None:
    model = nn.ModuleDict(
        {"body": nn.Sequential(Unit.build(3, 6, 3, padding=1), Unit.build(6, 6, 3, method="bbg-plain"))}
    )
    assert [row.name for row in gates(model)] == ["body.0"]
    assert [row.name for row in weight_entropy(model)] == ["body.0.conv", "body.1.conv"]
    assert bbg.analysis.signs is signs
