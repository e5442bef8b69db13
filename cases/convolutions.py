"""The table of convolutions that tests and benchmarks share."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from bbg.graph import Graph, Op, pack_bits

Pair = tuple[int, int]


class Case(NamedTuple):
    """One convolution: `inputs` x `size` to `outputs` channels."""

    inputs: int
    outputs: int
    size: Pair
    kernel: Pair = (3, 3)
    stride: Pair = (1, 1)
    padding: Pair = (1, 1)
    dilation: Pair = (1, 1)
    groups: int = 1

    def __str__(self) -> str:
        def pair(p: Pair) -> str:
            return f"{p[0]}x{p[1]}" if p[0] != p[1] else str(p[0])

        text = f"{self.inputs}-{self.outputs} on {self.size[0]}x{self.size[1]}"
        text += f" k{pair(self.kernel)} p{pair(self.padding)}"
        text += f" s{pair(self.stride)}" if self.stride != (1, 1) else ""
        text += f" d{pair(self.dilation)}" if self.dilation != (1, 1) else ""
        return text + (f" g{self.groups}" if self.groups > 1 else "")


# Around the edges of words, lanes and pixel blocks, then what is unusual, one thing at a time, then combinations.
CASES = (
    *(Case(c, 33, (5, 9)) for c in (1, 3, 15, 16, 17, 31, 32, 33, 48, 63, 64, 65, 96, 100, 128)),
    *(Case(40, o, (5, 9)) for o in (1, 2, 7, 8, 9, 15, 16, 17, 24, 31, 32, 33, 48, 65)),
    *(Case(16, o, (4, w)) for o, w in ((16, 1), (16, 2), (16, 3), (16, 17), (33, 16), (40, 7), (5, 31))),
    *(Case(64, 32, (3, w)) for w in (1, 2, 3, 4, 6, 7, 8, 9, 13, 14, 15, 16, 28, 33)),
    # The table kernel: blocks of 64 filters, stretches of 16 pixels in blocks of four, bytes that count for 7 words.
    *(Case(64, o, (3, 7)) for o in (40, 41, 56, 63, 64, 72, 73, 95, 96, 97, 104, 128, 130)),
    *(Case(33, 64, (2, w)) for w in (1, 2, 3, 4, 5, 6, 7, 9, 15, 16, 17, 18, 21, 35)),
    *(Case(c, 65, (2, 3), kernel=(1, 1), padding=(0, 0)) for c in (17, 32, 223, 224, 225, 256, 447, 448, 449)),
    Case(64, 96, (9, 35), stride=(2, 2)),
    Case(130, 72, (9, 12), padding=(2, 2), dilation=(2, 2)),
    Case(40, 80, (8, 13), kernel=(5, 3), padding=(1, 2), stride=(1, 2), dilation=(2, 1)),
    Case(64, 64, (2, 3), kernel=(5, 5), padding=(4, 4)),  # some outputs see nothing but padding
    Case(32, 32, (1, 1)),
    Case(32, 32, (2, 2), kernel=(5, 5), padding=(2, 2)),  # the map is smaller than the kernel
    Case(64, 40, (3, 2), kernel=(7, 7), padding=(3, 3)),
    Case(33, 17, (1, 9), kernel=(3, 3), padding=(4, 4)),  # outputs that see nothing but padding
    Case(16, 16, (4, 4), kernel=(3, 3), padding=(3, 3)),
    Case(48, 20, (6, 6), kernel=(5, 5), padding=(6, 0)),
    Case(64, 64, (4, 4), kernel=(4, 4), padding=(0, 0)),  # a linear layer
    Case(70, 10, (1, 1), kernel=(1, 1), padding=(0, 0)),
    *(Case(c, 40, (3, 3), padding=(0, 0)) for c in (3, 16, 33)),  # and those of few channels, and of three columns
    *(Case(c, 64, (7, 8), kernel=(1, 1), padding=(0, 0)) for c in (16, 64, 100)),
    *(Case(c, 32, (9, 10), stride=(2, 2)) for c in (3, 16, 32, 64)),
    Case(64, 64, (9, 11), kernel=(1, 1), padding=(0, 0), stride=(2, 2)),
    Case(64, 32, (8, 9), kernel=(7, 7), padding=(3, 3), stride=(2, 2)),
    Case(40, 24, (7, 9), stride=(3, 1)),
    *(Case(c, 24, (9, 9), dilation=(2, 2), padding=(2, 2)) for c in (16, 32, 64)),
    Case(33, 24, (9, 12), dilation=(3, 1), padding=(0, 2)),
    Case(64, 24, (5, 12), kernel=(1, 3), padding=(0, 1)),
    Case(64, 24, (12, 5), kernel=(3, 1), padding=(1, 0)),
    Case(16, 24, (6, 7), kernel=(2, 4), padding=(1, 2)),
    *(Case(c, o, (5, 6), groups=g) for c, o, g in ((64, 64, 2), (64, 64, 64), (96, 48, 3), (6, 4, 2), (16, 32, 16))),
    Case(36, 72, (6, 5), stride=(2, 1), padding=(2, 3), groups=4),
    Case(35, 21, (7, 9), kernel=(5, 3), stride=(2, 3), padding=(4, 2), dilation=(2, 1), groups=7),
)


# Convolutions of bytes, most of whose tap rows leave a byte over: around the 16 columns whose odd bytes are collected
# at a time and the four rows that share a word; borders on every side.
STEMS = (
    *(Case(3, 40, (9, w), kernel=(7, 7), padding=(3, 3), stride=(2, 2)) for w in (1, 2, 5, 30, 31, 32, 33, 34)),
    *(Case(3, 17, (h, 97), kernel=(7, 7), padding=(3, 3), stride=(2, 2)) for h in (1, 2, 3, 4, 6)),
    *(Case(3, 33, (6, w), padding=(1, 1)) for w in (1, 7, 15, 16, 17, 41)),
    *(Case(3, 20, (9, 40), kernel=(k, 3), padding=(k // 2, 1)) for k in (1, 2, 4, 5, 8, 9)),
    *(Case(1, 16, (9, 40), kernel=(3, 5), padding=(1, 2), stride=(1, s)) for s in (1, 7, 8, 9)),
    Case(1, 16, (9, 40), kernel=(3, 1), padding=(1, 0)),
    Case(3, 24, (12, 34), padding=(4, 4), dilation=(3, 1), stride=(2, 1)),  # some see nothing but padding
    Case(5, 24, (7, 33), kernel=(3, 5), padding=(1, 2)),
    Case(4, 24, (7, 33), kernel=(5, 5), padding=(2, 2)),
)

# Convolutions of bytes around tiles of 16 columns and 64 bytes: tiles that overlap, rows of one tile, many blocks.
TILED = (
    *(Case(c, 40, (5, w)) for c, w in ((64, 15), (64, 18), (48, 29), (33, 31), (100, 34), (16, 49), (21, 33))),
    *(
        Case(c, o, (8, w), (1, 1), padding=(0, 0))
        for c, o, w in ((16, 96, 20), (24, 130, 33), (64, 200, 7), (70, 97, 1))
    ),
    Case(32, 72, (9, 41), stride=(2, 2)),
    Case(40, 56, (12, 22), kernel=(5, 3), padding=(4, 2), dilation=(2, 1)),
    Case(64, 48, (9, 26), groups=2),
)

# Convolutions with one channel per filter: around the lanes, blocks of pixels, borders on every side.
DEPTHWISE = (
    *(Case(c, c, (5, 9), groups=c) for c in (2, 3, 7, 8, 9, 16, 17, 24, 31, 32, 33, 48, 64, 65)),
    *(Case(33, 33, (3, w), groups=33) for w in (1, 2, 3, 4, 6, 7, 8, 9, 13, 14, 15, 16, 28)),
    *(Case(24, 24, (6, 7), kernel=(k, k), padding=(k // 2, k // 2), groups=24) for k in (1, 2, 5, 7)),
    *(Case(24, 24, (9, 10), stride=s, groups=24) for s in ((2, 2), (3, 1), (1, 3))),
    Case(17, 17, (9, 11), kernel=(3, 5), padding=(2, 3), stride=(2, 1), dilation=(3, 2), groups=17),
    *(Case(96, 96, (11, 13), (k, k), (s, s), (k // 2, k // 2), groups=96) for k in (3, 5, 7) for s in (1, 2)),
    *(Case(17, 17, (h, 6), kernel=(9, 3), padding=(4, 1), groups=17) for h in (1, 2, 3, 5, 12)),  # which rows count
    Case(40, 40, (3, 2), kernel=(7, 7), padding=(3, 3), groups=40),  # the map is smaller than the kernel
    Case(16, 16, (2, 2), padding=(5, 4), groups=16),  # outputs that see nothing but padding
    Case(20, 20, (7, 7), kernel=(7, 7), padding=(0, 0), groups=20),  # a single output
    Case(20, 20, (1, 1), groups=20),
)

CHANNELS = (1, 3, 16, 17, 33, 64)
MAPS = ((1, 1), (1, 5), (3, 7), (4, 9))
CONCATS = ((1, 1), (16, 16), (3, 1, 17), (32, 32, 64), (33, 1, 3), (1, 1, 1, 1, 1), (17, 16, 33, 64), (8, 24, 5))


def conv_op(kind: str, case: Case, rng: np.random.Generator, **more: object) -> Op:
    """The op "conv" that computes `case` on the value "b" (bits) or "x" (the input), with random weights."""
    fan_in = case.kernel[0] * case.kernel[1] * case.inputs // case.groups
    if kind == "binary_conv":
        weight = pack_bits(rng.random((case.outputs, fan_in)) < 0.5, case.outputs)
    elif kind == "byte_conv":
        weight = rng.integers(-128, 128, (case.outputs, *case.kernel, case.inputs // case.groups)).astype(np.int8)
    else:
        weight = rng.standard_normal((case.outputs, *case.kernel, case.inputs // case.groups)).astype(np.float32)
    attributes = {
        "kernel": case.kernel,
        "stride": case.stride,
        "padding": case.padding,
        "dilation": case.dilation,
        "groups": case.groups,
        "channels": case.outputs,
    }
    source = "b" if kind == "binary_conv" else "x"
    tensors = {"weight": weight} | more.pop("tensors", {})
    arguments = {"inputs": (source,), "real": "y"} | more
    return Op("conv", kind, attributes=attributes, tensors=tensors, **arguments)


def conv_graph(kind: str, case: Case, rng: np.random.Generator, **more: object) -> Graph:
    """A graph of that op; for a binary one, the signs of the input come first. It returns what the op writes."""
    op = conv_op(kind, case, rng, **more)
    first = [Op("sign", "pointwise", ("x",), bits="b")] if kind == "binary_conv" else []
    input_type = "bytes" if kind == "byte_conv" else "real"
    return Graph("x", (case.inputs, *case.size), (*first, op), (), input_type).with_outputs(op.written)


class Layer(NamedTuple):
    """A binary layer that people run, and on how many images at a time."""

    network: str
    case: Case
    images: int = 1

    def __str__(self) -> str:
        return f"{self.network}: {self.case}" + (f" x{self.images}" if self.images > 1 else "")


def _square(inputs: int, outputs: int, size: int, stride: int = 1) -> Case:
    return Case(inputs, outputs, (size, size), stride=(stride, stride))


# A linear layer is a convolution whose kernel is the whole map.
LAYERS = (
    *(Layer("ResNet-18", _square(c, c, size)) for c, size in ((64, 56), (128, 28), (256, 14), (512, 7))),
    *(Layer("ResNet-18", _square(c, 2 * c, size, 2)) for c, size in ((64, 56), (128, 28), (256, 14))),
    *(Layer("ResNet-20", _square(c, c, size)) for c, size in ((16, 32), (32, 16), (64, 8))),
    *(Layer("ResNet-20", _square(c, 2 * c, size, 2)) for c, size in ((16, 32), (32, 16))),
    *(Layer("VGG-Small", _square(i, o, s)) for i, o, s in ((128, 128, 32), (128, 256, 16), (256, 256, 16))),
    *(Layer("VGG-Small", _square(i, o, s)) for i, o, s in ((256, 512, 8), (512, 512, 8))),
    *(Layer("1x1", Case(c, o, (s, s), (1, 1), padding=(0, 0))) for c, o, s in ((64, 128, 28), (256, 256, 14))),
    *(Layer("linear", Case(4096, 4096, (1, 1), (1, 1), padding=(0, 0)), images) for images in (1, 64)),
)
