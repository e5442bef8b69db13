"""Laws of the three forms: every binarizer and nonlinearity against its formula, forward and backward."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from bbg.errors import BbgError
from bbg.methods import ACTIVATIONS, METHODS, Binarizer, BinarizerForm, Hinge, Method, Pointwise, get
from bbg.methods.base import clipped, identity, sign, triangle

torch.set_num_threads(1)

BINARY = ["bbg", "bbg-balanced", "bbg-gate", "bbg-plain", "reactnet"]  # the others: test_other_methods.py
CENTRED = {"bbg", "bbg-balanced"}
SHAPES = [(5, 3, 3, 3), (4, 7, 1, 1), (8, 1, 5, 3), (6, 11)]


def drawn(*shape: int, seed: int = 0) -> Tensor:
    """Values of which some lie exactly on the spots that matter: +0.0, -0.0, 1 and -1."""
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    spots = torch.tensor([0.0, -0.0, 1.0, -1.0])
    x.view(-1)[: min(4, x.numel())] = spots[: x.numel()]
    return x


def scalar_sign(v: float) -> float:
    return 1.0 if v >= 0 else -1.0


def binarizers(name: str, inputs: int = 3, outputs: int = 5) -> tuple[Binarizer, Binarizer]:
    """The weight's and the activation's binarizer of a binary method."""
    weight, activation = METHODS[name].weight, METHODS[name].activation
    assert weight is not None
    assert activation is not None
    return weight(outputs), activation(inputs)


# sign


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_sign_is_never_zero_and_minus_zero_is_plus_one(dtype: torch.dtype) -> None:
    tiny = torch.finfo(dtype).smallest_normal
    x = torch.tensor([0.0, -0.0, tiny, -tiny, 2.0, -2.0, float("inf"), -float("inf")], dtype=dtype)
    assert sign(x).tolist() == [1, 1, 1, -1, 1, -1, 1, -1]
    assert sign(x).dtype == dtype


def test_sign_leaves_its_argument_alone() -> None:
    x = drawn(20)
    before = x.clone()
    sign(x)
    assert torch.equal(x, before)


@pytest.mark.parametrize(
    ("gradient", "formula"),
    [
        (identity, lambda v: 1.0),
        (clipped, lambda v: 1.0 if -1 <= v <= 1 else 0.0),
        # Bi-Real Net: 2 + 2x on [-1, 0), 2 - 2x on [0, 1), else 0.
        (triangle, lambda v: 2 + 2 * v if -1 <= v < 0 else 2 - 2 * v if 0 <= v < 1 else 0.0),
    ],
)
def test_pseudo_gradients_are_their_formulas(
    gradient: Callable[[Tensor], Tensor], formula: Callable[[float], float]
) -> None:
    x = torch.cat([drawn(40), torch.tensor([-1.5, -1.0, -0.5, 0.5, 1.0, 1.5])])
    before = x.clone()
    assert gradient(x).tolist() == pytest.approx([formula(v) for v in x.tolist()])
    assert torch.equal(x, before)


# Weights


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", BINARY)
def test_weights_are_alpha_times_sign_per_filter(name: str, shape: tuple[int, ...]) -> None:
    w = drawn(*shape)
    binarizer, _ = binarizers(name, outputs=shape[0])
    q = binarizer(w)
    for o in range(shape[0]):
        mean = w[o].mean() if name in CENTRED else torch.tensor(0.0)
        alpha = (w[o] - mean).abs().mean()
        expected = [float(alpha) * scalar_sign(v) for v in (w[o] - mean).flatten().tolist()]
        assert q[o].flatten().tolist() == pytest.approx(expected, rel=1e-6)
    assert q.shape == w.shape


@pytest.mark.parametrize("name", BINARY)
def test_weight_gradient_goes_straight_through_sign_and_as_written_through_centring_and_scale(name: str) -> None:
    w = drawn(4, 3, 3, 3).double().requires_grad_()
    upstream = drawn(4, 3, 3, 3, seed=1).double()
    binarizer, _ = binarizers(name, outputs=4)
    binarizer(w).backward(upstream)
    assert w.grad is not None
    for o in range(4):
        v, g = w[o].detach().flatten(), upstream[o].flatten()
        k = len(v)
        centred = v - v.mean() if name in CENTRED else v
        b, alpha = sign(centred), centred.abs().mean()
        # q_i = alpha * b_i with db_i = dc_i and dalpha = mean(b * dc); then dc_i = dv_i - mean(dv) where centred.
        # abs() has the derivative 0 at 0.
        grad = alpha * g + (g * b).sum() / k * torch.sign(centred)
        grad = grad - grad.mean() if name in CENTRED else grad
        assert torch.allclose(w.grad[o].flatten(), grad, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("offset", [0.0, 0.5, -3.0])
def test_centring_keeps_the_entropy_of_the_bits_near_one(offset: float) -> None:
    w = torch.randn(16, 64, 3, 3, generator=torch.Generator().manual_seed(0)) + offset

    def entropy(name: str) -> Tensor:
        p = (binarizers(name, outputs=16)[0](w) > 0).double().mean((1, 2, 3)).clamp(1e-12, 1 - 1e-12)
        return -(p * p.log2() + (1 - p) * (1 - p).log2())

    assert entropy("bbg").min() > 0.99
    if offset == -3.0:
        assert entropy("bbg-plain").max() < 0.1


def test_a_constant_filter_is_all_plus_one_with_scale_zero() -> None:
    form = binarizers("bbg", outputs=1)[0].form(torch.full((1, 3, 3, 3), 0.25))
    assert form.scale is not None
    assert form.scale.tolist() == [0.0]
    assert binarizers("bbg", outputs=1)[0](torch.full((1, 3, 3, 3), 0.25)).abs().max() == 0


# Activations


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (6, 3)])
@pytest.mark.parametrize("name", BINARY)
def test_activations_are_signs_against_the_threshold(name: str, shape: tuple[int, ...]) -> None:
    x = drawn(*shape)
    _, binarizer = binarizers(name, inputs=3)
    thresholds = [0.0, 0.0, 0.0]
    if name == "reactnet":
        thresholds = [0.5, -0.5, float(x[1, 2].flatten()[0])]  # the last one is hit exactly
        with torch.no_grad():
            binarizer.threshold.copy_(torch.tensor(thresholds))
    q = binarizer(x)
    for c, threshold in enumerate(thresholds):
        expected = [1.0 if v >= threshold else -1.0 for v in x[:, c].flatten().tolist()]
        assert q[:, c].flatten().tolist() == expected


@pytest.mark.parametrize("name", BINARY)
def test_activation_gradients(name: str) -> None:
    x = drawn(3, 2, 5, 5).requires_grad_()
    upstream = drawn(3, 2, 5, 5, seed=1)
    _, binarizer = binarizers(name, inputs=2)
    thresholds = torch.zeros(2)
    if name == "reactnet":
        thresholds = torch.tensor([0.25, -0.5])
        with torch.no_grad():
            binarizer.threshold.copy_(thresholds)
    binarizer(x).backward(upstream)
    u = x.detach() - thresholds[:, None, None]
    shape = (2 - 2 * u.abs()).clamp(min=0) if name == "reactnet" else (u.abs() <= 1).float()
    assert torch.equal(x.grad, upstream * shape)
    for parameter in binarizer.parameters():
        assert torch.allclose(parameter.grad, -(upstream * shape).sum((0, 2, 3)), atol=1e-6)


def test_width_never_changes_the_forward_pass() -> None:
    # -1e-45 / 4 rounds to -0.0, whose sign would be +1.
    x = torch.tensor([[-1e-45, 1e-45, -0.5]])
    assert Binarizer(1).signs(x, BinarizerForm(width=torch.tensor(4.0))).tolist() == [[-1, 1, -1]]


# Nonlinearities


HINGES = {
    "identity": lambda v, p: v,
    "relu": lambda v, p: max(v, 0.0),
    "hardtanh": lambda v, p: min(max(v, -1.0), 1.0),
    "prelu": lambda v, p: v if v >= 0 else p["slope"] * v,
    "maxout": lambda v, p: p["above" if v >= 0 else "below"] * v,
    "rprelu": lambda v, p: (v - p["before"] if v >= p["before"] else p["slope"] * (v - p["before"])) + p["after"],
}


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (7, 3)])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_nonlinearities_are_their_formulas(name: str, shape: tuple[int, ...]) -> None:
    act = ACTIVATIONS[name](3)
    with torch.no_grad():
        for i, parameter in enumerate(act.parameters()):
            parameter.copy_(drawn(3, seed=i + 5))
    x = 2 * drawn(*shape)
    y = act(x)
    for c in range(3):
        values = {k: p[c].item() for k, p in act.named_parameters()}
        expected = [HINGES[name](v, values) for v in x[:, c].flatten().tolist()]
        assert y[:, c].flatten().tolist() == pytest.approx(expected, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("given", range(2**4))
def test_every_combination_of_hinge_vectors(given: int) -> None:
    """What is left out of a hinge means its neutral value."""
    names = ("above", "below", "threshold", "bias")
    vectors = {n: drawn(3, seed=i + 9) for i, n in enumerate(names) if given >> i & 1}

    class Some(Pointwise):
        def hinge(self) -> Hinge:
            return Hinge(**vectors, low=-0.75, high=1.5)

    x = drawn(4, 3, 5, 5)
    full = {n: vectors.get(n, torch.full((3,), float(n in ("above", "below"))))[:, None, None] for n in names}
    u = x - full["threshold"]
    expected = (torch.where(u >= 0, full["above"], full["below"]) * u + full["bias"]).clamp(-0.75, 1.5)
    assert torch.allclose(Some()(x), expected, atol=1e-6)


# Names and bad input


def test_get_takes_names_and_methods() -> None:
    assert list(METHODS)[:4] == ["bbg", "bbg-balanced", "bbg-gate", "bbg-plain"]
    assert set(METHODS) >= {"xnor", "bireal", "irnet", "reactnet", "adabin", "float"}
    for name, method in METHODS.items():
        assert get(name) is method
        assert get(method) is method
        assert method.name == name


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: get("bgb"), "unknown method 'bgb'; allowed are bbg,"),
        (lambda: Method("m", Binarizer, Binarizer, shortcut="gate"), "shortcut is 'gate', allowed are gated"),
        (lambda: Method("m", Binarizer, None), "only one of weight and activation"),
        (lambda: Method("m", None, Binarizer), "only one of weight and activation"),
        (lambda: Method("m", None, None, act="gelu"), "act is 'gelu', allowed are identity"),
    ],
)
def test_bad_methods_are_refused(make: Callable[[], object], words: str) -> None:
    with pytest.raises(BbgError, match=words):
        make()
