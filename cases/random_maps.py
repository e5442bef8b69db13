"""Parts of random networks that weigh, resize and normalise maps; each adds its layers to a `Draw`."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import nn

from cases.functional import Functional

if TYPE_CHECKING:
    from cases.random_networks import Draw


def softmax(draw: Draw) -> None:
    """Shares of the channels, or of branches that are added by them."""
    branches = draw.one(*(b for b in (1, 1, 2, 3, 4) if draw.channels % b == 0))
    how: Any = draw.one(F.softmax, F.softmax, F.log_softmax)
    if branches == 1:
        draw.add(Functional(lambda x: how(x, 1)))
    else:
        draw.add(Functional(lambda x: (lambda y: (y * y.softmax(1)).sum(1))(x.unflatten(1, (branches, -1)))))
        draw.traits.add("shares of branches")
    draw.traits.add("softmax")


def largest(draw: Draw) -> None:
    """The largest channel of each pixel, as a gate or beside the mean."""
    gate = Functional(lambda x: x * torch.amax(x, 1, keepdim=True).tanh())
    both = Functional(lambda x: torch.cat([x.max(1, keepdim=True)[0], x.mean(1, keepdim=True), x], 1))
    draw.add(draw.one(gate, both))
    draw.traits.add("largest channel")


def resize(draw: Draw) -> None:
    """To any size, by both rules for the corners; to a multiple by the nearest."""
    size = draw.one(*range(1, 13)), draw.one(*range(1, 13))
    times = 2 if max(draw.height, draw.width) <= 6 else 1
    bilinear = nn.Upsample(size, mode="bilinear", align_corners=draw.likely(0.5))
    draw.add(draw.one(bilinear, bilinear, nn.Upsample(scale_factor=times), nn.UpsamplingBilinear2d(scale_factor=times)))
    draw.traits.add("resize")


def depth(draw: Draw) -> None:
    """Channels to space, or space to channels; a transposed convolution does both at once."""
    c, even = draw.channels, draw.height % 2 == 0 and draw.width % 2 == 0
    small = max(draw.height, draw.width) <= 6
    ways: list[nn.Module] = [nn.PixelUnshuffle(2)] if even and c <= 16 else []
    ways += [nn.PixelShuffle(2)] if c % 4 == 0 and small else []
    if small:
        groups, stride = draw.one(*(g for g in (1, 2, 3) if c % g == 0)), draw.one(1, 2)
        window = {"stride": stride, "padding": draw.one(0, 1), "output_padding": draw.one(0, stride - 1)}
        out = groups * draw.one(1, 3, 8)
        ways += [nn.ConvTranspose2d(c, out, draw.one(3, 4), groups=groups, bias=draw.likely(0.5), **window)]
    if ways:
        draw.add(draw.one(*ways))
        draw.traits.add("depth and space")


def norms(draw: Draw) -> None:
    """Means and sizes of maps, taken of each image: group, instance, L2, root mean square.

    Their epsilon is large: of a map that is nearly constant nothing but rounding errors would be left.
    """
    c, single = draw.channels, draw.height * draw.width == 1
    groups = draw.one(*(g for g in (1, 2, 3, 4) if c % g == 0))
    ways: list[nn.Module] = [Functional(partial(F.normalize, dim=1, eps=0.1)), nn.GroupNorm(groups, c, eps=0.1)]
    ways += [] if single else [nn.InstanceNorm2d(c, 0.1, affine=True)]
    draw.add(draw.one(*ways, Functional(lambda x: x * (x.square().mean(1, keepdim=True) + 0.1).rsqrt())))
    draw.traits.add("norm of an image")


def logarithms(draw: Draw) -> None:
    """Softplus, logarithms of what is positive, and powers."""
    power = draw.one(0.3, 1.5, 2.7, 4, -0.6)
    ways: list[nn.Module] = [nn.Softplus(draw.one(0.5, 1, 3)), nn.LogSigmoid()]
    ways += [Functional(lambda x: torch.log(x.abs() + 0.1)), Functional(lambda x: torch.log1p(x.relu()))]
    draw.add(draw.one(*ways, Functional(lambda x: (x.abs() + 0.1) ** power)))
    draw.traits.add("logarithm")


def sequences(draw: Draw) -> None:
    """A convolution along rows or columns of means, which weighs the map, or over the rows as channels."""
    c, k, axis = draw.channels, draw.one(1, 3, 5), draw.one(2, 3)
    groups = draw.one(*(g for g in (1, 2, c) if c % g == 0))
    along = nn.Conv1d(c, c, k, padding=k // 2, groups=groups, bias=draw.likely(0.5))
    weighed = Functional(lambda x, s: x * s(x.mean(axis)).sigmoid().unsqueeze(axis), along)
    over = nn.Conv1d(c * draw.height, c, k, padding=k // 2)
    draw.add(draw.one(weighed, Functional(lambda x, s: s(x.flatten(1, 2)).unsqueeze(2), over)))
    draw.traits.add("sequence")


PARTS = (softmax, softmax, largest, resize, resize, depth, depth, norms)
BEHIND = (logarithms, sequences)  # those that stand behind all others, in every fourth network
