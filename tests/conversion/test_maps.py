"""Lowering of what pads, cuts, repeats and reduces maps: ops that are there already compute it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support.lowering import Functional
from torch import Tensor, nn

import bbg
from bbg import BbgError
from bbg.graph.file import read

IMAGES = torch.randn(3, 6, 14, 12, generator=torch.Generator().manual_seed(0))


def share(x: Tensor, c: nn.Module) -> Tensor:
    """A number between 0 and 1 for each channel, `[N, C, 1, 1]`."""
    return torch.sigmoid(c(x).mean((2, 3), keepdim=True))


def last(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1)


def branches(x: Tensor, c: nn.Module) -> Tensor:
    """`[N, 3, 2, H, W]`."""
    return c(x).view(x.size(0), 3, 2, *x.shape[2:])


torch.manual_seed(1)
UP = nn.ConvTranspose2d(6, 4, 4, 2, 1)
UP_GROUPS = nn.ConvTranspose2d(6, 6, (3, 5), (3, 2), (0, 1), (1, 1), groups=3, bias=False, dilation=(2, 1))
UP_BIAS = torch.randn(4)
GROUPS = nn.GroupNorm(3, 6)
nn.init.normal_(GROUPS.weight), nn.init.normal_(GROUPS.bias)
SLIDE = nn.Conv1d(1, 1, 3, padding=1)
WEIGHT = torch.randn(6)
EXPONENTS = torch.tensor([0.1, 0.7, 1.0, 2.0, 3.3, 0.24]).reshape(6, 1, 1)

MAPS: dict[str, Callable[[Tensor, nn.Module], Tensor]] = {
    "softmax": lambda x, c: F.softmax(c(x), 1),
    "log-softmax of features": lambda x, c: F.log_softmax(c(x).mean((2, 3)), dim=1),
    "softmax of one channel": lambda x, c: c(x)[:, :1].softmax(1) + F.log_softmax(c(x)[:, 2:3], 1),
    "shares of shuffled branches": lambda x, c: (lambda y: (y * y.softmax(1)).sum(1))(
        F.channel_shuffle(c(x), 2).unflatten(1, (3, 2))
    ),
    "channels of a pixel shuffle": lambda x, c: F.layer_norm(last(F.pixel_shuffle(torch.cat([c(x), x], 1), 2)), (3,)),
    "channels of a pixel unshuffle": lambda x, c: F.linear(last(F.pixel_unshuffle(c(x)[:, :3], 2)), torch.ones(2, 12)),
    "softmax of [N, H, W, C]": lambda x, c: last(c(x)).softmax(-1),
    "shares of three branches": lambda x, c: (branches(x, c) * branches(x, c).softmax(1)).sum(1),
    "shares of two branches": lambda x, c: (
        c(x).view(x.size(0), 2, 3, *x.shape[2:])
        * c(x).mean((2, 3)).view(x.size(0), 2, 3).softmax(1).view(x.size(0), 2, 3, 1, 1)
    ).sum(1),
    "stacked branches": lambda x, c: (
        torch.stack([x, c(x)], 1) * torch.cat([c(x), x], 1).mean((2, 3)).view(x.size(0), 2, 6, 1, 1)
    ).sum(dim=1),
    "a stack before the images": lambda x, c: (
        torch.stack([x, c(x)]).sum(dim=0) + torch.stack((x, c(x))).mean(0) + torch.stack([x, c(x)]).max(0)[0]
    ),
    "parts of a stack before the images": lambda x, c: torch.stack([x, c(x)])[1] - c(torch.stack([x, x])[0]),
    "mean of branches": lambda x, c: branches(x, c).mean(1),
    "largest of branches": lambda x, c: branches(x, c).amax(1),
    "largest channel": lambda x, c: x * torch.max(c(x), 1)[0].unsqueeze(1).sigmoid(),
    "largest of joined channels": lambda x, c: (lambda y: y * y.amax(1, keepdim=True))(
        torch.cat([c(x).max(1, keepdim=True)[0], x.mean(1, keepdim=True), x], 1)
    ),
    "the larger": lambda x, c: torch.maximum(x, c(x)),
    "group norm": lambda x, c: F.group_norm(c(x), 3, GROUPS.weight.detach(), GROUPS.bias.detach()),
    "group norm of one group": lambda x, c: F.group_norm(c(x), 1),
    "instance norm": lambda x, c: nn.InstanceNorm2d(6).eval()(c(x)),
    "local response norm": lambda x, c: F.local_response_norm(3 * c(x), 3, alpha=0.5),
    "local response norm of an even size": lambda x, c: nn.LocalResponseNorm(4, 1.0, 0.5, 2.0)(c(x)),
    "local response norm of beta 1": lambda x, c: F.local_response_norm(c(x), 9, 2.0, 1.0, 0.5),
    "L2 norm": lambda x, c: F.normalize(c(x)),
    "RMS norm": lambda x, c: F.rms_norm(last(c(x)), (6,), WEIGHT),
    "global response norm": lambda x, c: torch.addcmul(
        torch.ones(6, 1, 1), torch.ones(6, 1, 1), x / (c(x).norm(p=2, dim=(2, 3), keepdim=True) + 1)
    ),
    "a transposed convolution": lambda x, c: F.conv_transpose2d(c(x), UP.weight.detach(), UP_BIAS, 2, 1),
    "transposed, in groups": lambda x, c: F.conv_transpose2d(
        c(x), UP_GROUPS.weight.detach(), None, (3, 2), (0, 1), (1, 1), 3, (2, 1)
    ),
    "transposed, as a function": lambda x, c: F.conv_transpose2d(c(x), UP.weight.detach(), stride=3),
    "a filter over channels": lambda x, c: (
        x
        * F.conv1d(c(x).mean((2, 3)).unsqueeze(1), SLIDE.weight.detach(), torch.ones(1), padding=1)
        .transpose(-1, -2)[..., None]
        .sigmoid()
    ),
    "pixel shuffle": lambda x, c: F.pixel_shuffle(torch.cat([c(x), x], 1), 2),
    "a batch norm of a pixel unshuffle": lambda x, c: F.batch_norm(
        F.pixel_unshuffle(c(x)[:, :3], 2), torch.arange(12.0), torch.arange(1.0, 13.0)
    ),
    "pixel unshuffle": lambda x, c: c(F.pixel_unshuffle(c(x)[:, :3], 2)[:, 3:9]),
    "bilinear, align_corners": lambda x, c: F.interpolate(c(x), size=(31, 17), mode="bilinear", align_corners=True),
    "bilinear to any size": lambda x, c: F.interpolate(c(x), size=(19, 5), mode="bilinear"),
    "nearest to any size": lambda x, c: F.interpolate(c(x), (15, 8)),
    "nearest, exact, to any size": lambda x, c: F.interpolate(c(x), (9, 31), mode="nearest-exact"),
    "mirrored edges": lambda x, c: c(F.pad(x, (1, 2, 3, 0), mode="reflect")),
    "repeated edges": lambda x, c: c(F.pad(c(x), (2, 2, 1, 1), mode="replicate")),
    "the other edge": lambda x, c: c(nn.CircularPad2d((1, 2, 3, 1))(x)),
    "padding layers": lambda x, c: nn.ReflectionPad2d(1)(c(x)) + nn.ReplicationPad2d(1)(x),
    "mirrored": lambda x, c: c(x).flip(3) + torch.flip(x, [2]),
    "rolled": lambda x, c: c(torch.roll(c(x), (1, -2), (2, 3))),
    "rolled, channels too": lambda x, c: c(torch.roll(c(x), (1, 2), (1, 3))),
    "mirrored, channels too": lambda x, c: c(last(c(x)).flip(1, 3).permute(0, 3, 1, 2)),
    "maxima of a grid of any size": lambda x, c: F.adaptive_max_pool2d(c(x), (5, 9)),
    "nearest to a part": lambda x, c: F.interpolate(c(x), scale_factor=0.5),
    "elu": lambda x, c: F.elu(3 * c(x), 0.7),
    "selu": lambda x, c: F.selu(3 * c(x)),
    "mish": lambda x, c: F.mish(3 * c(x)),
    "roots and powers": lambda x, c: c(x).abs() ** 0.5 + c(x) ** 3 + (c(x).square() + 1).rsqrt(),
    "logarithms": lambda x, c: (
        torch.log(c(x).abs() + 0.01) + torch.log1p(c(x).relu()) + x.abs().add(1).log10() + torch.log2(x.square() + 3)
    ),
    "a logarithm of 1 and little more": lambda x, c: torch.log1p(1e-5 * c(x)),
    "softplus": lambda x, c: F.softplus(9 * c(x)) + nn.Softplus(beta=3, threshold=20)(c(x)) + F.softplus(c(x), -0.5),
    "log-sigmoid": lambda x, c: F.logsigmoid(9 * c(x)) + nn.LogSigmoid()(x),
    "whole powers": lambda x, c: c(x) ** 4 + c(x).pow(5) - torch.pow(x, 8) / 99 + (x.square() + 1) ** -3 + x**0 + x**1,
    "any power": lambda x, c: c(x).relu() ** 0.45 + (x.abs() + 0.1) ** -1.7 + c(x).abs().pow(2.5) + x.abs() ** 0.02,
    "a power for each channel": lambda x, c: (c(x).relu() + 0.01) ** EXPONENTS + x.relu() ** EXPONENTS.flip(0),
    "powers of constants": lambda x, c: 2 ** c(x) + torch.pow(0.3, x) + EXPONENTS.exp() ** c(x),
    "hinges as choices": lambda x, c: (
        torch.where(c(x) > 0, c(x), 0.1 * c(x)) + (lambda y: torch.where(y > 0, y, y * 0.1))(c(x))
    ),
    "rectifiers as choices": lambda x, c: (
        torch.where(x < 0, 0.0, x) + torch.where(x < 0.3, 0.3, x) + torch.where(x >= 0, x, torch.zeros_like(x))
    ),
    "thresholds": lambda x, c: (
        F.threshold(c(x), 0.1, -2.0) + nn.Threshold(0.5, 0.5)(x) + F.threshold(c(x).relu(), 0, 0)
    ),
    "signs as numbers": lambda x, c: (c(x) > 0).float() * x + (x.relu() > 0).to(x.dtype) - c((x <= 0.2).float()),
    "comparisons": lambda x, c: (
        torch.where((x > -0.5) & (x < c(x)), x, c(x)) + torch.where(~(x.ge(0.5) | x.lt(-1)), c(x), 0.5)
    ),
    "choices for each channel": lambda x, c: (
        torch.where(x > EXPONENTS, c(x), 0) + torch.where(x > EXPONENTS, x, EXPONENTS) + x.masked_fill(x < 0, -0.5)
    ),
    "a choice among features": lambda x, c: (lambda y: torch.where(y > 0, y, -y))(c(x).mean((2, 3))),
    "a choice of [N, H, W, C]": lambda x, c: (lambda y: y.where(y > WEIGHT, WEIGHT))(last(c(x))),
    "zeros and ones of a shape": lambda x, c: c(torch.zeros_like(x)) + c(x) * (torch.ones_like(x) - 0.25 * x),
    "variances": lambda x, c: c(x).var((2, 3), keepdim=True) * x + x.var(1, unbiased=False, keepdim=True),
    "a deviation": lambda x, c: (c(x) - c(x).mean(1, keepdim=True)) / (c(x).std(1, keepdim=True) + 0.1),
    "largest channel, by name": lambda x, c: x * c(x).max(dim=1, keepdim=True).values.sigmoid(),
    "a number for each image": lambda x, c: x + c(x).mean((1, 2, 3))[:, None, None, None],
    "a map that is cut, as output": lambda x, c: c(F.pad(x, (0, 2, 1, 0), "reflect"))[:, :, 1:, : x.size(3)],
    "a mirrored map as output": lambda x, c: last(c(x.flip(3)).flip(3)),
    "rows, and channels moved into the map": lambda x, c: (
        c(x)[:, :, [2, 2]][..., [0, 1, 2, 3]].sum((2, 3)) + F.pixel_shuffle(c(x)[:, :4], 2).sum((2, 3))
    ),
    "the other edge, cut": lambda x, c: F.pad(c(x), (2, -1, -3, 4), "circular"),
    "a variance of [N, H, W, C]": lambda x, c: (
        last(x) + last(c(x)).var((1, 2), keepdim=True) * last(c(x)).var((1, 2, 3))[:, None, None, None]
    ),
    "both moments": lambda x, c: (lambda v, m: (x - m) / (v + 1))(*torch.var_mean(c(x), (2, 3), keepdim=True)),
    "a deviation and a mean": lambda x, c: sum(torch.std_mean(c(x), dim=1, correction=0)),
    "names as numpy has them": lambda x, c: (
        c(x).mean(axis=1, keepdims=True) + torch.var(c(x), axis=(2, 3), keepdims=True)
    ),
    "the least": lambda x, c: c(x).amin((2, 3), keepdim=True) + torch.min(c(x), 1, keepdim=True).values,
    "the smaller, as min": lambda x, c: torch.min(x, c(x)) + x.min(other=c(x)),
    "clips on one side": lambda x, c: c(x).clamp_min(-0.1) * torch.clamp_max(input=x, max=0.5),
    "weighted sums": lambda x, c: torch.add(x, c(x), alpha=2).sub(x + 1, alpha=0.5) + torch.add(c(x), 1, alpha=3),
    "mean of all pixels": lambda x, c: x + c(x).view(x.size(0), 6, -1).mean(2)[..., None, None],
    "largest of all pixels": lambda x, c: c(x).flatten(2).amax(-1, keepdim=True),
    "variance of all pixels, last": lambda x, c: c(x).flatten(2).transpose(1, 2).var(1),
    "a slope as a method's argument": lambda x, c: c(x).prelu(WEIGHT),
    "the smaller": lambda x, c: torch.minimum(x, c(x)),
    "softsign and soft thresholds": lambda x, c: F.softsign(c(x)) + F.softshrink(c(x), 0.2),
    "a slope as an argument": lambda x, c: F.prelu(c(x), WEIGHT),
    "sums over windows": lambda x, c: F.avg_pool2d(c(x), 3, 2, 1, divisor_override=2),
    "a quotient": lambda x, c: x / (c(x).abs() + 1),
    "zeros around": lambda x, c: c(F.pad(x, (1, 1, 2, 2))),
    "zeros on two sides": lambda x, c: c(F.pad(x, (0, 1, 2, 0))),
    "zeros, and fewer rows": lambda x, c: c(F.pad(x, (-1, 2, 3, -4))),
    "zeros around the channels": lambda x, c: c(F.pad(x[:, 1:5], (0, 0, 0, 0, 1, 1))),
    "zeros around all": lambda x, c: c(F.pad(x[:, :4], (1, 0, 0, 1, 2, 0))),
    "fewer channels, then zeros": lambda x, c: c(F.pad(F.pad(x, (0, 0, 0, 0, -2, -1)), (0, 0, 0, 0, 0, 3))),
    "ZeroPad2d": lambda x, c: nn.ZeroPad2d((1, 2, 0, 3))(c(x)),
    "ConstantPad2d of 0": lambda x, c: nn.ConstantPad2d((1, 0, 2, 0), 0.0)(c(x)),
    "a wide frame": lambda x, c: F.pad(c(x), (9, 0, 0, 9)),
    "every other pixel": lambda x, c: c(c(x)[:, :, ::2, ::2]),
    "every third from the second": lambda x, c: c(c(x)[:, :, 1::3, 2::3]),
    "a part": lambda x, c: c(c(x)[:, :, 1:-2, 3:9]),
    "one row": lambda x, c: c(c(x)[:, :, 5:6]),
    "one pixel": lambda x, c: c(c(x)[:, :, 5:6, -1:]),
    "a part of some channels": lambda x, c: c(torch.cat([x[:, 3:, ::2, :6], x[:, :3, ::2, 6:]], 1)),
    "a part, then a part": lambda x, c: c(x[:, :, 2:][:, :, ::2, 1:][:, :, :4]),
    "space to depth": lambda x, c: torch.cat(
        [c(y) for y in (x[..., ::2, ::2], x[..., 1::2, ::2], x[..., ::2, 1::2], x[..., 1::2, 1::2])], 1
    ),
    "space to depth at once": lambda x, c: c(
        torch.cat([y[:, :2] for y in (x[..., ::2, ::2], x[..., 1::2, ::2], x[..., 1::2, 1::2])], 1)
    ),
    "an option A shortcut": lambda x, c: c(F.pad(x[:, :4, ::2, ::2], (0, 0, 0, 0, 1, 1))),
    "expand_as": lambda x, c: x * share(x, c).expand_as(x),
    "expand": lambda x, c: x * share(x, c).expand(-1, -1, x.size(2), x.size(3)),
    "expand, first": lambda x, c: share(x, c).expand_as(x) * x,
    "expand to a map": lambda x, c: c(share(x, c).expand(x.shape[0], 6, 4, 5)),
    "repeat": lambda x, c: c(share(x, c).repeat(1, 1, 3, 2)),
    "channels repeated": lambda x, c: c(c(x)[:, :1].expand(-1, 6, -1, -1)),
    "a sum with a number a channel": lambda x, c: x + share(x, c),
    "a difference of it": lambda x, c: share(x, c) - x,
    "a product with one channel": lambda x, c: x * torch.sigmoid(c(x)[:, 2:3]),
    "a sum with one channel": lambda x, c: c(x)[:, :1] + x,
    "a product with rows and columns": lambda x, c: x * c(x).mean(3, keepdim=True) * c(x).mean(2, keepdim=True),
    "a row and a column": lambda x, c: c(x).mean(2, keepdim=True) + c(x).mean(3, keepdim=True),
    "mean of the channels": lambda x, c: x * c(x).mean(1, keepdim=True),
    "mean of the channels, not kept": lambda x, c: c(x).mean(1),
    "mean of columns, then rows": lambda x, c: c(x).mean(3).mean(2),
    "mean of rows": lambda x, c: c(x).mean(2),
    "mean of all": lambda x, c: c(x).mean((1, 2, 3), keepdim=True),
    "mean of the last axes": lambda x, c: last(c(x)).mean((-1, 1)),
    "sum of the map": lambda x, c: c(x).sum((2, 3)),
    "sum of rows": lambda x, c: torch.sum(c(x), dim=-2, keepdim=True),
    "sum of the channels": lambda x, c: c(x).sum(1, keepdim=True) * x,
    "sum of [N, H, W, C]": lambda x, c: last(c(x)).sum(3),
    "largest of the map": lambda x, c: c(x).amax((2, 3)),
    "largest of columns": lambda x, c: torch.amax(c(x), 3, keepdim=True),
    "bilinear to twice": lambda x, c: F.interpolate(c(x), scale_factor=2, mode="bilinear"),
    "bilinear to three times": lambda x, c: c(F.interpolate(c(x), size=(42, 36), mode="bilinear")),
    "bilinear, two factors": lambda x, c: nn.Upsample(scale_factor=(4, 3), mode="bilinear")(c(x)),
    "bilinear, one axis": lambda x, c: F.interpolate(c(x), size=(14, 72), mode="bilinear", align_corners=False),
    "bilinear of one row": lambda x, c: F.interpolate(c(x)[:, :, :1], scale_factor=6, mode="bilinear"),
    "bilinear of a number": lambda x, c: F.interpolate(share(x, c), (5, 7), mode="bilinear", align_corners=True),
    "a stack, summed": lambda x, c: torch.stack([c(x), x, c(c(x))], 1).sum(1) * x,
    "a stack of rows, summed": lambda x, c: torch.stack([c(x).mean(2), x.mean(2)], dim=-1).sum(dim=-1),
    "a stack, and one of it": lambda x, c: c(torch.stack([c(x), x], 1)[:, 1]) + x,
    "a convolution of a computed weight": lambda x, c: F.conv2d(
        x, c.weight - c.weight.mean((1, 2, 3), keepdim=True), c.bias, stride=2, padding=1
    ),
    "a convolution in groups": lambda x, c: torch.conv2d(x, c.weight[:, :3], None, 1, (0, 2), (2, 1), 2),
    "squares": lambda x, c: c(x) ** 2 + c(x).pow(2) - torch.square(c(x)) + c(x).square(),
    "variance": lambda x, c: (c(x) - c(x).mean((2, 3), keepdim=True)).pow(2).mean((2, 3)),
}


@pytest.mark.parametrize("case", MAPS)
def test_the_engine_computes_what_torch_does(case: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Functional(MAPS[case], nn.Conv2d(6, 6, 3, padding=1)).eval()
    bbg.convert(model, tmp_path / "net.bbg", IMAGES)
    given = bbg.load(tmp_path / "net.bbg")(IMAGES.numpy())
    with torch.no_grad():
        wanted = model(IMAGES).numpy()
    assert given.shape == wanted.shape
    assert np.abs(given - wanted).max() <= 2e-5 * np.abs(wanted).max()


class GeM(nn.Module):
    """Generalized-mean pooling, as networks for retrieval have it: the power is a parameter."""

    def __init__(self, power: Tensor) -> None:
        super().__init__()
        self.conv, self.p, self.eps = nn.Conv2d(6, 6, 3), nn.Parameter(power), 1e-6

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        x = F.avg_pool2d(x.clamp(min=self.eps).pow(self.p), (x.size(-2), x.size(-1))).pow(1.0 / self.p)
        return F.normalize(x.flatten(1))


POWERS = {"as it starts": 3 * torch.ones(1), "trained": torch.tensor([2.93]), "of each channel": EXPONENTS + 1}


@pytest.mark.parametrize("power", POWERS)
def test_gem_pooling(power: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = GeM(POWERS[power]).eval()
    bbg.convert(model, tmp_path / "net.bbg", IMAGES)
    with torch.no_grad():
        wanted = model(IMAGES).numpy()
    given = bbg.load(tmp_path / "net.bbg")(IMAGES.numpy())
    assert np.abs(given - wanted).max() <= 2e-5 * np.abs(wanted).max()
    functions = [op.attributes["function"] for op in read(tmp_path / "net.bbg").graph.ops if op.kind == "unary"]
    first = [] if power == "as it starts" else ["log", "exp"]  # whose whole power is a product
    assert functions == [*first, "log", "exp", "rsqrt"]


HINGES: dict[str, Callable[[Tensor], Tensor]] = {
    "a slope": lambda x: torch.where(x > 0, x, x * 0.2),
    "a slope for each channel": lambda x: torch.where(x < 0, EXPONENTS * x, x),
    "a rectifier": lambda x: torch.where(x >= 0, x, 0.0),
    "a size": lambda x: x.where(x > 0, -x),
    "a bend": lambda x: torch.where(x <= 1, 0.5 * x + 0.5, x),
    "a threshold": lambda x: F.threshold(x, 0.25, 0.25),
}


@pytest.mark.parametrize("case", HINGES)
def test_a_choice_that_is_a_hinge_is_no_op(case: str, tmp_path: Path) -> None:
    """It is part of the convolution before it, with no bits."""
    model = Functional(lambda x, c: HINGES[case](c(x)), nn.Conv2d(6, 6, 1)).eval()
    bbg.convert(model, tmp_path / "net.bbg", IMAGES)
    (op,) = read(tmp_path / "net.bbg").graph.ops
    with torch.no_grad():
        wanted = model(IMAGES).numpy()
    assert op.kind == "conv"
    assert np.abs(bbg.load(tmp_path / "net.bbg")(IMAGES.numpy()) - wanted).max() <= 1e-5 * np.abs(wanted).max()


def test_a_tie_falls_as_in_torch(tmp_path: Path) -> None:
    """What is compared is the threshold itself, to the bit."""
    x = torch.tensor([-1.0, -0.0, 0.0, 1e-45, 0.5, 1.0]).reshape(1, 6, 1, 1)
    for number in (0.0, 0.5):
        for compare in (torch.gt, torch.ge, torch.lt, torch.le):
            model = Functional(lambda x, t=number, by=compare: by(x, t).float())
            path = tmp_path / f"{number}{compare.__name__}.bbg"
            bbg.convert(model, path, x)
            np.testing.assert_array_equal(bbg.load(path)(x.numpy()), model(x).numpy())


def test_one_number_a_channel_is_not_repeated_for_a_product(tmp_path: Path) -> None:
    """The engine multiplies a map by `[N, C, 1, 1]` itself."""
    bbg.convert(Functional(MAPS["expand_as"], nn.Conv2d(6, 6, 1)), tmp_path / "net.bbg", IMAGES)
    kinds = [op.kind for op in read(tmp_path / "net.bbg").graph.ops]
    assert kinds.count("adaptive_avg_pool") == 1


def test_what_several_read_is_cut_once(tmp_path: Path) -> None:
    def function(x: Tensor, c: nn.Module) -> Tensor:
        part = c(x)[:, :, ::2, 1:]
        return F.relu(part) + torch.tanh(part)

    bbg.convert(Functional(function, nn.Conv2d(6, 6, 1)), tmp_path / "net.bbg", IMAGES)
    kinds = [op.kind for op in read(tmp_path / "net.bbg").graph.ops]
    assert kinds.count("take") == 1


REFUSED: dict[str, tuple[Callable[[Tensor, nn.Module], Tensor], str]] = {
    "a stack of the images": (lambda x, c: torch.stack([x, c(x)]).sum(1), "over 1 of a stack along a first axis"),
    "a function of a stack": (lambda x, c: torch.stack([x, c(x)]).relu().sum(0), "it takes a stack along a first axis"),
    "a stack that is returned": (lambda x, c: torch.stack([x, c(x)]), "output"),
    "the size of a stack": (lambda x, c: x * torch.stack([x, c(x)]).size(0), "it takes a stack along a first axis"),
    "half of a stack": (lambda x, c: torch.stack([x, c(x), x])[:2].sum(0), "of a stack along a first axis"),
    "ones around": (lambda x, c: F.pad(c(x), (1, 1, 1, 1), value=1.0), "pads by 1.0; pad by zeros"),
    "images around": (lambda x, c: F.pad(c(x), (0, 0, 0, 0, 0, 0, 1, 0))[1:], "pad channels, rows and columns alone"),
    "mean of the images": (lambda x, c: c(x) - c(x).mean(0, keepdim=True), "take it over axes of a map"),
    "a roll of the images": (lambda x, c: torch.roll(c(x), 2, 0), "name other axes alone"),
    "a roll of all": (lambda x, c: c(x).roll(2 * x.flatten(1).size(1)), "name other axes alone"),
    "two of the images": (lambda x, c: c(x)[:2], "takes some of the images apart"),
    "the last two images": (lambda x, c: c(x).narrow(0, -2, 2), "takes some of the images apart"),
    "two and two images": (lambda x, c: c(x).split(2)[0], "takes some of the images apart"),
    "a number for each image alone": (lambda x, c: c(x).mean((1, 2, 3)), "keep an axis, as keepdim=True"),
    "more than is left of it": (lambda x, c: F.pad(c(x)[:, :, :1], (0, 0, 1, -1), "circular"), "pad less"),
    "a function of the largest": (lambda x, c: torch.cumsum(c(x).max(1).values, 1), "the function 'cumsum'"),
    "a mean of no size": (lambda x, c: F.adaptive_avg_pool2d(c(x), 0), "no number"),
    "maxima of no size": (lambda x, c: F.adaptive_max_pool2d(c(x), (0, 5)), "no number"),
    "places of the largest": (lambda x, c: c(x) * c(x).max(1).indices.unsqueeze(1), "of several tensors"),
    "bicubic": (lambda x, c: F.interpolate(c(x), (15, 24), mode="bicubic"), "[14, 12] to [15, 24] by 'bicubic'"),
    "a softmax of rows": (lambda x, c: F.softmax(c(x), 2), "is none of channels"),
    "a rolled map": (lambda x, c: c(torch.cat([x[:, :, 3:], x[:, :, :3]], 2)), "give it whole channels of one map"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_others_are_refused(case: str, tmp_path: Path) -> None:
    function, sentence = REFUSED[case]
    with pytest.raises(BbgError) as error:
        bbg.convert(Functional(function, nn.Conv2d(6, 6, 1)), tmp_path / "net.bbg", IMAGES)
    assert sentence in str(error.value)
    assert not (tmp_path / "net.bbg").exists()
    with pytest.raises(BbgError) as checked:
        bbg.check(Functional(function, nn.Conv2d(6, 6, 1)), IMAGES)
    assert sentence in str(checked.value)


@pytest.mark.parametrize("edges", ["fp32", "int8"])
def test_padding_to_same_in_a_depthwise_network(edges: str, tmp_path: Path) -> None:
    """As EfficientNets that came from TensorFlow have it; 8 bits of what was padded are those of the map."""
    torch.manual_seed(0)

    def function(x: Tensor, a: nn.Module, b: nn.Module, c: nn.Module) -> Tensor:
        y = F.relu6(a(F.pad(x, (0, 1, 0, 1))))
        return c(F.relu6(b(F.pad(y, (0, 1, 1, 2)))).mean((2, 3)))

    layers = [nn.Conv2d(6, 8, 3, 2), nn.Conv2d(8, 8, 5, 2, groups=8), nn.Linear(8, 5)]
    model = Functional(function, *layers).eval()
    report = bbg.convert(model, tmp_path / "net.bbg", IMAGES, edges=edges)
    with torch.no_grad():
        wanted = model(IMAGES).numpy()
    given = bbg.load(tmp_path / "net.bbg")(IMAGES.numpy())
    assert report.difference <= 1e-5
    assert np.abs(given - wanted).max() <= (1e-5 if edges == "fp32" else 0.05) * np.abs(wanted).max()
    assert len([op for op in read(tmp_path / "net.bbg").graph.ops if "conv" in op.kind]) == 3
