"""Laws of the 8-bit layers, against sums of integers in numpy, and of their gradients and ranges."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support.convolutions import CONVS
from torch import Tensor, nn

import bbg
from bbg.errors import BbgError
from bbg.layers import ByteConv2d, ByteLinear
from bbg.layers.byte import fix_pixels

torch.set_num_threads(1)

RANGES = ((-1.0, 2.0), (0.0, 3.0), (0.5, 2.0), (-3.0, -1.0))  # across 0, from 0, and to one side of it


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def ranged(layer: Any, seed: int = 0) -> Any:
    """`layer` with a range of its own for each channel, partly learned."""
    ends = torch.tensor([RANGES[i % len(RANGES)] for i in range(len(layer.low))])
    layer.low.copy_(ends[:, 0])
    layer.high.copy_(ends[:, 1])
    layer.batches.fill_(1)
    with torch.no_grad():
        layer.stretch.copy_(0.2 * drawn(len(layer.low), seed=seed + 1))
        layer.shift.copy_(0.1 * drawn(len(layer.low), seed=seed + 2))
    return layer.eval()


def integers(layer: Any, x: np.ndarray, w: np.ndarray) -> tuple[np.ndarray, ...]:
    """Bytes u, weights q, and their scales and offsets, in numpy: channels on axis 1 of `x` and `w`, whole groups."""
    low, high, stretch, shift = (
        t.detach().numpy().astype(np.float32) for t in (layer.low, layer.high, layer.stretch, layer.shift)
    )
    s = (high - low) * np.exp(stretch) / np.float32(255)
    b = low + (high - low) * shift
    ndim = x.ndim - 2
    sx, bx = (v.reshape(1, -1, *[1] * ndim) for v in (s, b))
    u = np.rint(np.clip((x - bx) / sx, 0, 255))
    groups = len(s) // w.shape[1]
    of_filter = np.repeat(s.reshape(groups, 1, -1), len(w) // groups, axis=1).reshape(len(w), -1, *[1] * ndim)
    scaled = w * of_filter
    a = np.abs(scaled).reshape(len(w), -1).max(1) / np.float32(127)
    q = np.rint(scaled / a.reshape(-1, *[1] * (w.ndim - 1)))
    assert np.abs(q).max() == 127
    return u, q, s, b, a, of_filter


DEPTHWISE = [(outputs, {**options, "groups": 4}) for outputs in (4, 8) for options in CONVS]


@pytest.mark.parametrize(("outputs", "options"), [*((6, options) for options in CONVS), *DEPTHWISE], ids=str)
def test_a_convolution_is_that_of_what_bytes_and_integers_stand_for(outputs: int, options: dict[str, Any]) -> None:
    layer = ranged(ByteConv2d(4, outputs, **options))
    x = 2 * drawn(3, 4, 6, 5, seed=3)
    u, q, s, b, a, of_filter = integers(layer, x.numpy(), layer.weight.detach().numpy())
    numbers = torch.from_numpy(u.astype(np.float64) * s[:, None, None] + b[:, None, None])
    weights = torch.from_numpy(q.astype(np.float64) * a[:, None, None, None] / of_filter)
    bias = None if layer.bias is None else layer.bias.double()
    wanted = F.conv2d(numbers, weights, bias, layer.stride, layer.padding, layer.dilation, layer.groups)  # pads with 0
    torch.testing.assert_close(layer(x).double(), wanted, rtol=1e-5, atol=1e-5)
    # and near to what is not rounded, where the numbers are in range
    inside = numbers.float()
    assert (layer(inside) - layer.real(inside)).abs().max() < 0.02 * layer.real(inside).abs().max()


@pytest.mark.parametrize(("channels", "shape"), [(None, (4, 12)), (3, (4, 12)), (None, (2, 5, 7, 12))])
def test_a_linear_layer_is_that_of_what_bytes_and_integers_stand_for(
    channels: int | None, shape: tuple[int, ...]
) -> None:
    layer = ranged(ByteLinear(12, 5, channels=channels))
    x = 2 * drawn(*shape, seed=3)
    each = 12 // layer.channels
    s, b = (v.detach().double().repeat_interleave(each) for v in layer.quantization())
    u = ((x - b.float()) / s.float()).clamp(0, 255).round().double()
    scaled = layer.weight.detach() * s.float()
    a = (scaled.abs().amax(1) / 127).double()[:, None]
    q = (scaled / a.float()).round().double()
    wanted = (u * s + b) @ (q * a / s).T + layer.bias.double()
    torch.testing.assert_close(layer(x).double(), wanted, rtol=1e-5, atol=1e-5)


def test_sums_are_exact_integers() -> None:
    """Scaled back, the sum of each output is an integer: what the engine counts."""
    layer = ranged(ByteConv2d(64, 8, 3, bias=False))
    layer.low.zero_()
    with torch.no_grad():
        layer.shift.zero_()  # zero is a byte, so nothing else is added
    scale, _ = layer.quantization()
    _, a = layer.integers(scale)
    sums = (layer(3 * drawn(2, 64, 9, 9).abs()) / a[:, None, None]).double()
    assert sums.abs().max() > 1e5
    torch.testing.assert_close(sums, sums.round(), rtol=2e-7, atol=1e-3)


def test_gradients_go_straight_through_the_roundings() -> None:
    """They are those of the layer without roundings where an input is in its range, and 0 where it is not."""
    layer = ranged(ByteConv2d(4, 6, 3, padding=1)).train()
    s, b = (v.detach()[:, None, None] for v in layer.quantization())
    x = (2 * drawn(2, 4, 6, 6, seed=5)).requires_grad_()
    upstream = drawn(2, 6, 6, 6, seed=6)
    gx, gw, gb = torch.autograd.grad(layer(x), (x, layer.weight, layer.bias), upstream)
    inside = ((x.detach() >= b) & (x.detach() <= b + 255 * s)).float()
    rounded = (((x.detach() - b) / s).clamp(0, 255).round() * s + b).requires_grad_()
    q, a = layer.integers(layer.quantization()[0])
    w = (q * a[:, None, None, None] / s.reshape(1, 4, 1, 1)).detach().requires_grad_()
    wx, ww, wb = torch.autograd.grad(F.conv2d(rounded, w, layer.bias, padding=1), (rounded, w, layer.bias), upstream)
    torch.testing.assert_close(gx, wx * inside, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(gw, ww, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(gb, wb)


def test_ranges_learn_from_what_they_round_and_clip() -> None:
    """D y / d s = w (u - v) and d y / d b = 0 inside; w u and w where clipped (arXiv 1902.08153, 2004.09576)."""
    layer = ByteLinear(3, 2, bias=False).train()
    layer.low.fill_(-1.0)
    layer.high.fill_(1.55)  # s = 0.01
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[127.0, 12.0, -5.0], [127.0, 30.0, 64.0]]) / 127)  # integers times a scale
    x = torch.tensor([[0.234, 5.0, -7.0]])  # inside, above, below
    upstream = torch.tensor([[1.0, -2.0]])
    y = layer(x)
    stretch, shift = torch.autograd.grad(y, (layer.stretch, layer.shift), upstream)
    v = (x[0] + 1.0) / 0.01
    factor = 1 / (1 * 255) ** 0.5
    g = (upstream @ layer.weight)[0]
    slope = torch.stack([v[0].round() - v[0], torch.tensor(255.0), torch.tensor(0.0)])
    torch.testing.assert_close(stretch, g * slope * 0.01 * factor, rtol=2e-3, atol=1e-5)  # d s / d stretch = s
    torch.testing.assert_close(shift, g * torch.tensor([0.0, 1.0, 1.0]) * 2.55 * factor, rtol=1e-4, atol=1e-5)


def test_recording_averages_the_ranges_of_batches() -> None:
    layer = ByteConv2d(2, 3, 1).train()
    layer.recording = True
    low, high = torch.zeros(2), torch.zeros(2)
    for i in range(12):
        x = drawn(4, 2, 3, 3, seed=i) * (i + 1)
        pace = max(1 / (i + 1), 0.1)
        low += pace * (x.amin((0, 2, 3)) - low)
        high += pace * (x.amax((0, 2, 3)) - high)
        (gradient,) = torch.autograd.grad(layer(x).sum(), layer.stretch)
        assert not gradient.any()  # nothing is learned meanwhile
    torch.testing.assert_close(layer.low, low)
    torch.testing.assert_close(layer.high, high)
    assert int(layer.batches) == 12
    layer.eval()(100 * x)
    layer.recording = False
    layer.train()(100 * x)
    torch.testing.assert_close(layer.high, high)  # neither in evaluation mode nor behind the recording


@pytest.mark.parametrize(("mean", "std"), [((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)), ((0, 0, 0), (1, 1, 1))])
def test_pixels_are_bytes_already(mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    how = bbg.Preprocess(16, mean=tuple(map(float, mean)), std=tuple(map(float, std)))
    pixels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, axis=3)
    x = torch.from_numpy(how.normalize(pixels))
    net = nn.Sequential(ByteConv2d(3, 4, 3, padding=1), nn.ReLU(), ByteConv2d(4, 2, 1))
    fix_pixels(net, x, torch.tensor(how.mean), torch.tensor(how.std))
    first, second = net[0], net[2]
    assert (first.fixed, second.fixed) == (True, False)
    net.train()
    first.recording = second.recording = True
    net(x)
    scale, offset = (v.detach()[:, None, None] for v in first.quantization())
    u = ((x - offset) / scale).round()
    assert torch.equal(u, torch.from_numpy(pixels.astype(np.float32)).permute(0, 3, 1, 2))
    assert net.training
    assert not first.stretch.requires_grad
    assert int(second.batches) == 1


@pytest.mark.parametrize("kind", ["conv", "linear"])
def test_the_twin_holds_the_same_parameters(kind: str) -> None:
    layer: Any = nn.Conv2d(4, 6, 3, padding=1, groups=2) if kind == "conv" else nn.Linear(12, 5)
    twin = ByteConv2d.of(layer) if kind == "conv" else ByteLinear.of(layer, 3)
    assert twin.weight is layer.weight
    assert twin.bias is layer.bias
    x = drawn(2, 4, 5, 5) if kind == "conv" else drawn(2, 12)
    assert torch.equal(twin.real(x), layer(x))
    assert len(twin.low) == (4 if kind == "conv" else 3)
    again = type(twin)(4, 6, 3, padding=1, groups=2) if kind == "conv" else ByteLinear(12, 5, channels=3)
    again.load_state_dict(ranged(twin).state_dict())
    assert torch.equal(again.eval()(x), twin(x))


@pytest.mark.parametrize("train", [True, False])
def test_under_autocast_the_integers_stay_exact(train: bool) -> None:
    """Bytes and weights are integers that bf16 holds; only the sum is rounded, to 2^-9 of itself."""
    layer = ranged(ByteConv2d(8, 4, 1, bias=False)).train(train)
    layer.low.zero_()
    with torch.no_grad():
        layer.shift.zero_()
    x = drawn(2, 8, 4, 4).abs()
    exact = layer(x)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = layer(x)
    assert (rounded - exact).abs().max() <= exact.abs().max() * 2**-8


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: ByteConv2d(4, 4, 3, padding_mode="reflect"), "padding_mode is 'reflect'"),
        (lambda: ByteLinear(70_000, 2), "70,000 products per number are too many for 8 bits, allowed are 65,535"),
        (lambda: ByteLinear(12, 2, channels=5), "5 channels do not divide the 12 features"),
        (lambda: ByteConv2d(4, 4, 3)(torch.zeros(4, 5, 5)), r"takes \[N, C, H, W\], got \[4, 5, 5\]"),
    ],
)
def test_what_cannot_be_is_refused(make: Any, words: str) -> None:
    with pytest.raises(BbgError, match=words):
        make()
