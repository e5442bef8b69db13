"""The methods beside bbg: forward against the formula, backward against autograd of the function they count as."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import bbg
from bbg.methods import METHODS, Binarizer
from bbg.methods.base import clipped, sign, triangle
from bbg.methods.irnet import SHALLOW, STEEP, Sharpening
from bbg.models.resnet import Residual

torch.set_num_threads(1)

METHOD_NAMES = ["xnor", "bireal", "irnet", "adabin"]
PROGRESS = [0.0, 0.5, 0.9]


def drawn(*shape: int, seed: int = 0) -> Tensor:
    """Double numbers, some of them 0 and beyond 1."""
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    x.view(-1)[:2] = torch.tensor([0.0, -0.0])
    return x


def weight_binarizer(name: str, progress: float = 0.0, outputs: int = 4) -> Binarizer:
    make = METHODS[name].weight
    assert make is not None
    binarizer = make(outputs).double()
    binarizer.anneal(progress)
    return binarizer


def activation_binarizer(name: str, progress: float = 0.0, inputs: int = 3) -> Binarizer:
    make = METHODS[name].activation
    assert make is not None
    binarizer = make(inputs).double()
    binarizer.anneal(progress)
    return binarizer


def gradient(function: Callable[[Tensor], Tensor], x: Tensor, upstream: Tensor) -> Tensor:
    leaf = x.clone().requires_grad_()
    function(leaf).backward(upstream)
    assert leaf.grad is not None
    return leaf.grad


def steepness(progress: float) -> tuple[float, float]:
    """`t` and `k` of IR-Net."""
    t = 10 ** (math.log10(SHALLOW) + progress * (math.log10(STEEP) - math.log10(SHALLOW)))
    return t, max(1 / t, 1)


def standard(w: Tensor) -> tuple[Tensor, Tensor]:
    mean = w.mean((1, 2, 3), keepdim=True)
    return mean, ((w - mean) ** 2).mean((1, 2, 3), keepdim=True).sqrt()


# Weights


@pytest.mark.parametrize("name", METHOD_NAMES)
def test_weights_are_their_formulas(name: str) -> None:
    w = drawn(4, 3, 3, 3) + 0.1
    q = weight_binarizer(name)(w)
    for o in range(4):
        values = w[o].flatten().tolist()
        mean = sum(values) / len(values)
        deviation = math.sqrt(sum((v - mean) ** 2 for v in values) / len(values))
        size = sum(abs(v) for v in values) / len(values)
        power = 2.0 ** round(math.log2(sum(abs(v - mean) / deviation for v in values) / len(values)))
        threshold, scale, shift = {
            "xnor": (0, size, 0),
            "bireal": (0, size, 0),
            "irnet": (mean, power, 0),
            "adabin": (mean, deviation, mean),
        }[name]
        expected = [shift + scale * (1 if v >= threshold else -1) for v in values]
        assert q[o].flatten().tolist() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("progress", PROGRESS)
@pytest.mark.parametrize("name", METHOD_NAMES)
def test_weight_gradients(name: str, progress: float) -> None:
    """Each counts backward as a smooth function, which autograd differentiates whole."""
    w, upstream = 1.5 * drawn(4, 3, 3, 3), drawn(4, 3, 3, 3, seed=1)
    t, k = steepness(progress)

    def irnet(w: Tensor) -> Tensor:
        mean, deviation = standard(w)
        v = (w - mean) / deviation
        return 2 ** v.abs().mean((1, 2, 3), keepdim=True).log2().round().detach() * k * torch.tanh(t * v)

    def adabin(w: Tensor) -> Tensor:
        mean, deviation = standard(w)
        signs = sign(w - mean)
        v = k * torch.tanh(t * (w - mean) / deviation)
        return mean + deviation * (signs.detach() + v - v.detach())

    def xnor(w: Tensor) -> Tensor:
        passing = w.clamp(-1, 1)
        return w.abs().mean((1, 2, 3), keepdim=True) * (sign(w).detach() + passing - passing.detach())

    counted_as = {"irnet": irnet, "adabin": adabin, "xnor": xnor, "bireal": lambda w: w.clamp(-1, 1)}[name]
    binarizer = weight_binarizer(name, progress)
    assert torch.allclose(gradient(binarizer, w, upstream), gradient(counted_as, w, upstream), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", METHOD_NAMES)
def test_a_constant_filter_gives_finite_numbers(name: str) -> None:
    w = torch.full((4, 3, 3, 3), 0.25, requires_grad=True)
    make = METHODS[name].weight
    assert make is not None
    q = make(4)(w)
    q.sum().backward()
    assert q.isfinite().all()
    assert w.grad is not None
    assert w.grad.isfinite().all()


# Activations


@pytest.mark.parametrize("progress", PROGRESS)
@pytest.mark.parametrize("name", METHOD_NAMES)
def test_activations_forward_and_backward(name: str, progress: float) -> None:
    x, upstream = drawn(2, 3, 4, 4), drawn(2, 3, 4, 4, seed=1)
    binarizer = activation_binarizer(name, progress)
    t, k = steepness(progress)
    centre, distance = 0.0, 1.0
    if name == "adabin":
        centre, distance = 0.25, 0.5
        with torch.no_grad():
            binarizer.centre.fill_(centre)
            binarizer.distance.fill_(-distance)  # its sign has no meaning
    assert torch.allclose(binarizer(x), centre + distance * sign(x - centre))
    v = (x - centre) / distance
    slope = {
        "xnor": clipped(v),
        "bireal": triangle(v),
        "irnet": k * t * (1 - torch.tanh(t * v) ** 2),
        "adabin": triangle(v),
    }[name]
    assert torch.allclose(gradient(binarizer, x, upstream), upstream * slope, rtol=1e-5, atol=1e-6)


def test_adabins_two_values_are_learned() -> None:
    x, upstream = drawn(2, 3, 4, 4), drawn(2, 3, 4, 4, seed=1)
    binarizer = activation_binarizer("adabin")
    binarizer(x).backward(upstream)
    centre, distance = (torch.tensor([v], dtype=torch.float64, requires_grad=True) for v in (0.0, 1.0))
    v = ((x - centre) / distance).clamp(-1, 1)
    smooth = 2 * v - v * v.abs()  # the derivative is 2 - 2 |v| on [-1, 1]
    (centre + distance * (sign(x) + smooth - smooth.detach())).backward(upstream)
    assert torch.allclose(binarizer.centre.grad, centre.grad, rtol=1e-5)
    assert torch.allclose(binarizer.distance.grad, distance.grad, rtol=1e-5)


def test_the_backward_pass_sharpens_and_the_forward_pass_does_not_change() -> None:
    binarizer = weight_binarizer("irnet")
    w = drawn(4, 3, 3, 3)
    before, slopes = binarizer(w), []
    for progress in (0.0, 0.25, 0.5, 0.75, 1.0):
        binarizer.anneal(progress)
        assert isinstance(binarizer, Sharpening)
        assert float(binarizer.t) == pytest.approx(steepness(progress)[0], rel=1e-6)
        assert torch.equal(binarizer(w), before)
        slopes.append(float(gradient(binarizer, w, torch.ones_like(w)).abs().max()))
    assert slopes[-1] > 5 * slopes[0]
    assert not [key for key in binarizer.state_dict() if key.endswith("t")]  # a function of the epoch, never stored


# Topology


def test_only_xnor_keeps_the_shortcut_of_a_block() -> None:
    for name, method in METHODS.items():
        net = bbg.create("resnet8", name, num_classes=10, width=4)
        blocks = [m for m in net.modules() if isinstance(m, Residual)]
        assert len(blocks) == (3 if method.shortcut == "none" else 0), name
    assert METHODS["xnor"].shortcut == "none"
