"""One binary layer as a graph, in an engine of its own, and how many multiply-accumulates it does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from bbg.engine import Engine
from bbg.graph import Graph, Op, Value
from bbg.graph.file import PackedModel
from bench.measure import durations
from cases.convolutions import Case, conv_op

FORMS = ("bits", "unit")


def executed(op: Op, values: Mapping[str, Value]) -> int:
    """Multiply-accumulates of `op` for one image; a tap outside of the map is none."""
    main, result = values[op.inputs[0]], values[op.result]
    if not op.fan_in(main):
        return 0
    a, taps = op.attributes, 1
    for axis, (size, steps) in enumerate(zip(main.shape[1:], result.shape[1:], strict=True)):
        first = np.arange(steps) * a["stride"][axis] - a["padding"][axis]
        at = first[:, None] + np.arange(a["kernel"][axis]) * a["dilation"][axis]
        taps *= int(((at >= 0) & (at < size)).sum())
    return taps * result.channels * main.channels // int(a["groups"])


def layer(case: Case, form: str) -> Graph:
    """A graph whose op "conv" is the binary convolution `case`, with random weights, in a form or as "sums"."""
    rng = np.random.default_rng(0)
    shape = (case.inputs, *case.size)
    sign = Op("sign", "pointwise", ("x",), bits="b")
    op = conv_op("binary_conv", case, rng)
    if form == "bits":
        threshold = rng.integers(-4, 5, case.outputs).astype(np.int32)
        op = replace(op, real=None, bits="y", tensors={**op.tensors, "acc_threshold": threshold})
    elif form == "unit":
        gated = Graph("x", shape, (sign, op), ()).shapes(*case.size)["y"].shape == shape
        rows = ("scale", "bias", "above", "below", "offset") + ("gate",) * gated
        epilogue = rng.standard_normal((len(rows), case.outputs)).astype(np.float32)
        op = replace(
            op,
            bits="z",
            inputs=("b", "x") if gated else ("b",),
            epilogue=rows,
            tensors={**op.tensors, "epilogue": epilogue},
        )
    return Graph("x", shape, (sign, op), ()).with_outputs(op.written)


class Timed:
    """A binary layer in an engine of its own, with the kernel set that a new engine gets."""

    def __init__(self, case: Case, form: str = "bits", images: int = 1, threads: int = 1) -> None:
        graph = layer(case, form)
        self.images = images
        self.macs = images * executed(graph.ops[1], graph.shapes(*case.size))
        self.engine = Engine(PackedModel(graph), threads)
        shape = (images, case.inputs, *case.size)
        self._x = np.random.default_rng(1).standard_normal(shape).astype(np.float32)

    def seconds(self) -> float:
        """How long the layer takes once, without the op that packs its bits."""
        return self.engine.profile(self._x)[1].seconds

    def round(self, seconds: float) -> list[float]:
        """Its durations in about `seconds` of work."""
        return durations(self.seconds, seconds, least=1, warm=1)
