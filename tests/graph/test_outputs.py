"""What an engine returns: maps in any order of their axes, parts joined into one array, tuples, lists and dicts."""

from __future__ import annotations

import dataclasses
from itertools import permutations
from typing import Any

import numpy as np
import pytest

from bbg.engine import Engine
from bbg.errors import BbgError
from bbg.graph import Graph, Op, Output, Part
from bbg.graph.file import PackedModel, decode, encode

ORDERS = ["".join(axes) for axes in permutations("CHW")]
ANCHORS, CLASSES, SIZES = 3, 7, (9, 5, 4, 3, 2, 1)
RNG = np.random.default_rng(0)


def maps() -> Graph:
    """Six maps of boxes and six of scores, smaller and smaller, as a detector's heads are; and bits, and bytes."""
    ops = []
    for i, size in enumerate(SIZES):
        ops.append(Op(f"f{i}", "adaptive_avg_pool", ("x",), f"f{i}", None, {"size": (size, size)}))
        for name, numbers in (("boxes", 4), ("scores", CLASSES)):
            channels = ANCHORS * numbers
            weight = RNG.normal(size=(channels, 1, 1, 3)).astype(np.float32)
            attributes = {"kernel": (1, 1), "channels": channels}
            ops.append(Op(f"{name}{i}", "conv", (f"f{i}",), f"{name}{i}", None, attributes, {"weight": weight}))
    ops.append(Op("other", "pointwise", ("f0",), None, "bits", bytes="bytes"))
    return Graph("x", (3, 10, 11), tuple(ops), ()).with_outputs(["f0"])


GRAPH = maps()
X = RNG.normal(size=(4, 3, 10, 11)).astype(np.float32) * 3
VALUES = Engine(PackedModel(GRAPH.with_outputs(GRAPH.values.keys() - {"x"})), threads=1).run(X)


def engine(outputs: list[Output], structure: Any, threads: int = 2) -> Engine:
    """By way of the packed file."""
    model = PackedModel(dataclasses.replace(GRAPH, outputs=tuple(outputs), structure=structure))
    return Engine(decode(encode(model)), threads)


def detector() -> list[Output]:
    """`[N, P, 4]` and `[N, P, classes]` as torch makes them: permute, reshape and cat of six maps."""
    return [
        Output(
            name,
            tuple(Part(f"{name}{i}", "HWC") for i in range(len(SIZES))),
            (ANCHORS * sum(size * size for size in SIZES), numbers),
        )
        for name, numbers in (("boxes", 4), ("scores", CLASSES))
    ]


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_six_maps_are_joined_into_boxes_and_scores(threads: int) -> None:
    got = engine(detector(), "dict", threads)(X)
    assert isinstance(got, dict)
    for name, numbers in (("boxes", 4), ("scores", CLASSES)):
        parts = [VALUES[f"{name}{i}"].transpose(0, 2, 3, 1).reshape(len(X), -1, numbers) for i in range(len(SIZES))]
        np.testing.assert_array_equal(got[name], np.concatenate(parts, axis=1))


@pytest.mark.parametrize("value", ["boxes1", "bits", "bytes"])
@pytest.mark.parametrize("order", ORDERS)
def test_axes_in_any_order(order: str, value: str) -> None:
    want = VALUES[value].transpose(0, *(1 + "CHW".index(axis) for axis in order))
    got = engine([Output("", (Part(value, order),), want.shape[1:])], "tensor")(X)
    assert isinstance(got, np.ndarray)
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, want)
    flat = engine([Output("", (Part(value, order),), (want[0].size,))], "tensor")(X)
    assert isinstance(flat, np.ndarray)
    np.testing.assert_array_equal(flat, want.reshape(len(X), -1))


def test_parts_may_differ_in_order_and_type_and_come_twice() -> None:
    parts = (Part("bits", "WHC"), Part("f1"), Part("bits"), Part("bytes", "HWC"))
    numbers = sum(GRAPH.values[part.value].numbers for part in parts)
    got = engine([Output("", parts, (numbers,))], "tensor")(X)
    orders = {"WHC": (0, 3, 2, 1), "CHW": (0, 1, 2, 3), "HWC": (0, 2, 3, 1)}
    want = [VALUES[part.value].transpose(orders[part.order]).reshape(len(X), -1) for part in parts]
    assert isinstance(got, np.ndarray)
    np.testing.assert_array_equal(got, np.concatenate(want, axis=1))


@pytest.mark.parametrize("structure", ["tuple", "list"])
def test_tuples_and_lists_are_returned_as_such(structure: str) -> None:
    outputs = [Output.of_map(str(i), f"f{i}", (3, size, size)) for i, size in enumerate(SIZES)]
    got = engine(outputs, structure)(X)
    assert isinstance(got, {"tuple": tuple, "list": list}[structure])
    for i, array in enumerate(got):
        np.testing.assert_array_equal(array, VALUES[f"f{i}"])
    assert len(got) == len(SIZES)
    (alone,) = engine(outputs[:1], structure)(X)
    np.testing.assert_array_equal(alone, VALUES["f0"])


def test_a_shape_of_six_axes() -> None:
    got = engine([Output("", (Part("boxes1", "HWC"),), (1, 5, 5, 3, 2, 2))], "tensor")(X)
    assert isinstance(got, np.ndarray)
    assert got.shape == (4, 1, 5, 5, 3, 2, 2)
    np.testing.assert_array_equal(got.ravel(), VALUES["boxes1"].transpose(0, 2, 3, 1).ravel())


def test_an_image_returns_the_same_in_any_batch() -> None:
    run = engine(detector(), "dict").run
    for name, array in run(X).items():
        np.testing.assert_array_equal(np.concatenate([run(X[i : i + 1])[name] for i in range(len(X))]), array)


def test_a_head_needs_what_it_reads() -> None:
    from bbg.heads import Classification

    model = PackedModel(dataclasses.replace(GRAPH, outputs=tuple(detector()), structure="dict"), head=Classification())
    with pytest.raises(BbgError, match="needs one output of class scores, not a dict"):
        encode(model)
