"""The graph's rules: each broken one gives one sentence; shapes and sums agree with PyTorch."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest
from support.graphs import several, small

from bbg.errors import BbgError
from bbg.graph import Graph, Op, Output, Part, Value, pack_bits, unpack_bits, words
from bbg.graph.kinds import KINDS
from cases import random_graphs


def changed(name: str, /, **changes: object) -> Graph:
    """The graph of the op `name` with fields of it replaced; attributes and tensors are merged, None removes one."""
    graph = next(graph for graph in (small(), several()) if name in [op.name for op in graph.ops])
    ops = []
    for op in graph.ops:
        if op.name == name:
            for key in ("attributes", "tensors"):
                merged = {**getattr(op, key), **changes.get(key, {})}
                changes[key] = {k: v for k, v in merged.items() if v is not None}
            op = dataclasses.replace(op, **changes)
        ops.append(op)
    return dataclasses.replace(graph, ops=tuple(ops))


def test_a_sound_graph_has_the_shapes_of_its_values() -> None:
    values = small().check()
    assert values["v0"] == Value("real", 5, 6, 6)
    assert values["b2"] == Value("bits", 70, 6, 6)
    assert values["b3"] == Value("bits", 70, 3, 3)
    assert values["y"].shape == (4, 1, 1)
    assert small().shapes(9, 8)["y"].shape == (4, 2, 2)
    values = several().check()
    assert [values[name].shape for name in "mpwjsy"] == [(5, 1, 1), (5, 6, 6), (5, 6, 6), (15, 6, 6), *2 * [(4, 6, 6)]]


def test_operands_come_before_the_shortcut() -> None:
    gated = small().ops[1]
    assert (gated.operands, gated.shortcut) == (("b0",), "v0")
    read = {op.name: (op.operands, op.shortcut) for op in several().ops}
    assert read["product"] == (("x", "m"), "x")
    assert read["whole"] == (("x", "p"), None)
    assert read["joined"] == (("p", "x", "p"), None)
    assert read["normal"] == (("t",), "s")


NAN = np.full((5, 3, 3, 3), np.nan, np.float32)
BAD = {
    "an unknown kind": ("pool", {"kind": "median_pool"}, "unknown kind"),
    "an unknown attribute": ("stem", {"attributes": {"colour": 1}}, "unknown attribute 'colour'"),
    "a missing attribute": ("stem", {"attributes": {"channels": None}}, "attribute 'channels' is missing"),
    "a zero stride": ("stem", {"attributes": {"stride": (0, 1)}}, "'stride' is (0, 1), allowed is a pair of integers"),
    "a scalar kernel": ("stem", {"attributes": {"kernel": 3}}, "'kernel' is 3"),
    "a boolean size": ("stem", {"attributes": {"kernel": (True, 3)}}, "'kernel' is (True, 3)"),
    "a huge padding": ("stem", {"attributes": {"padding": (65536, 0)}}, "from 0 to 65535"),
    "a number as ceil_mode": ("pool", {"attributes": {"ceil_mode": 1}}, "true or false"),
    "groups that do not divide": ("gated", {"attributes": {"groups": 2}}, "groups 2 must divide 5 input"),
    "a pool's wide padding": ("pool", {"attributes": {"padding": (2, 0)}}, "at most half the kernel"),
    "a pool's wide dilation": ("pool", {"attributes": {"dilation": (7, 1)}}, "at most the map"),
    "a map below 1x1": ("head", {"attributes": {"kernel": (4, 3)}}, "sizes must be at least 1"),
    "a product beyond 2^31": ("stem", {"attributes": {"padding": (30000, 30000)}}, "product below 2^31"),
    "a weight beyond 2^31": ("stem", {"attributes": {"kernel": (65535, 65535), "padding": (32767, 32767)}}, "2^31"),
    "no input": ("stem", {"inputs": ()}, "0 inputs"),
    "three inputs": ("gated", {"inputs": ("b0", "v0", "v0")}, "3 inputs"),
    "a dangling input": ("gated", {"inputs": ("b0", "v9")}, "reads 'v9', which no op writes"),
    "a cycle": ("gated", {"inputs": ("b0", "v1")}, "reads 'v1' before op 'gated' writes it: the graph has a cycle"),
    "real where bits belong": ("gated", {"inputs": ("v0", "v0")}, "operand 'v0' is real, it must be bits"),
    "bits where real belongs": ("gated", {"inputs": ("b0", "b0")}, "shortcut 'b0' is bits [5, 6, 6], it must be real"),
    "a shortcut of another shape": ("gated", {"inputs": ("b0", "x")}, "shortcut 'x' is real [3, 6, 6]"),
    "nothing written": ("gated", {"real": None, "bits": None}, "writes nothing"),
    "a value written twice": ("gated", {"real": "v0"}, "writes 'v0', which is written already"),
    "the input written": ("gated", {"real": "x"}, "writes 'x', which is written already"),
    "one name for two values": ("gated", {"bits": "v1"}, "writes 'v1', which is written already"),
    "two ops of one name": ("gated", {"name": "stem"}, "another op has the same name"),
    "an unknown parameter": ("stem", {"epilogue": ("scale", "tint")}, "unknown epilogue parameter 'tint'"),
    "a shift in a real conv": ("stem", {"epilogue": ("scale", "shift")}, "unknown epilogue parameter 'shift'"),
    "a repeated parameter": ("stem", {"epilogue": ("bias", "bias")}, "repeat"),
    "a gate without shortcut": ("gated", {"inputs": ("b0",)}, "has a gate but no shortcut"),
    "a falling clip": ("gated", {"clip": (1.0, -1.0)}, "must rise"),
    "a clip beyond float32": ("gated", {"clip": (None, 1e39)}, "not finite in float32"),
    "a clip that is not a number": ("gated", {"clip": (float("nan"), None)}, "not finite in float32"),
    "a bit pool with a clip": ("pool", {"clip": (0.0, None)}, "writes bits only"),
    "a bit pool with a real value": ("pool", {"real": "v9"}, "writes bits only"),
    "a threshold with a real value": ("integer", {"real": "v9"}, "has integer thresholds"),
    "a threshold with tap_bias": ("integer", {"tensors": {"tap_bias": np.zeros((9, 70), "f4")}}, "integer thresholds"),
    "a missing tensor": ("gated", {"tensors": {"weight": None}}, "tensor 'weight' is missing"),
    "a missing epilogue": ("gated", {"tensors": {"epilogue": None}}, "tensor 'epilogue' is missing"),
    "an unused tensor": ("stem", {"tensors": {"and_mask": np.zeros(1, np.uint64)}}, "'and_mask' is not used"),
    "an epilogue without parameters": ("stem", {"epilogue": ()}, "tensor 'epilogue' is not used"),
    "a wrong dtype": ("stem", {"tensors": {"weight": NAN.astype("f8")}}, "float64 [5, 3, 3, 3], it must be float32"),
    "a foreign byte order": ("stem", {"tensors": {"weight": np.zeros((5, 3, 3, 3), ">f4")}}, "must be float32"),
    "a wrong shape": ("integer", {"tensors": {"acc_threshold": np.zeros((70, 1), "i4")}}, "it must be int32 [70]"),
    "too few words": ("head", {"tensors": {"weight": np.zeros((4, 9), np.uint64)}}, "it must be uint64 [4, 10]"),
    "a NaN in a weight": ("stem", {"tensors": {"weight": NAN}}, "not finite"),
    "a large tap bias": (
        "head",
        {"tensors": {"tap_bias": np.full((9, 4), -(2.0**30), "f4")}},
        "'tap_bias' reaches 1.07e+09, it must be below 2^30",
    ),
    "bits behind a row": ("gated", {"tensors": {"weight": np.full((5, 1), 2**45, np.uint64)}}, "behind the last of 45"),
    "a concat of one": ("joined", {"inputs": ("x",)}, "1 inputs; two or more are allowed"),
    "a concat of unequal maps": ("joined", {"inputs": ("x", "m")}, "[5, 6, 6], [5, 1, 1]; their maps must be equal"),
    "a concat of bits": ("joined", {"inputs": ("m", "mb")}, "operand 'mb' is bits, it must be real"),
    "a concat with a gate": ("joined", {"epilogue": ("gate",)}, "has a gate but no shortcut"),
    "a product of one": ("product", {"inputs": ("x",)}, "1 inputs; two, or two and a shortcut, are allowed"),
    "a product of four": ("product", {"inputs": ("x", "m", "x", "x")}, "4 inputs"),
    "a product without its shortcut": ("product", {"inputs": ("x", "m")}, "has a gate but no shortcut"),
    "a shortcut of the factor's shape": ("product", {"inputs": ("x", "m", "m")}, "shortcut 'm' is real [5, 1, 1]"),
    "a factor of bits": ("product", {"inputs": ("x", "mb", "x")}, "operand 'mb' is bits, it must be real"),
    "a factor that is larger": ("product", {"inputs": ("m", "x", "m")}, "a factor of shape [5, 6, 6]; allowed"),
    "a missing index": ("chosen", {"tensors": {"index": None}}, "tensor 'index' is missing"),
    "too long an index": ("chosen", {"tensors": {"index": np.zeros(5, "i4")}}, "it must be int32 [4]"),
    "a wide index": ("chosen", {"tensors": {"index": np.zeros(4, "i8")}}, "int64 [4], it must be int32 [4]"),
    "an index behind the last": ("chosen", {"tensors": {"index": np.int32([0, 15, 1, 2])}}, "from 0 to 15, allowed"),
    "a negative index": ("chosen", {"tensors": {"index": np.int32([0, -1, 1, 2])}}, "from -1 to 2, allowed"),
    "an index elsewhere": ("curve", {"tensors": {"index": np.zeros(4, "i4")}}, "'index' is not used"),
    "a select of unknown width": ("chosen", {"attributes": {"channels": None}}, "attribute 'channels' is missing"),
    "an eps of zero": ("normal", {"attributes": {"eps": 0.0}}, "'eps' is 0.0, allowed is a number from"),
    "a negative eps": ("normal", {"attributes": {"eps": -1e-5}}, "'eps' is -1e-05"),
    "an eps that is not a number": ("normal", {"attributes": {"eps": float("nan")}}, "'eps' is nan"),
    "an infinite eps": ("normal", {"attributes": {"eps": float("inf")}}, "'eps' is inf"),
    "an eps below float32": ("normal", {"attributes": {"eps": 1e-39}}, "'eps' is 1e-39"),
    "a boolean eps": ("normal", {"attributes": {"eps": True}}, "'eps' is True"),
    "an eps elsewhere": ("curve", {"attributes": {"eps": 1e-5}}, "unknown attribute 'eps'"),
    "two shortcuts": ("curve", {"inputs": ("s", "s", "s")}, "3 inputs; one, or one and a shortcut, are allowed"),
    "bits behind a mask": ("pool", {"tensors": {"and_mask": np.array([0, 2**6], np.uint64)}}, "behind the last of 70"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_broken_rule_is_refused_by_the_op_that_breaks_it(case: str) -> None:
    name, changes, message = BAD[case]
    with pytest.raises(BbgError, match=re.escape(message)) as caught:
        changed(name, **changes).check()
    assert f"op {changes.get('name', name)!r}" in str(caught.value)


def out(name: str) -> Output:
    return Output.of_flat(name, "y", 4)


OUTPUTS = {
    "none": ("tensor", (), "outputs are named []"),
    "two of one name": ("dict", (out("a"), out("a")), "outputs are named ['a', 'a']"),
    "a nameless one among others": ("dict", (out(""), out("a")), "outputs are named ['', 'a']"),
    "a dict without a name": ("dict", (out(""),), "outputs are named ['']"),
    "an empty list": ("list", (), "outputs are named []"),
    "a tuple out of order": ("tuple", (out("1"), out("0")), "are named '0', '1' and so on"),
    "one tensor of two": ("tensor", (out(""), out("a")), "has one output, named ''"),
    "one tensor with a name": ("tensor", (out("a"),), "has one output, named ''"),
    "an unknown structure": ("set", (out("a"),), "structure is 'set', allowed are tensor, dict, tuple, list"),
    "the graph's input": ("tensor", (Output.of_flat("", "x", 108),), "which no op writes"),
    "an unknown value": ("tensor", (Output.of_flat("", "v9", 1),), "which no op writes"),
    "no parts": ("tensor", (Output("", (), (4,)),), "has no parts"),
    "an axis twice": ("tensor", (Output("", (Part("y", "CHH"),), (4,)),), "'CHH', allowed are the orders of CHW"),
    "an axis left out": ("tensor", (Output("", (Part("y", "CH"),), (4,)),), "'CH', allowed are the orders of CHW"),
    "another number": (
        "tensor",
        (Output("", (Part("y"), Part("y")), (2, 5)),),
        "product is 8, the numbers of its parts",
    ),
    "a size of 0": ("tensor", (Output("", (Part("y"),), (4, 0)),), "the shape [4, 0]"),
    "no sizes": ("tensor", (Output("", (Part("y"),), ()),), "the shape []"),
    "seven sizes": ("tensor", (Output("", (Part("y"),), (4, 1, 1, 1, 1, 1, 1)),), "allowed are 1 to 6 sizes"),
}


@pytest.mark.parametrize("case", OUTPUTS)
def test_outputs_are_named_by_their_structure_and_made_of_values_that_ops_write(case: str) -> None:
    structure, outputs, message = OUTPUTS[case]
    with pytest.raises(BbgError, match=re.escape(message)):
        dataclasses.replace(small(), outputs=outputs, structure=structure).check()


@pytest.mark.parametrize("shape", [(0, 6, 6), (3, 2**16, 2**16)])
def test_an_impossible_input_is_refused(shape: tuple[int, int, int]) -> None:
    with pytest.raises(BbgError, match="input 'x'"):
        dataclasses.replace(small(), input_shape=shape).check()


def test_a_map_too_small_for_the_network_is_refused_by_name() -> None:
    with pytest.raises(BbgError, match=re.escape("op 'head' (binary_conv): on a map [70, 2, 3]")):
        small().shapes(4, 6)


def test_attributes_left_out_have_their_defaults() -> None:
    op = Op("c", "conv", ("x",), "y", attributes={"kernel": [3, 3], "channels": 4})
    assert op.attributes == {
        "kernel": (3, 3),
        "stride": (1, 1),
        "padding": (0, 0),
        "dilation": (1, 1),
        "groups": 1,
        "channels": 4,
    }


def test_costs_count_bytes_products_and_widths() -> None:
    stem, gated, *_, head = small().costs()
    assert (stem.bytes, stem.macs, stem.bits, stem.weights) == (4 * (135 + 10), 36 * 5 * 27, 32, 135)
    assert (gated.bytes, gated.macs, gated.bits, gated.weights) == (8 * 5 + 4 * 15, 36 * 5 * 45, 1, 225)
    assert (head.macs, head.shape) == (4 * 630, (4, 1, 1))
    assert [cost.bits for cost in small().costs()] == [32, 1, 1, None, 1]


@pytest.mark.parametrize("count", [1, 7, 8, 63, 64, 65, 128, 130])
def test_bits_are_dense_lowest_first_and_come_back(count: int) -> None:
    signs = np.random.default_rng(count).integers(0, 2, (3, count)).astype(np.int8) * 2 - 1
    packed = pack_bits(signs, 3)
    assert packed.shape == (3, words(count))
    assert packed.dtype == np.uint64
    for row, column in np.ndindex(3, count):
        assert bool(int(packed[row, column // 64]) >> column % 64 & 1) == (signs[row, column] == 1)
    assert np.array_equal(unpack_bits(packed, count), signs)


def test_pack_bits_takes_signs_only() -> None:
    with pytest.raises(BbgError, match="booleans or"):
        pack_bits(np.array([[1, 0, -1]]), 1)


def test_random_graphs_are_sound_and_hold_every_kind() -> None:
    kinds = {op.kind for seed in range(60) for op in random_graphs.random_graph(seed).ops}
    assert kinds == set(KINDS)
