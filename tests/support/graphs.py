"""Small graphs for tests."""

from __future__ import annotations

import numpy as np

from bbg.graph import Graph, Op, Output, pack_bits


def small() -> Graph:
    """Conv -> real and bits; binary_conv with a gated shortcut; an integer-threshold conv; pools; a flat head."""
    rng = np.random.default_rng(0)

    def f(*shape: int) -> np.ndarray:
        return rng.normal(size=shape).astype(np.float32)

    def bits(rows: int, count: int) -> np.ndarray:
        return pack_bits(rng.random((rows, count)) < 0.5, rows)

    three = {"kernel": (3, 3), "padding": (1, 1)}
    return Graph(
        "x",
        (3, 6, 6),
        (
            Op(
                "stem",
                "conv",
                ("x",),
                "v0",
                "b0",
                {**three, "channels": 5},
                {"weight": f(5, 3, 3, 3), "epilogue": f(2, 5)},
                ("scale", "bias"),
            ),
            Op(
                "gated",
                "binary_conv",
                ("b0", "v0"),
                "v1",
                "b1",
                {**three, "channels": 5},
                {"weight": bits(5, 45), "epilogue": f(3, 5)},
                ("scale", "bias", "gate"),
                (-1.0, 1.0),
            ),
            Op(
                "integer",
                "binary_conv",
                ("b1",),
                None,
                "b2",
                {**three, "channels": 70},
                {"weight": bits(70, 45), "acc_threshold": np.arange(70, dtype=np.int32) - 35},
            ),
            Op(
                "pool",
                "max_pool_bits",
                ("b2",),
                None,
                "b3",
                {"kernel": (2, 2), "stride": (2, 2)},
                {"and_mask": bits(1, 70)[0]},
            ),
            Op(
                "head",
                "binary_conv",
                ("b3",),
                "y",
                None,
                {"kernel": (3, 3), "channels": 4},
                {"weight": bits(4, 630), "epilogue": f(1, 4)},
                ("bias",),
            ),
        ),
        (Output.of_flat("", "y", 4),),
    )


def several() -> Graph:
    """Ops of several operands, and those of channels: on the input, a map of 1x1 and one another."""
    index = np.array([2, 0, 2, 9], np.int32)
    return Graph(
        "x",
        (5, 6, 6),
        (
            Op("mean", "adaptive_avg_pool", ("x",), "m", "mb", {"size": (1, 1)}),
            Op("product", "multiply", ("x", "m", "x"), "p", None, {}, {"epilogue": np.ones((1, 5), "f4")}, ("gate",)),
            Op("whole", "multiply", ("x", "p"), "w"),
            Op("joined", "concat", ("p", "x", "p"), "j", "jb"),
            Op("chosen", "select", ("j",), "s", None, {"channels": 4}, {"index": index}),
            Op("curve", "unary", ("s",), "t", None, {"function": "tanh"}),
            Op("normal", "layer_norm", ("t", "s"), "n"),
            Op("other", "unary", ("n",), "y", None, {"function": "gelu"}),
        ),
        (Output.of_map("", "y", (4, 6, 6)),),
    )
