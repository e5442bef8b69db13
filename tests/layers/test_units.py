"""Laws of the binary layers and of the unit, against plain torch in float64 and against loops."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from support.convolutions import CONVS
from torch import Tensor, nn

from bbg.errors import BbgError
from bbg.layers import BinaryConv2d, BinaryLinear, LinearUnit, Shortcut, Unit
from bbg.methods import ACTIVATIONS, METHODS, Binarizer, BinarizerForm, Method, get
from bbg.methods.adabin import TwoValueWeight
from bbg.methods.base import sign
from bbg.methods.bbg import SignActivation

torch.set_num_threads(1)


class PlainSign(Binarizer):
    """Signs alone, without a scale: sums stay integers."""

    def __init__(self, out_channels: int) -> None:
        super().__init__(axis=0)


class ShiftedActivation(Binarizer):
    """`shift_c + scale * sign(x - shift_c)`: a shift per channel."""

    def __init__(self, in_channels: int) -> None:
        super().__init__(axis=1)
        self.scale = nn.Parameter(torch.tensor(0.75))
        self.shift = nn.Parameter(torch.linspace(-0.5, 0.5, in_channels))

    def form(self, x: Tensor) -> BinarizerForm:
        return BinarizerForm(threshold=self.shift, scale=self.scale, shift=self.shift, width=self.scale)


SHIFTED = Method("shifted", TwoValueWeight, ShiftedActivation, shortcut="fixed", act="prelu")
SIGNS = Method("signs", PlainSign, SignActivation, shortcut="none")
BINARY: list[Method] = [*(m for m in METHODS.values() if m.weight is not None), SHIFTED, SIGNS]
ALL = [*BINARY, METHODS["float"]]


def drawn(*shape: int, seed: int = 0) -> Tensor:
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    x.view(-1)[:2] = torch.tensor([0.0, -0.0])
    return x


def named(method: Method) -> str:
    return method.name


def by_formula(layer: BinaryConv2d | BinaryLinear, x: Tensor) -> Tensor:
    """`product(q_x(x), q_w(w)) + bias` as it is written, in float64: zero padding adds 0, whatever q is."""
    layer = layer.double()
    q_x, q_w = layer.activation_binarizer(x.double()), layer.weight_binarizer(layer.weight)
    if isinstance(layer, BinaryLinear):
        return F.linear(q_x, q_w, layer.bias)
    return F.conv2d(q_x, q_w, layer.bias, layer.stride, layer.padding, layer.dilation, layer.groups)


@pytest.mark.parametrize("options", CONVS, ids=str)
@pytest.mark.parametrize("method", BINARY, ids=named)
def test_binary_conv_is_the_convolution_of_the_binarized(method: Method, options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    layer = BinaryConv2d(4, 6, method=method, **options)
    x = drawn(2, 4, 6, 5)
    y = layer(x)
    assert y.dtype == torch.float32
    assert torch.allclose(y.double(), by_formula(layer, x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("method", BINARY, ids=named)
def test_binary_linear_is_the_product_of_the_binarized(method: Method, bias: bool) -> None:
    torch.manual_seed(0)
    layer = BinaryLinear(13, 6, bias=bias, method=method)
    x = drawn(5, 13)
    assert torch.allclose(layer(x).double(), by_formula(layer, x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("method", BINARY, ids=named)
def test_gradients_are_those_of_the_formula(method: Method) -> None:
    torch.manual_seed(0)
    layer = BinaryConv2d(4, 6, 3, padding=1, groups=2, method=method).double()
    upstream = drawn(2, 6, 6, 5, seed=2).double()
    found = []
    for forward in (layer, lambda x: by_formula(layer, x)):
        layer.zero_grad()
        x = drawn(2, 4, 6, 5).double().requires_grad_()
        forward(x).backward(upstream)
        assert x.grad is not None
        found.append([x.grad, *(p.grad.clone() for p in layer.parameters())])
    for ours, formula in zip(*found, strict=True):
        assert torch.allclose(ours, formula, rtol=1e-9, atol=1e-9)
        assert ours.abs().max() > 0


@pytest.mark.parametrize(("channels", "kernel"), [(3, 3), (64, 3), (512, 3), (7, 7), (1, 1)])
def test_sums_of_signs_are_exact_integers(channels: int, kernel: int) -> None:
    layer = BinaryConv2d(channels, 8, kernel, padding=kernel // 2, bias=False, method=SIGNS)
    x = drawn(2, channels, 5, 5)
    exact = F.conv2d(sign(x).double(), sign(layer.weight).double(), padding=kernel // 2)
    y = layer(x)
    assert torch.equal(y.double(), exact)
    assert torch.equal(y, y.round())
    # The scale stands outside: one rounding behind the exact sum.
    scaled = BinaryConv2d(channels, 8, kernel, padding=kernel // 2, bias=False, method="bbg-plain")
    scaled.load_state_dict(layer.state_dict(), strict=True)
    alpha = layer.weight.abs().flatten(1).mean(1)
    assert torch.equal(scaled(x), exact.float() * alpha[:, None, None])


def test_zero_padding_adds_zero() -> None:
    layer = BinaryConv2d(3, 2, 3, padding=1, bias=False, method=SIGNS)
    x = drawn(1, 3, 1, 1)
    centre = (sign(x)[0, :, 0, 0] * sign(layer.weight)[:, :, 1, 1]).sum(1)
    assert torch.equal(layer(x)[0, :, 0, 0], centre)


def test_padding_of_shifted_activations_is_zero_too() -> None:
    torch.manual_seed(0)
    layer = BinaryConv2d(4, 2, 3, padding=1, bias=False, method=SHIFTED)
    x = drawn(1, 4, 1, 1)
    q_x, q_w = layer.activation_binarizer(x), layer.weight_binarizer(layer.weight)
    assert torch.allclose(layer(x)[0, :, 0, 0], (q_x[0, :, 0, 0] * q_w[:, :, 1, 1]).sum(1), atol=1e-6)


# The shortcut


def slow_shortcut(x: Tensor, channels: int, height: int, width: int) -> Tensor:
    n, have, h, w = x.shape
    y = torch.zeros(n, channels, height, width, dtype=torch.float64)
    for c, i, j in itertools.product(range(channels), range(height), range(width)):
        top, bottom = i * h // height, -(-(i + 1) * h // height)
        left, right = j * w // width, -(-(j + 1) * w // width)
        sources = [c % have] if have <= channels else list(range(c, have, channels))
        y[:, c, i, j] = x[:, sources, top:bottom, left:right].double().mean((1, 2, 3))
    return y


SHORTCUTS = [
    ((2, 6, 5, 5), 6, (5, 5)),
    ((2, 6, 8, 8), 12, (4, 4)),  # stride 2, twice as wide
    ((2, 6, 7, 9), 16, (4, 5)),  # odd map, wider by no multiple
    ((1, 10, 5, 5), 4, (5, 5)),  # narrower by no multiple
    ((1, 12, 5, 6), 4, (3, 3)),
    ((1, 5, 4, 4), 1, (4, 4)),
    ((1, 1, 4, 4), 5, (4, 4)),
    ((2, 3, 3, 4), 3, (5, 6)),  # padding makes the map larger
    ((2, 3, 4, 4), 7, (1, 1)),
    ((1, 7, 1, 1), 3, (3, 3)),
]


@pytest.mark.parametrize(("shape", "channels", "size"), SHORTCUTS)
def test_shortcut_of_every_shape_change(shape: tuple[int, ...], channels: int, size: tuple[int, int]) -> None:
    x = drawn(*shape)
    y = Shortcut(channels)(x, size)
    assert y.shape == (shape[0], channels, *size)
    assert torch.allclose(y.double(), slow_shortcut(x, channels, *size), atol=1e-6)
    assert not list(Shortcut(channels).parameters())


def test_shortcut_of_equal_shape_is_the_input_itself() -> None:
    x = drawn(1, 2, 3, 3)
    assert Shortcut(2)(x, (3, 3)) is x


def test_shortcut_is_average_pooling_where_the_stride_divides() -> None:
    x = drawn(2, 4, 8, 12)
    assert torch.allclose(Shortcut(4)(x, (4, 6)), F.avg_pool2d(x, 2), atol=1e-6)


# The unit

UNITS: list[tuple[int, int, dict[str, Any]]] = [
    (6, 6, {"kernel_size": 3, "padding": 1}),
    (6, 12, {"kernel_size": 3, "padding": 1, "stride": 2}),
    (6, 16, {"kernel_size": 3, "padding": 1, "stride": 2}),
    (10, 4, {"kernel_size": 1}),
    (4, 4, {"kernel_size": 3, "padding": 0}),
    (4, 6, {"kernel_size": 1, "padding": 1}),
    (4, 8, {"kernel_size": 3, "padding": 1, "groups": 2}),
]


def unit_by_formula(unit: Unit, method: Method, x: Tensor, pool: nn.Module | None) -> Tensor:
    """act(BN(conv) + gate * shortcut), then the pool; without a shortcut the pool stands before the BN."""
    norm = unit.norm
    y = unit.conv(x)
    size = y.shape[2:]
    if method.shortcut == "none" and pool is not None:
        y = pool(y)
    if unit.training:
        mean, variance = y.mean((0, 2, 3)), y.var((0, 2, 3), unbiased=False)
    else:
        mean, variance = norm.running_mean, norm.running_var
    y = (y - mean[:, None, None]) / (variance[:, None, None] + norm.eps).sqrt()
    y = y * norm.weight[:, None, None] + norm.bias[:, None, None]
    if method.shortcut != "none":
        gate = unit.gate if method.shortcut == "gated" else torch.ones(y.shape[1])
        y = y + gate[:, None, None] * slow_shortcut(x, y.shape[1], *size).float()
    y = unit.act(y)
    return pool(y) if pool is not None and method.shortcut != "none" else y


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("pool", [None, nn.MaxPool2d(2)], ids=["", "pool"])
@pytest.mark.parametrize("change", UNITS, ids=str)
@pytest.mark.parametrize("method", ALL, ids=named)
def test_unit_is_its_formula(
    method: Method, change: tuple[int, int, dict[str, Any]], pool: nn.Module | None, training: bool
) -> None:
    torch.manual_seed(0)
    inputs, outputs, options = change
    unit = Unit.build(inputs, outputs, method=method, pool=pool, **options).train(training)
    with torch.no_grad():
        for parameter in (unit.gate, unit.norm.weight, unit.norm.bias):
            if parameter is not None:
                parameter.uniform_(-1, 1)
        unit.norm.running_mean.uniform_(-1, 1)
        unit.norm.running_var.uniform_(0.5, 2)
        x = drawn(2, inputs, 7, 5)
        expected = unit_by_formula(unit, method, x, pool)
        assert torch.allclose(unit(x), expected, atol=1e-4)


def test_gate_is_one_at_first_and_its_gradient_is_the_shortcut() -> None:
    torch.manual_seed(0)
    unit = Unit.build(3, 4, 3, padding=1, stride=2, act="identity")
    assert unit.gate is not None
    assert unit.gate.tolist() == [1, 1, 1, 1]
    x, upstream = drawn(2, 3, 7, 7), drawn(2, 4, 4, 4, seed=1)
    unit(x).backward(upstream)
    assert torch.allclose(unit.gate.grad, (upstream * slow_shortcut(x, 4, 4, 4).float()).sum((0, 2, 3)), atol=1e-5)


@pytest.mark.parametrize("method", ALL, ids=named)
def test_what_each_method_puts_around_the_convolution(method: Method) -> None:
    unit = Unit.build(3, 4, 3, method=method)
    assert (unit.gate is not None) == (method.shortcut == "gated")
    assert (unit.shortcut is not None) == (method.shortcut != "none")
    assert type(unit.act) is type(ACTIVATIONS[method.act](4))
    assert isinstance(unit.conv, BinaryConv2d) == (method.weight is not None)
    assert unit.conv.bias is None


def test_float_unit_is_a_plain_convolution_layer() -> None:
    torch.manual_seed(0)
    unit = Unit.build(3, 4, 3, padding=1, method="float").eval()
    x = drawn(1, 3, 5, 5)
    y = F.relu(unit.norm(F.conv2d(x, unit.conv.weight, padding=1)) + x[:, [0, 1, 2, 0]])
    assert torch.equal(unit(x), y)


# The layers as torch modules

NORM = ("norm.weight", "norm.bias", "norm.running_mean", "norm.running_var", "norm.num_batches_tracked")


@pytest.mark.parametrize("method", BINARY, ids=named)
def test_state_dict_round_trip(method: Method) -> None:
    torch.manual_seed(0)
    one, two = (Unit.build(4, 8, 3, method=method).eval() for _ in range(2))
    x = drawn(1, 4, 6, 6)
    assert not torch.equal(one(x), two(x))
    two.load_state_dict(one.state_dict(), strict=True)
    assert torch.equal(one(x), two(x))


KEYS = {  # what checkpoints hold: a change here makes those that exist unreadable
    "float": {"conv.weight", *NORM},
    "bbg": {"conv.weight", "gate", *NORM},
    "xnor": {"conv.weight", *NORM},
    "bbg-plus": {
        "conv.weight",
        *(f"conv.activation_binarizer.{name}" for name in ("running_mean", "num_batches_tracked")),
        "gate",
        "act.slope",
        "act.before",
        "act.after",
        *NORM,
    },
    "reactnet": {"conv.weight", "conv.activation_binarizer.threshold", "act.slope", "act.before", "act.after", *NORM},
}


@pytest.mark.parametrize("method", KEYS)
def test_the_names_of_a_units_tensors_are_kept(method: str) -> None:
    unit = Unit.build(3, 4, 3, method=method, pool=nn.MaxPool2d(2))
    assert set(unit.state_dict()) == KEYS[method]
    if method == "xnor":
        return
    projected = Unit.build(3, 4, 3, method=method, project=True)
    learned = {"shortcut.conv.weight", *(f"shortcut.{name}" for name in NORM)}
    assert set(projected.state_dict()) == KEYS[method] | learned


def test_a_unit_takes_its_parts() -> None:
    torch.manual_seed(0)
    built = Unit.build(3, 4, 3, padding=1, pool=nn.MaxPool2d(2)).eval()
    unit = Unit(built.conv, built.norm, built.shortcut, torch.full((4,), 2.0), built.act, built.pool).eval()
    x = drawn(1, 3, 6, 6)
    y = built.act(built.norm(built.conv(x)) + 2 * built.shortcut(x, (6, 6)))
    assert torch.equal(unit(x), F.max_pool2d(y, 2))
    bare = Unit(built.conv, built.norm).eval()
    assert torch.equal(bare(x), built.norm(built.conv(x)))
    assert not bare.training
    assert bare.gate is None


@pytest.mark.parametrize("method", BINARY, ids=named)
def test_the_unit_around_a_linear_layer_averages_the_map_of_its_input(method: Method) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(6 * 5 * 4, 7).eval()
    unit = Unit.around(linear, method=method, shape=(6, 5, 4))
    assert isinstance(unit, LinearUnit)
    assert unit.conv.weight is linear.weight
    x = drawn(3, 120)
    y = unit.norm(unit.conv(x))
    if method.shortcut != "none":
        y = y + slow_shortcut(x.reshape(3, 6, 5, 4), 7, 1, 1).flatten(1).float()
    torch.testing.assert_close(unit(x), y)
    flat = Unit.around(linear, method=method)
    assert torch.equal(flat.conv(x), unit.conv(x))
    assert flat(x).shape == (3, 7)


@pytest.mark.parametrize("method", ["bbg", "reactnet"])
def test_signatures_are_those_of_torch(method: str) -> None:
    conv = BinaryConv2d(4, 6, 3, 2, 1, 1, 2, False, "zeros", None, torch.float64, method=method)
    assert (conv.stride, conv.padding, conv.groups, conv.bias) == ((2, 2), (1, 1), 2, None)
    assert conv.weight.dtype == torch.float64
    linear = BinaryLinear(4, 6, False, None, torch.float64, method=method)
    assert (linear.bias, linear.weight.dtype) == (None, torch.float64)
    assert isinstance(conv, nn.Conv2d)
    assert isinstance(linear, nn.Linear)


def test_bf16_autocast_keeps_the_signs() -> None:
    torch.manual_seed(0)
    layer = BinaryConv2d(16, 8, 3, padding=1, bias=False)
    x = drawn(2, 16, 6, 6)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    assert y.dtype == torch.bfloat16
    assert torch.allclose(y.float(), layer(x), rtol=2**-6, atol=1e-2)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: BinaryConv2d(3, 4, 3, method="nope"), "unknown method 'nope'; allowed are bbg"),
        (lambda: BinaryConv2d(3, 4, 3, method="float"), "method 'float' has no binarizers; use torch's own layer"),
        (lambda: BinaryLinear(3, 4, method="float"), "method 'float' has no binarizers"),
        (lambda: BinaryConv2d(3, 4, 3, padding_mode="reflect"), "padding_mode is 'reflect', only 'zeros'"),
        (lambda: Unit.build(3, 4, 3, act="gelu"), "unknown nonlinearity 'gelu'; allowed are identity, relu"),
        (lambda: Unit.build(3, 4, 3, act=""), "unknown nonlinearity ''"),
        (lambda: BinaryConv2d(3, 4, 3)(torch.zeros(3, 8, 8)), r"takes \[N, C, H, W\], got \[3, 8, 8\]"),
        (lambda: BinaryLinear(3, 4)(torch.zeros(2, 5, 3)), r"takes \[N, C\], got \[2, 5, 3\]; flatten"),
    ],
)
def test_bad_requests_are_refused(make: Callable[[], object], words: str) -> None:
    with pytest.raises(BbgError, match=words):
        make()


def test_get_passes_a_method_of_ones_own() -> None:
    assert get(SHIFTED) is SHIFTED
