"""What guards a packed file as a whole: its checksum, and its version."""

from __future__ import annotations

import re

import numpy as np
import pytest
from support.files import entry, join, model, parts, same, top

from bbg.errors import BbgError
from bbg.graph import Graph, Op, Output
from bbg.graph.file import PackedModel, decode, encode, version_name
from bbg.graph.kinds import VERSION

ATTRIBUTES = {"kernel": [3, 3], "padding": [1, 1], "channels": 5}


def test_every_flipped_bit_is_refused() -> None:
    """Of the length, the header with its white space, the checksum itself, and the tensors."""
    op = Op("p", "pointwise", ("x",), "y", None, {}, {"epilogue": np.ones((1, 3), np.float32)}, ("scale",))
    data = bytearray(encode(PackedModel(Graph("x", (3, 1, 1), (op,), (Output.of_flat("", "y", 3),)))))
    decode(bytes(data))
    for bit in range(8 * len(data)):
        data[bit // 8] ^= 1 << bit % 8
        with pytest.raises(BbgError):
            decode(bytes(data))
        data[bit // 8] ^= 1 << bit % 8


def test_a_damaged_tensor_is_said_to_be_damaged() -> None:
    data = encode(model())
    with pytest.raises(BbgError, match="do not have the checksum that it states; get the file anew"):
        decode(data[:-1] + bytes([data[-1] ^ 1]))


NEWER = {
    "a kind": (entry(0, kind="gather"), "op 'stem' has the kind 'gather'"),
    "an attribute": (entry(0, attributes={**ATTRIBUTES, "axis": 1}), "op 'stem' has the attribute 'axis'"),
    "a word": (entry(0, kind="unary", attributes={"function": "erf"}), "op 'stem' has the function 'erf'"),
    "an epilogue parameter": (entry(0, epilogue=["scale", "tint"]), "op 'stem' has the epilogue parameter 'tint'"),
    "a key of an op": (entry(1, fused=True), "op 'gated' has the key 'fused'"),
    "a key of an output": (lambda d: d["outputs"][0].update(scale=2), "output '' has the key 'scale'"),
    "a key of the file": (top(tokens=[]), "the description has the key 'tokens'"),
    "a head": (top(head={"kind": "keypoints"}), "the head has the kind 'keypoints'"),
    "a key of the head": (
        top(head={"kind": "detection", "levels": [], "anchors": 3}),
        "the head has the key 'anchors'",
    ),
    "a key of the preprocess": (lambda d: d["preprocess"].update(gamma=1), "the preprocess has the key 'gamma'"),
    "a decode": (lambda d: d["preprocess"].update(decode="raw"), "the preprocess has the decode 'raw'"),
    "a structure": (top(structure="namedtuple"), "the outputs have the structure 'namedtuple'"),
}


@pytest.mark.parametrize("case", NEWER)
def test_a_later_minor_version_is_refused_by_the_name_of_what_is_unknown(case: str) -> None:
    change, message = NEWER[case]
    header, description, payload = parts(encode(model()))
    change(description)
    later = version_name((VERSION[0], VERSION[1] + 2))
    description["version"] = later
    sentence = f"{message}, which format {later} has and this bbg ({version_name(VERSION)}) does not know: update bbg"
    with pytest.raises(BbgError, match=re.escape(sentence)):
        decode(join(header, description, payload))


def test_a_later_minor_version_without_news_is_read() -> None:
    header, description, payload = parts(encode(model()))
    assert same(decode(join(header, {**description, "version": "1.17"}, payload)), model())


def test_an_earlier_minor_version_is_read() -> None:
    """A file of 1.0 says nothing of how images are decoded: whole."""
    header, description, payload = parts(encode(model()))
    assert "decode" not in description["preprocess"]
    read = decode(join(header, {**description, "version": "1.0"}, payload))
    assert same(read, model())
    assert read.preprocess is not None
    assert read.preprocess.decode == "whole"
