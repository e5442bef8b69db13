"""The packed file: golden bytes pin the writer, a round trip the pair; each damage is refused with one sentence."""

from __future__ import annotations

import hashlib
import json
import os
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.files import entry, join, model, parts, same, top
from support.fuzz_file import fuzz, judge, originals
from support.graphs import several, small

from bbg.errors import BbgError
from bbg.graph import Graph, Op, Output
from bbg.graph.breakdown import byte_breakdown
from bbg.graph.file import (
    FILE_LIMIT,
    PackedModel,
    decode,
    encode,
    read,
    version_name,
    write,
)
from bbg.graph.kinds import VERSION
from bbg.graph.signature import HEADER_LIMIT
from cases.random_graphs import packed, random_graph


def test_golden_bytes_pin_the_writer() -> None:
    tensors = {"weight": np.array([[5]], np.uint64), "epilogue": np.array([[0.5]], np.float32)}
    attributes = {"kernel": (1, 1), "channels": 1}
    op = Op("c", "binary_conv", ("b",), "y", None, attributes, tensors, ("scale",), (None, 1.0))
    graph = Graph("x", (3, 1, 1), (Op("s", "pointwise", ("x",), None, "b"), op), (Output.of_flat("", "y", 1),))
    header = (
        r'{"__metadata__":{"bbg":"{\"version\":\"VERSION\",\"checksum\":\"CHECKSUM\",'
        r"\"input\":{\"name\":\"x\",\"shape\":[3,1,1]},"
        r"\"structure\":\"tensor\","
        r"\"outputs\":[{\"name\":\"\",\"parts\":[{\"value\":\"y\",\"order\":\"CHW\"}],\"shape\":[1]}],"
        r"\"ops\":[{\"name\":\"s\",\"kind\":\"pointwise\",\"inputs\":[\"x\"],\"bits\":\"b\"},"
        r"{\"name\":\"c\",\"kind\":\"binary_conv\",\"inputs\":[\"b\"],\"real\":\"y\","
        r"\"attributes\":{\"kernel\":[1,1],\"channels\":1},\"epilogue\":[\"scale\"],\"clip\":[null,1.0]}],"
        r'\"preprocess\":null,\"labels\":[\"ü\"],\"head\":null,\"provenance\":{}}"},'
        r'"c.weight":{"dtype":"U64","shape":[1,1],"data_offsets":[0,8]},'
        r'"c.epilogue":{"dtype":"F32","shape":[1,1],"data_offsets":[8,12]}}'
    ).encode()
    header = header.replace(b"CHECKSUM", b"0" * 64).replace(b"VERSION", version_name(VERSION).encode())
    header += b" " * (-len(header) % 8)
    blank = struct.pack("<Q", len(header)) + header + struct.pack("<Qf", 5, 0.5)
    golden = blank.replace(b"0" * 64, hashlib.sha256(blank).hexdigest().encode())
    assert encode(PackedModel(graph, labels=("ü",))) == golden


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "net.bbg"
    assert write(path, model()) == path.stat().st_size
    assert same(read(path), model())
    assert os.listdir(tmp_path) == ["net.bbg"]


def test_round_trip_of_ops_of_several_operands() -> None:
    given = PackedModel(several())
    data = encode(given)
    assert same(decode(data), given)
    assert b'\\"inputs\\":[\\"p\\",\\"x\\",\\"p\\"]' in data
    header, description, payload = parts(data)
    assert header["chosen.index"]["dtype"] == "I32"
    description["ops"][6]["attributes"] = {"eps": 1}  # JSON may drop the point
    assert decode(join(header, description, payload)).graph.ops[6].attributes["eps"] == 1


@pytest.mark.parametrize("seed", range(20))
def test_round_trip_of_random_graphs(seed: int) -> None:
    given = packed(random_graph(seed))
    assert same(decode(encode(given)), given)


@pytest.mark.parametrize("given", [model(), *(packed(random_graph(seed)) for seed in range(5))])
def test_the_items_sum_to_the_file(given: PackedModel, tmp_path: Path) -> None:
    size = write(tmp_path / "net.bbg", given)
    assert sum(item.bytes for item in byte_breakdown(given)) == size
    assert sum(item.bytes for item in byte_breakdown(read(tmp_path / "net.bbg"))) == size


def test_items_tell_bits_from_floats() -> None:
    sizes = dict(byte_breakdown(model()))
    assert sizes["1-bit weights"] == 8 * (5 + 70 + 40)
    assert sizes["32-bit weights"] == 4 * 135
    assert sizes["epilogue"] == 4 * (10 + 15 + 4)
    assert sizes["acc_threshold"] == 4 * 70


def test_arrays_read_are_read_only() -> None:
    with pytest.raises(ValueError, match="read-only"):
        decode(encode(model())).graph.ops[0].tensors["weight"][:] = 0


def outputs(**changes: Any) -> Callable[[dict[str, Any]], None]:
    """Change the one output, or its one part."""

    def change(description: dict[str, Any]) -> None:
        (output,) = description["outputs"]
        output["parts"][0].update({k: v for k, v in changes.items() if k != "shape"})
        output["shape"] = changes.get("shape", output["shape"])

    return change


def preprocess(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda description: description["preprocess"].update(changes)


def several_outputs(description: dict[str, Any]) -> None:
    description["outputs"][0]["name"] = "0"
    description["structure"] = "list"


SIZED = {"kernel": [3, 3], "channels": 5, "size": [1, 1]}
WIDE = {"kernel": [3, 3], "padding": [30000, 30000], "channels": 5}
READS = f"this bbg reads format {version_name(VERSION)}"
DESCRIPTION = {
    "a later version": (top(version="2.0"), f"is of format 2.0; {READS}: update bbg"),
    "version zero": (top(version="0.9"), f"is of format 0.9; {READS}"),
    "the older form": (top(version=1), f"is of an older form (version 1); {READS}: convert"),
    "a version without its minor": (top(version="1"), "version is '1', it must be a string such as '1.0'"),
    "a version with a sign": (top(version="1.-1"), "version is '1.-1'"),
    "a version of other digits": (top(version="1.٣"), "version is '1.٣'"),
    "a boolean version": (top(version=True), "version is True"),
    "no version": (top(version=...), "version is None"),
    "no checksum": (top(checksum=...), "checksum is None, it must be 64 hexadecimal digits"),
    "a head that is a string": (top(head="classification"), "head is 'classification', it must be null or an object"),
    "a head without a kind": (top(head={}), "head is {}"),
    "an unknown head": (top(head={"kind": "oracle"}), "head is {'kind': 'oracle'}"),
    "a head with another key": (top(head={"kind": "classification", "top": 5}), "allowed is 'kind'"),
    "a head that does not fit": (several_outputs, "the head is a classification, which needs one output"),
    "an unknown key": (top(script="os.system"), "unknown key 'script' in the description"),
    "a missing key": (top(labels=...), "key 'labels' is missing in the description"),
    "ops that are no list": (top(ops={}), "ops is {}, it must be a list"),
    "an op that is no object": (top(ops=[1]), "op 0 is 1, it must be a JSON object"),
    "an unknown op key": (entry(0, code="x"), "unknown key 'code' in op 0"),
    "an op without a name": (entry(0, name=...), "key 'name' is missing in op 0"),
    "an op with an empty name": (entry(0, name=""), "is empty"),
    "an op name with an escape code": (entry(0, name="\x1b[2J"), "without control characters"),
    "an op name with half a surrogate": (entry(0, name="\ud800"), "without control characters"),
    "an unknown kind": (entry(0, kind="exec"), "op 'stem' (exec): unknown kind; allowed are conv, byte_conv"),
    "a kind that is a list": (entry(0, kind=["conv"]), "the kind of op 'stem' is ['conv']"),
    "an unknown attribute": (entry(0, attributes=SIZED), "op 'stem' (conv): unknown attribute 'size'"),
    "attributes that are a list": (entry(0, attributes=[]), "attributes of op 'stem' is []"),
    "a float in a pair": (entry(0, attributes={"kernel": [3.0, 3], "channels": 5}), "'kernel' is (3.0, 3)"),
    "a nested pair": (entry(0, attributes={"kernel": [[3], 3], "channels": 5}), "'kernel' is ([3], 3)"),
    "a graph cycle": (entry(1, inputs=["b0", "v1"]), "the graph has a cycle"),
    "an eps of a string": (entry(0, kind="layer_norm", attributes={"eps": "1"}), "attribute 'eps' is '1'"),
    "an eps of a thousand digits": (entry(0, kind="layer_norm", attributes={"eps": 10**1000}), "'eps' is 1000"),
    "a concatenation with itself alone": (entry(0, kind="concat", attributes={}), "1 inputs; two or more"),
    "a dangling input": (entry(1, inputs=["b0", "nowhere"]), "reads 'nowhere', which no op writes"),
    "an input that is a number": (entry(1, inputs=["b0", 7]), "an input of op 'gated' is 7"),
    "inputs that are a string": (entry(1, inputs="b0"), "it must be a list"),
    "a shape whose product overflows": (entry(0, attributes=WIDE), "product below 2^31"),
    "an input whose product overflows": (top(input={"name": "x", "shape": [2**62, 2**62, 2**62]}), "product below"),
    "an input of rank 2": (top(input={"name": "x", "shape": [3, 6]}), "the input's shape is [3, 6]"),
    "a fractional input": (top(input={"name": "x", "shape": [3, 6, 6.5]}), "6.5, it must be an integer"),
    "a number of a thousand digits": (top(input={"name": "x", "shape": [3, 6, 10**1000]}), "below 2^63"),
    "a clip of one": (entry(1, clip=[1]), "clip of op 'gated' has 1 numbers"),
    "a clip of strings": (entry(1, clip=["-1", "1"]), "clip of op 'gated' is '-1'"),
    "a clip of NaN": (entry(1, clip=[float("nan"), 1]), "clip of op 'gated' is nan"),
    "an infinite clip": (entry(1, clip=[None, float("inf")]), "clip of op 'gated' is inf"),
    "a parameter that is a number": (entry(1, epilogue=[0, 1, 2]), "an epilogue parameter of op 'gated' is 0"),
    "an output that is unknown": (outputs(value="v9"), "which no op writes"),
    "an output in a strange order": (outputs(order="HWCN"), "'HWCN', allowed are the orders of CHW"),
    "an output whose size is a fraction": (outputs(shape=[4.0]), "a size of output '' is 4.0"),
    "an output of another size": (outputs(shape=[5]), "product is 4"),
    "an output whose part has another key": (outputs(flat=True), "unknown key 'flat'"),
    "an unknown structure": (top(structure="set"), "structure is 'set', allowed are tensor, dict, tuple, list"),
    "no output": (top(outputs=[]), "outputs are named []"),
    "labels that are numbers": (top(labels=[1, 2, 3, 4]), "a label is 1"),
    "too few labels": (top(labels=["a"]), "1 labels for 4 classes"),
    "provenance with a list": (top(provenance={"a": []}), "provenance is []"),
    "provenance that is a list": (top(provenance=[]), "provenance is []"),
    "preprocess that is a name": (top(preprocess="imagenet"), "preprocess is 'imagenet'"),
    "preprocess of another size": (preprocess(size=[8, 8]), "preprocess yields an image [3, 8, 8]"),
    "preprocess of another mode": (preprocess(mode="L"), "must hold 1 finite numbers"),
    "preprocess of an unknown mode": (preprocess(mode="CMYK"), "allowed are 'RGB' and 'L'"),
    "preprocess with a mode list": (preprocess(mode=["RGB"]), "mode ['RGB']"),
    "preprocess with a scalar size": (preprocess(size=6), "size 6"),
    "preprocess with std zero": (preprocess(std=[1, 0, 1]), "std is (1, 0, 1)"),
    "preprocess with NaN": (preprocess(mean=[float("nan"), 0, 0]), "mean is (nan, 0, 0)"),
    "preprocess with strings": (preprocess(mean=["0", "0", "0"]), "must hold 3 finite numbers"),
    "preprocess with a small resize": (preprocess(resize=5), "resize is 5"),
    "preprocess with an unknown key": (preprocess(crop=1), "must be an object of size, resize"),
    "preprocess of an unknown decode": (preprocess(decode="half"), "decode is 'half', allowed are"),
    "preprocess with a decode list": (preprocess(decode=["whole"]), "decode ['whole']"),
}


@pytest.mark.parametrize("case", DESCRIPTION)
def test_a_bad_description_is_refused(case: str) -> None:
    change, message = DESCRIPTION[case]
    header, description, payload = parts(encode(model()))
    change(description)
    with pytest.raises(BbgError, match=re.escape(message)):
        decode(join(header, description, payload))


Header = dict[str, Any]


def tensor(name: str, **changes: Any) -> Callable[[Header], None]:
    return lambda header: header[name].update(changes)


def hole(header: Header) -> None:
    del header["head.weight"]


def overlap(header: Header) -> None:
    header["head.epilogue"]["data_offsets"] = header["stem.epilogue"]["data_offsets"][:]


def rename(header: Header) -> None:
    header["tail.weight"] = header.pop("head.weight")


def extra(header: Header) -> None:
    end = max(t["data_offsets"][1] for name, t in header.items() if name != "__metadata__")
    header["spare.weight"] = {"dtype": "F32", "shape": [0], "data_offsets": [end, end]}


HEADER = {
    "a hole": (hole, "tensors are damaged"),
    "overlapping tensors": (overlap, "tensors are damaged"),
    "a shape that does not fit its bytes": (tensor("stem.weight", shape=[5, 3, 3, 4]), "tensors are damaged"),
    "a shape that overflows": (tensor("stem.weight", shape=[2**62, 2**62]), "tensors are damaged"),
    "a negative shape": (tensor("stem.weight", shape=[-5, -3, 3, 3]), "tensors are damaged"),
    "an unknown dtype": (tensor("stem.weight", dtype="F31"), "tensors are damaged"),
    "offsets behind the end": (tensor("stem.weight", data_offsets=[0, 10**9]), "tensors are damaged"),
    "another shape of the same size": (tensor("stem.weight", shape=[5, 3, 9, 1]), "'weight' is float32 [5, 3, 9, 1]"),
    "a scalar": (tensor("stem.weight", shape=[135]), "'weight' is float32 [135], it must be float32 [5, 3, 3, 3]"),
    "another dtype of the same size": (tensor("stem.weight", dtype="I32"), "'weight' is int32"),
    "a dtype the format has not": (tensor("stem.weight", dtype="U32"), "has dtype U32; allowed are F32, U64, I32"),
    "a tensor of another name": (rename, "tensor 'tail.weight' belongs to no op"),
    "a tensor of no op": (extra, "tensor 'spare.weight' belongs to no op"),
}


@pytest.mark.parametrize("case", HEADER)
def test_bad_tensors_are_refused(case: str) -> None:
    change, message = HEADER[case]
    header, description, payload = parts(encode(model()))
    change(header)
    with pytest.raises(BbgError, match=re.escape(message)):
        decode(join(header, description, payload))


def test_a_missing_tensor_is_refused() -> None:
    """Its bytes are gone too, so that the container itself is sound."""
    header, description, payload = parts(encode(model()))
    first, last = header.pop("head.epilogue")["data_offsets"]
    for name, place in header.items():
        if name != "__metadata__" and place["data_offsets"][0] >= last:
            place["data_offsets"] = [offset - (last - first) for offset in place["data_offsets"]]
    with pytest.raises(BbgError, match=r"op 'head' .*: tensor 'epilogue' is missing"):
        decode(join(header, description, payload[:first] + payload[last:]))


def with_length(data: bytes, length: int) -> bytes:
    return struct.pack("<Q", length) + data[8:]


RAW = {
    "nothing": lambda data: b"",
    "a few bytes": lambda data: data[:5],
    "half the header": lambda data: data[:200],
    "half the tensors": lambda data: data[:-1000],
    "all but the last byte": lambda data: data[:-1],
    "a byte too many": lambda data: data + b"\0",
    "a header length of 2^64 - 1": lambda data: with_length(data, 2**64 - 1),
    "a header length behind the end": lambda data: with_length(data, len(data)),
    "a header above its limit": lambda data: with_length(data + b" " * HEADER_LIMIT, HEADER_LIMIT + 1),
    "a JPEG": lambda data: b"\xff\xd8\xff\xe0\0\x10JFIF\0\x01" * 50,
    "a header of invalid UTF-8": lambda data: data.replace(b"ant", b"\xff\xfe\xfd"),
    "a pickle": lambda data: b"\x80\x04\x95\x0c\0\0\0\0\0\0\0\x8c\x02os\x94." * 20,
}


@pytest.mark.parametrize("case", RAW)
def test_bad_bytes_are_refused(case: str) -> None:
    with pytest.raises(BbgError):
        decode(RAW[case](encode(model())))


TEXTS = {
    "no JSON": ("{", "graph is no JSON"),
    "a list": ("[]", "graph is [], it must be a JSON object"),
    "a key given twice": ('{"version":1,"version":1}', "a key is given twice"),
    "deep nesting": ('{"version":' + "[" * 100_000, "graph is no JSON"),
    "a number of ten thousand digits": ('{"version":' + "9" * 10_000 + "}", "graph is no JSON"),
}


@pytest.mark.parametrize("case", TEXTS)
def test_bad_json_is_refused(case: str) -> None:
    text, message = TEXTS[case]
    header, _, payload = parts(encode(model()))
    with pytest.raises(BbgError, match=re.escape(message)):
        decode(join(header, text, payload))


def test_a_safetensors_file_without_a_description_is_refused() -> None:
    header, _, payload = parts(encode(model()))
    for metadata in ({}, {"bbg": "{}", "format": "pt"}, {"format": "pt"}):
        raw = json.dumps({**header, "__metadata__": metadata}).encode()
        with pytest.raises(BbgError, match="the metadata"):
            decode(struct.pack("<Q", len(raw)) + raw + payload)


@pytest.mark.parametrize("kind", ["missing", "a folder", "a null byte", "too large"])
def test_a_path_that_cannot_be_read_is_refused(kind: str, tmp_path: Path) -> None:
    path = {"missing": tmp_path / "no.bbg", "a folder": tmp_path, "a null byte": Path("a\0b")}.get(kind)
    if path is None:
        path = tmp_path / "large.bbg"
        with open(path, "wb") as file:
            file.truncate(FILE_LIMIT)
    with pytest.raises(BbgError, match=r"cannot be read|below 2 GiB"):
        read(path)


@pytest.mark.parametrize("kind", ["a missing folder", "a folder", "a file as folder", "a null byte", "nothing"])
def test_a_path_that_cannot_be_written_is_refused_and_leaves_no_trace(kind: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    path = {
        "a missing folder": str(tmp_path / "no" / "net.bbg"),
        "a folder": str(tmp_path / "folder"),
        "a file as folder": str(tmp_path / "file" / "net.bbg"),
        "a null byte": "a\0b",
        "nothing": "",
    }[kind]
    with pytest.raises(BbgError, match="cannot be written"):
        write(path, model())
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]


def test_an_existing_file_survives_a_failing_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "net.bbg"
    write(path, model())
    before = path.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(BbgError, match="No space left"):
        write(path, PackedModel(small()))
    with pytest.raises(BbgError, match="labels"):
        write(path, PackedModel(small(), labels=("a",)))
    with pytest.raises(BbgError, match="provenance"):
        write(path, PackedModel(small(), provenance={"a": [1]}))
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["net.bbg"]


def test_every_truncation_is_refused() -> None:
    data = encode(PackedModel(small()))
    for length in range(len(data)):
        with pytest.raises(BbgError):
            decode(data[:length])


def test_damaged_files_give_an_error_or_a_right_answer() -> None:
    tally = fuzz(600)
    assert tally["right"] >= 100
    assert tally["refused"] >= 100


@pytest.mark.slow
def test_many_damaged_files_give_an_error_or_a_right_answer() -> None:
    tally = fuzz(10_000)
    assert tally["right"] >= 1_600
    assert tally["refused"] >= 1_600


def test_sound_files_give_a_right_answer() -> None:
    results = [judge(data, np.random.default_rng(i)) for i, data in enumerate(originals())]
    assert set(results) <= {"right", "near tie"}
    assert results.count("right") >= 20
