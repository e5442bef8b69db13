"""The native graph checks what it is given, also what Python refuses before."""

from __future__ import annotations

import numpy as np
import pytest

from bbg import _native

INDEX = np.zeros(4, np.int32)
CONV = {"kernel": (1, 1), "stride": (1, 1), "dilation": (1, 1), "groups": 1, "channels": 1}
WEIGHT = {"weight": np.zeros((1, 1), np.uint64)}


NATIVE = {  # kind, operands, shortcut, attributes, tensors -> the sentence
    "no operand": (("unary", [], None, {"function": "tanh"}, {}), "has 0 operands, not 1"),
    "an operand too many": (("unary", ["x", "x"], None, {"function": "gelu"}, {}), "has 2 operands, not 1"),
    "an operand that is not there": (("concat", ["x", "v"], None, {}, {}), "reads 'v', which no earlier op writes"),
    "a concat of one": (("concat", ["x"], None, {}, {}), "has 1 operands, not 2 or more"),
    "a concat of unequal maps": (("concat", ["x", "m"], None, {}, {}), "the maps of the operands must be equal"),
    "a concat of bits": (("concat", ["x", "b"], None, {}, {}), "its operands must be real"),
    "a concat with a shortcut": (("concat", ["x", "x"], "x", {}, {}), "has no shortcut"),
    "a product of one": (("multiply", ["x"], None, {}, {}), "has 1 operands, not 2"),
    "a product of three": (("multiply", ["x", "x", "x"], None, {}, {}), "has 3 operands, not 2"),
    "a factor that is larger": (("multiply", ["m", "x"], None, {}, {}), "the factor must have the shape"),
    "a factor of other channels": (("multiply", ["x", "w"], None, {}, {}), "the factor must have the shape"),
    "a shortcut of the factor's shape": (
        ("multiply", ["x", "m"], "m", {}, {}),
        "the shortcut must have the shape of the result",
    ),
    "a select without index": (("select", ["x"], None, {"channels": 4}, {}), "the index is missing"),
    "a short index": (("select", ["x"], None, {"channels": 5}, {"index": INDEX}), "the index has 4 elements, not 5"),
    "a select of nothing": (("select", ["x"], None, {}, {"index": INDEX}), "channels is 0"),
    "an index behind the last": (("select", ["x"], None, {"channels": 4}, {"index": INDEX + 3}), "reaches beyond"),
    "a negative index": (("select", ["x"], None, {"channels": 4}, {"index": INDEX - 1}), "reaches beyond"),
    "a tap bias of 2^30": (
        ("binary_conv", ["b"], None, CONV, {**WEIGHT, "tap_bias": np.full((1, 1), -(2.0**30), np.float32)}),
        "tap_bias must be below 2\\^30",
    ),
    "no eps": (("layer_norm", ["x"], None, {}, {}), "eps must be a positive number"),
    "an eps that is not finite": (("layer_norm", ["x"], None, {"eps": 1e39}, {}), "eps must be a positive number"),
    "an eps that is no number": (("layer_norm", ["x"], None, {"eps": np.nan}, {}), "eps must be a positive number"),
}


@pytest.mark.parametrize("case", NATIVE)
def test_the_native_side_checks_on_its_own(case: str) -> None:
    """What Python refuses already is handed to the native graph itself."""
    (kind, operands, shortcut, attributes, tensors), sentence = NATIVE[case]
    graph = _native.Graph("x", False, 3, 4, 5)
    graph.add("mean", "adaptive_avg_pool", ["x"], None, "m", "b", None, {"size": (1, 1)}, {}, None, None)
    graph.add("wide", "match_channels", ["x"], None, "w", None, None, {"channels": 4}, {}, None, None)
    with pytest.raises(ValueError, match=f"^op: .*{sentence}"):
        graph.add("op", kind, operands, shortcut, "y", None, None, attributes, tensors, None, None)
