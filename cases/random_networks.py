"""Seeded random networks of every layer that converts, on small maps, with the corner cases that a kernel may miss.

    network, example, traits = random_network(seed)

`traits` names the corner cases that the network holds (`TRAITS`), so that a test can assert how many were drawn.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bbg.layers import BinaryConv2d, BinaryLinear, Unit
from bbg.methods import ACTIVATIONS, METHODS, Binarizer, BinarizerForm, Method
from cases import random_maps
from cases.functional import Functional

TRAITS = (
    "negative BN scale",
    "zero BN scale",
    "odd channels",
    "map smaller than the kernel",
    "padding of half the kernel + 1",
    "groups",
    "dilation",
    "depth 3",
    "branches",
    "shuffle",
    "slices",
    "product",
    "squeeze and excite",
    "curve",
    "layer norm",
    "linear of a map",
    "depthwise",
    "difference",
    "constant",
    "flattened [N, H, W, C]",
    "softmax",
    "shares of branches",
    "largest channel",
    "resize",
    "depth and space",
    "norm of an image",
    "logarithm",
    "sequence",
)
CURVES = (nn.Sigmoid, nn.Tanh, nn.SiLU, nn.Hardsigmoid, nn.Hardswish, nn.GELU, partial(nn.GELU, "tanh"))
BINARY = [method for method in METHODS.values() if method.weight is not None]


class ShiftedWeight(Binarizer):
    """`shift + scale * sign(w - threshold)` per filter, all three learned: the whole form."""

    def __init__(self, out_channels: int) -> None:
        super().__init__(axis=0)
        self.threshold, self.scale, self.shift = (nn.Parameter(torch.randn(out_channels) / 2) for _ in range(3))

    def form(self, x: Tensor) -> BinarizerForm:
        return BinarizerForm(self.threshold / 10, self.scale, self.shift)


class ShiftedActivation(Binarizer):
    """`shift + scale * sign(x - threshold)`: threshold and shift per channel, one scale, which may be negative."""

    def __init__(self, in_channels: int) -> None:
        super().__init__(axis=1)
        self.threshold, self.shift = (nn.Parameter(torch.randn(in_channels) / 2) for _ in range(2))
        self.scale = nn.Parameter(torch.randn(()) + 0.1)

    def form(self, x: Tensor) -> BinarizerForm:
        return BinarizerForm(self.threshold, self.scale, self.shift)


class ShiftOnly(ShiftedActivation):
    """A shift and a scale: what a linear layer may have behind a flattened map."""

    def form(self, x: Tensor) -> BinarizerForm:
        return BinarizerForm(scale=self.scale, shift=self.shift)


SHIFTED = Method("shifted", ShiftedWeight, ShiftedActivation, shortcut="gated", act="prelu")
SHIFTED_PLAIN = Method("shifted-plain", ShiftedWeight, ShiftedActivation, shortcut="none", act="rprelu")
SHIFT_ONLY = Method("shift-only", ShiftedWeight, ShiftOnly, shortcut="fixed")
PLAIN = Method("plain", METHODS["bbg"].weight, METHODS["bbg"].activation, shortcut="none")
CONV_METHODS = [*BINARY, SHIFTED, SHIFTED_PLAIN, SHIFT_ONLY, PLAIN]


class Foreign(nn.Module):
    """A residual block as others write it: functional calls, `+=`, the shortcut's own convolution, two gates."""

    def __init__(self, channels: int, out: int, stride: int, binary: bool) -> None:
        super().__init__()
        layer: Any = BinaryConv2d if binary else nn.Conv2d
        self.conv = layer(channels, out, 3, stride=stride, padding=1, bias=not binary)
        self.norm = nn.BatchNorm2d(out)
        self.down = nn.Sequential(nn.Conv2d(channels, out, 1, stride=stride, bias=False), nn.BatchNorm2d(out))
        self.gates = nn.ParameterList([nn.Parameter(torch.randn(out, 1, 1)) for _ in range(2)])

    def forward(self, x: Tensor) -> Tensor:
        out = self.gates[0] * self.down(x)
        out += self.norm(self.conv(x)) * self.gates[1]
        return F.leaky_relu(out, 0.2) + 0.125


class Join(nn.Module):
    """`a(x) + b(x)` of two branches with one input: a value that several ops read."""

    def __init__(self, a: nn.Module, b: nn.Module) -> None:
        super().__init__()
        self.a, self.b = a, b

    def forward(self, x: Tensor) -> Tensor:
        return torch.add(self.a(x), self.b(x))


def last(x: Tensor) -> Tensor:
    """`[N, C, H, W]` as `[N, H, W, C]`."""
    return x.permute(0, 2, 3, 1)


def first(x: Tensor) -> Tensor:
    """`[N, H, W, C]` as `[N, C, H, W]`."""
    return x.permute(0, 3, 1, 2)


def shuffled(x: Tensor, groups: int) -> Tensor:
    """The channels of `groups` groups in turn."""
    n, c, h, w = x.size()
    return x.view(n, groups, c // groups, h, w).transpose(1, 2).reshape(n, c, h, w)


class Draw:
    """A network under construction: `layers` so far, the shape they lead to, the traits they have."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.layers: list[nn.Module] = []
        self.traits: set[str] = set()
        self.depth = 0
        self.channels = self.one(1, 2, 3, 5, 8, 16, 33)
        self.height, self.width = self.one(*range(1, 10)), self.one(*range(1, 10))
        self.start = (self.channels, self.height, self.width)

    def one(self, *choices: Any) -> Any:
        return choices[int(self.rng.integers(len(choices)))]

    def two(self, *choices: int) -> tuple[int, int]:
        return self.one(*choices), self.one(*choices)

    def likely(self, probability: float) -> bool:
        return bool(self.rng.random() < probability)

    def add(self, layer: nn.Module) -> None:
        """Append, and see where it leads."""
        layer.eval()
        with torch.no_grad():
            x = layer(torch.zeros(1, self.channels, self.height, self.width))
        self.layers.append(layer)
        self.channels, self.height, self.width = x.shape[1:]

    def window(self) -> dict[str, Any]:
        """Attributes of a convolution that fit the map; their traits are noted."""
        while True:
            kernel, padding = self.two(1, 2, 3, 3, 4, 5), self.two(0, 1, 1, 2, 3, 4)
            stride, dilation = self.two(1, 1, 1, 2, 3), self.two(1, 1, 1, 2, 3)
            groups = self.one(1, 1, *(g for g in (2, 3, 4, self.channels) if self.channels % g == 0))
            size = (self.height, self.width)
            spans = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
            counts = [(n + 2 * p - e) // s + 1 for n, p, e, s in zip(size, padding, spans, stride, strict=True)]
            if all(0 < n <= 12 for n in counts):
                break
        if any(n < k for n, k in zip(size, kernel, strict=True)):
            self.traits.add("map smaller than the kernel")
        if any(p >= k // 2 + 1 for p, k in zip(padding, kernel, strict=True)):
            self.traits.add("padding of half the kernel + 1")
        if groups > 1:
            self.traits.add("groups")
        if any(d > 1 and k > 1 for d, k in zip(dilation, kernel, strict=True)):
            self.traits.add("dilation")
        return {"kernel_size": kernel, "padding": padding, "stride": stride, "dilation": dilation, "groups": groups}

    def conv(self, binary: bool) -> None:
        window = self.window()
        out = window["groups"] * self.one(1, 2, 3, 5, 9) if window["groups"] > 1 else self.one(1, 3, 7, 16, 33, 65)
        window["bias"] = self.likely(0.5)
        build: Any = partial(BinaryConv2d, method=self.one(*CONV_METHODS)) if binary else nn.Conv2d
        self.add(build(self.channels, out, **window))
        self.count(out)

    def count(self, out: int) -> None:
        self.depth += 1
        self.traits |= {"odd channels"} if out % 2 and out > 1 else set()
        self.traits |= {"depth 3"} if self.depth >= 3 else set()

    def unit(self) -> None:
        pool = nn.MaxPool2d(2) if self.likely(0.5) and min(self.height, self.width) >= 4 else None
        out, stride = self.one(3, 7, 12, 16, 34, self.channels), 1 if pool else self.one(1, 1, 2)
        method, act = self.one(*CONV_METHODS, METHODS["float"]), self.one(None, *ACTIVATIONS)
        self.add(Unit.build(self.channels, out, 3, padding=1, stride=stride, method=method, act=act, pool=pool))
        self.count(out)

    def block(self) -> None:
        out = self.one(4, 5, 16)
        self.add(Foreign(self.channels, out, self.one(1, 2), self.likely(0.7)))
        self.count(out)

    def join(self) -> None:
        out, method = self.one(3, 8), self.one(*BINARY)
        convs = [BinaryConv2d(self.channels, out, 3, padding=1, method=method) for _ in range(2)]
        norms = [nn.Sequential(conv, nn.BatchNorm2d(out)) if self.likely(0.7) else conv for conv in convs]
        self.add(Join(*norms))
        self.count(out)

    def branch(self, out: int) -> nn.Module:
        """From the map to `out` channels of it."""
        binary, size = self.likely(0.5), self.one(1, 3)
        layer: Any = partial(BinaryConv2d, method=self.one(*CONV_METHODS)) if binary else nn.Conv2d
        conv = layer(self.channels, out, size, padding=size // 2)
        return self.one(conv, nn.Sequential(conv, nn.BatchNorm2d(out)), nn.Sequential(conv, nn.ReLU()))

    def branches(self) -> None:
        """A concatenation, of the map itself too."""
        layers = [
            nn.Identity() if self.likely(0.3) else self.branch(self.one(1, 3, 8, 16, 17))
            for _ in range(self.one(2, 2, 3, 5))
        ]
        of_last = self.likely(0.3)
        self.add(
            Functional(lambda x, *f: first(torch.cat([last(g(x)) for g in f], -1)), *layers)
            if of_last
            else Functional(lambda x, *f: torch.cat([g(x) for g in f], 1), *layers)
        )
        self.traits.add("branches")

    def shuffle(self) -> None:
        """Channels in another order: of groups in turn, or of two halves, one of them behind a layer."""
        c = self.channels
        groups = [g for g in range(2, c) if c % g == 0]
        self.traits.add("shuffle" if groups or c % 2 == 0 else "slices")
        if c % 2 == 0 and self.likely(0.5):
            self.channels //= 2
            half = self.branch(c // 2)
            self.channels = c
            turn = 2 if c % 4 == 0 else 1
            self.add(
                Functional(lambda x, f: shuffled(torch.cat([f(x.chunk(2, 1)[1]), x.chunk(2, 1)[0]], 1), turn), half)
            )
        elif groups:
            g = self.one(*groups)
            self.add(self.one(nn.ChannelShuffle(g), Functional(lambda x: shuffled(x, g))))
        else:
            self.add(Functional(lambda x: torch.cat([x[:, 1:], x[:, :1]], 1) if c > 1 else x[:, 0].unsqueeze(1)))

    def slices(self) -> None:
        """Some of the channels, as they are or with others."""
        c = self.channels
        begin = int(self.rng.integers(c))
        end = int(self.rng.integers(begin, c)) + 1
        step = self.one(1, 1, 2, 3)
        part = Functional(lambda x: x[:, begin:end:step])
        keep = end - begin
        both = Functional(lambda x: (lambda parts: parts[0] - 0.5 * parts[2])(x.split([keep, c - 2 * keep, keep], 1)))
        self.add(both if 2 * keep < c and self.likely(0.5) else part)
        self.traits |= {"slices", "difference"} if self.layers[-1] is both else {"slices"}

    def product(self) -> None:
        """Two maps multiplied, or a map and one number per channel."""
        c, x = self.channels, self.one
        if self.likely(0.5):
            hidden, curve = x(1, 4, 9), x(nn.Sigmoid, nn.Hardsigmoid, nn.Tanh)()
            way = [nn.Conv2d(c, hidden, 1), x(nn.ReLU, nn.SiLU)(), nn.Conv2d(hidden, c, 1), curve]
            pool = x(nn.AdaptiveAvgPool2d(1), Functional(lambda x: x.mean((2, 3), keepdim=True)))
            self.add(Functional(self.one(lambda x, f: x * f(x), lambda x, f: f(x).mul(x)), nn.Sequential(pool, *way)))
            self.traits.add("squeeze and excite")
        else:
            out = x(2, 8, 33)
            maps = [self.branch(out) for _ in range(2)]
            self.add(Functional(x(lambda x, f, g: f(x) * g(x), lambda x, f, g: torch.mul(f(x), f(x))), *maps))
            self.traits.add("product")

    def curve(self) -> None:
        self.add(self.one(*CURVES)())
        self.traits.add("curve")

    def norm(self) -> None:
        """Over the channels of each pixel: a layer norm, linear layers, as ConvNeXt has them."""
        c, out = self.channels, self.one(1, 5, 16, 40)
        norm = nn.LayerNorm(c, eps=self.one(1e-6, 1e-3), elementwise_affine=self.likely(0.7))
        steps = [norm, nn.Linear(c, out), self.one(*CURVES, nn.ReLU)(), nn.Linear(out, c)]
        residual = self.likely(0.5)
        of_last = nn.Sequential(*self.one(steps, steps[:1], steps[1:], steps if residual else steps[:2]))
        self.add(
            Functional(lambda x, f: x + first(f(last(x))), of_last)
            if residual
            else Functional(lambda x, f: first(f(last(x))), of_last)
        )
        self.traits |= {"layer norm"} if norm in of_last else set()
        self.traits |= {"linear of a map"} if len(of_last) > 1 else set()

    def depthwise(self) -> None:
        c, size = self.channels, self.one(1, 3, 3, 5)
        layer: Any = partial(BinaryConv2d, method=self.one(*CONV_METHODS)) if self.likely(0.2) else nn.Conv2d
        self.add(layer(c, c, size, padding=self.one(size // 2, size // 2 + 1), stride=self.one(1, 1, 2), groups=c))
        self.traits |= {"depthwise"} if c > 1 else set()

    def arithmetic(self) -> None:
        """Differences, and constants: one number, or one per channel."""
        c = self.channels
        numbers = torch.randn(c, 1, 1)
        number = float(self.rng.normal())
        constants = [
            lambda x: number - x,
            lambda x: x.sub_(number),
            lambda x: x * numbers,
            lambda x: -x + numbers,
            lambda x: x / 0.7,
            lambda x: first(last(x) * numbers.flatten()),
            lambda x: numbers - 2 * x,
            lambda x: torch.clamp(x + numbers, max=2),
        ]
        if self.likely(0.5):
            self.add(Functional(self.one(*constants)))
            self.traits.add("constant")
        else:
            maps = [self.branch(c), self.one(nn.Identity(), self.branch(c))]
            self.add(Functional(self.one(lambda x, f, g: f(x) - g(x), lambda x, f, g: torch.sub(g(x), f(x))), *maps))
            self.traits.add("difference")

    def act(self) -> None:
        c = self.channels
        own = [build(c) for build in ACTIVATIONS.values()]
        stock = [nn.ReLU(inplace=True), nn.Hardtanh(-0.5, 2.0), nn.PReLU(), nn.PReLU(c), nn.ReLU6(), nn.LeakyReLU(0.1)]
        self.add(self.one(*own, *stock, nn.Identity(), nn.Dropout(0.5)))

    def pool(self) -> None:
        k, p = self.one((2, 2), (3, 2), (3, 3), (1, 3)), self.one((0, 0), (0, 1))
        size = [n + 2 * q for n, q in zip((self.height, self.width), p, strict=True)]
        ceil = self.likely(0.3)
        if any(n < j for n, j in zip(size, k, strict=True)):
            self.add(nn.AdaptiveAvgPool2d((self.one(1, 2, 3), self.one(1, 2, None))))
        else:
            average = nn.AvgPool2d(k, self.one(None, 1), p, ceil_mode=ceil, count_include_pad=self.likely(0.5))
            self.add(self.one(average, nn.MaxPool2d(k, self.one(None, 1, 2), p, ceil_mode=ceil)))

    def head(self) -> None:
        """Flatten, with the map or without, and one or two linear layers."""
        if self.likely(0.5):
            self.add(nn.AdaptiveAvgPool2d(1))
        single = self.height * self.width == 1
        features = self.channels * self.height * self.width
        layers: list[nn.Module] = [nn.Flatten()]
        if self.likely(0.5):
            layers = [Functional(lambda x: last(x).flatten(1))]
            self.traits |= set() if single else {"flattened [N, H, W, C]"}
        layers += [nn.LayerNorm(features)] if single and self.likely(0.3) else []
        layers += [self.one(*CURVES)()] if self.likely(0.3) else []
        if self.likely(0.5):
            methods = [METHODS["bbg"], SHIFT_ONLY, *([METHODS["reactnet"], SHIFTED] if single else [])]
            layers += [nn.BatchNorm1d(features)] if single and self.likely(0.5) else []
            layers += [BinaryLinear(features, 21, method=self.one(*methods), bias=self.likely(0.5)), nn.BatchNorm1d(21)]
            features = 21
        self.layers += [*layers, nn.Linear(features, 10, bias=self.likely(0.7))]


def random_network(seed: int) -> tuple[nn.Module, Tensor, set[str]]:
    """A network in evaluation mode, an example batch of 3 images, and its traits. The same seed gives the same."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        draw = Draw(seed)
        parts = [
            lambda: draw.conv(True),
            lambda: draw.conv(True),
            lambda: draw.conv(False),
            *[draw.unit] * 5,
            draw.block,
            draw.join,
            draw.act,
            draw.pool,
            draw.pool,
            draw.branches,
            draw.branches,
            draw.shuffle,
            draw.shuffle,
            draw.slices,
            draw.product,
            draw.product,
            draw.curve,
            draw.norm,
            draw.norm,
            draw.depthwise,
            draw.arithmetic,
            draw.arithmetic,
            lambda: draw.add(nn.BatchNorm2d(draw.channels)),
            *(partial(part, draw) for part in random_maps.PARTS),
        ]
        draw.conv(False)
        for _ in range(draw.one(1, 2, 4, 6, 8)):
            draw.one(*parts)()
        if seed % 4 == 1:
            draw.one(*random_maps.BEHIND)(draw)
        if draw.likely(0.6):
            draw.head()
        network = nn.Sequential(*draw.layers).eval()
        _settle(network, draw)
        return network, torch.randn(3, *draw.start), draw.traits


def _settle(network: nn.Module, draw: Draw) -> None:
    """Parameters and statistics as after a training: nothing at its initial value."""
    for module in network.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
            nn.init.normal_(module.running_mean, std=2)
            nn.init.uniform_(module.running_var, 0.2, 3)
            if draw.likely(0.3):
                nn.init.zeros_(module.weight[: draw.one(1, 2)])
                draw.traits.add("zero BN scale")
            draw.traits |= {"negative BN scale"} if (module.weight < 0).any() else set()
        if isinstance(module, (nn.LayerNorm, nn.GroupNorm, nn.InstanceNorm2d)) and module.weight is not None:
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
        if isinstance(module, Unit) and module.gate is not None:
            nn.init.normal_(module.gate)
        if module.__class__ in ACTIVATIONS.values():
            for parameter in module.parameters():
                nn.init.normal_(parameter, std=0.5)
