"""The packed file: one safetensors file that holds a network's meaning and nothing executable (docs/format.md).

    write(path, PackedModel(graph, preprocess, labels, provenance))    ->    read(path) == the same model

Files come from strangers: `read` believes nothing, and any damage is a BbgError. A checksum over the whole file finds
accidents; everything is checked behind it all the same, since whoever edits a file can compute its checksum too.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from shlex import quote
from typing import Any, cast

import numpy as np
import safetensors
from safetensors.numpy import save

from bbg.errors import BbgError
from bbg.files import write_bytes
from bbg.graph import checked_json as checked
from bbg.graph.graph import STRUCTURES, Graph, Op, Output, Part, Structure
from bbg.graph.kinds import ATTRIBUTES, EPILOGUE, KINDS, TENSORS, VERSION
from bbg.graph.signature import HEADER_LIMIT, looks_like_checkpoint, looks_packed
from bbg.heads import HEADS, KEYS, Head, Segmentation, head_from_json
from bbg.image import DECODE, Preprocess
from bbg.reading import regular_file

FILE_LIMIT = 2 << 30

# The keys of each object of the description: those that must be there, and those that may.
_DESCRIPTION = (
    *("version", "checksum", "input", "structure", "outputs", "ops"),
    *("preprocess", "labels", "head", "provenance"),
)
_PREPROCESS = tuple(field.name for field in fields(Preprocess))
_INPUT, _INPUT_OPTIONAL = ("name", "shape"), ("type",)
_OUTPUT, _PART = ("name", "parts", "shape"), ("value", "order")
_OP, _OP_OPTIONAL = ("name", "kind", "inputs"), ("real", "bits", "bytes", "attributes", "epilogue", "clip")

_DTYPES: dict[str, np.dtype[Any]] = {
    "F32": np.dtype("<f4"),
    "U64": np.dtype("<u8"),
    "I32": np.dtype("<i4"),
    "I8": np.dtype("i1"),
}
_BLANK = "0" * 64  # what stands for the checksum while it is computed


@dataclass(frozen=True, eq=False)
class PackedModel:
    """A network with what is needed to use it.

    `preprocess`: how images become inputs. `labels`: names of the classes. `provenance`: notes on where it came from.
    `head`: what the outputs mean, which `Engine.predict` applies.
    """

    graph: Graph
    preprocess: Preprocess | None = None
    labels: tuple[str, ...] | None = None
    provenance: dict[str, str | int | float] = field(default_factory=dict)
    head: Head | None = None

    def check(self) -> None:
        """Raise BbgError unless the graph obeys the format, and preprocessing, labels and head fit it."""
        self.graph.check()
        channels, *size = self.graph.input_shape
        if self.preprocess is not None:
            have = [len(self.preprocess.mean), *self.preprocess.size]
            if have != [channels, *size]:
                raise BbgError(f"preprocess yields an image {have}, the graph's input is {[channels, *size]}")
        elif self.graph.input_type == "bytes":
            raise BbgError("the graph's input is bytes, whose numbers only a preprocess tells; give one")
        shapes = {output.name: output.shape for output in self.graph.outputs}
        if self.head is not None:
            self.head.check(self.graph.structure, shapes)
        classes = math.prod(self.graph.outputs[0].shape) if self.head is None else self.head.classes(shapes)
        if isinstance(self.head, Segmentation) and classes * math.prod(size) >= 2**31:
            raise BbgError(f"{classes} classes at each of {size} pixels are 2^31 numbers or more; give smaller images")
        named = self.graph.structure == "tensor" or self.head is not None
        if self.labels is not None and named and len(self.labels) != classes:
            raise BbgError(f"{len(self.labels)} labels for {classes} classes; give one per class, or none")


def write(path: str | os.PathLike[str], model: PackedModel) -> int:
    """Write `model` to `path` and return the file's size in bytes.

    The file appears whole or not at all, and an older one stays until then. Raises BbgError for a model that breaks the
    format and for a path that cannot be written.
    """
    data = encode(model)
    decode(data)  # what cannot be read is not written
    write_bytes(path, data)
    return len(data)


def read(path: str | os.PathLike[str]) -> PackedModel:
    """The model in the packed file `path`; its arrays are read-only. BbgError for anything but a sound packed file."""
    data = read_bytes(path)
    try:
        return decode(data)
    except BbgError as error:
        raise BbgError(f"{path}: {error}") from error


def read_bytes(path: str | os.PathLike[str]) -> bytes:
    """What stands in the file `path`; BbgError where it cannot be read or is, at a look, no packed file."""
    try:
        with regular_file(path, FILE_LIMIT - 1) as file:
            data = file.read(9)
            if looks_packed(data):
                length = int.from_bytes(data[:8], "little")
                header = data[8:] + file.read(length - 1)
                file.seek(0)
                wanted = 8 + length + _tensor_bytes(header) + 1  # one more: what follows is told by `decode`
                data = file.read(min(wanted, os.fstat(file.fileno()).st_size))
    except (OSError, ValueError) as error:
        raise BbgError(f"{path}: cannot be read ({error}); give the path of a packed file") from error
    if looks_like_checkpoint(data):
        raise BbgError(
            f"{path}: is a checkpoint of bbg, a packed file is wanted; convert it first with: bbg convert "
            f"{quote(str(path))} -o {quote(Path(path).with_suffix('.bbg').name)}"
        )
    return data


def _tensor_bytes(header: bytes) -> int:
    """How many bytes stand behind a header, as it says itself; 0 where it says nothing that can be read."""
    try:
        return max(
            max(0, int(entry["data_offsets"][1])) for entry in json.loads(header).values() if "data_offsets" in entry
        )
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError):
        return 0


# ---- writing --------------------------------------------------------------------------------------------------------


def encode(model: PackedModel) -> bytes:
    """The bytes of the packed file; BbgError where the model breaks the format."""
    model.check()
    tensors = {f"{op.name}.{name}": array for op in model.graph.ops for name, array in op.tensors.items()}
    return with_checksum(save(tensors, {"bbg": _describe(model)}))


def with_checksum(data: bytes) -> bytes:
    """A packed file whose checksum is 64 zeros, with the right one. Its place is the first 64 zeros in the file."""
    at = data.index(_BLANK.encode())
    return data[:at] + _checksum(data, at).encode() + data[at + len(_BLANK) :]


def _checksum(data: bytes, at: int) -> str:
    """SHA-256 of the file with 64 zeros at `at`, where its checksum stands."""
    view, digest = memoryview(data), hashlib.sha256()
    for part in (view[:at], _BLANK.encode(), view[at + len(_BLANK) :]):
        digest.update(part)
    return digest.hexdigest()


def _describe(model: PackedModel) -> str:
    """The JSON string of the metadata, with zeros for the checksum; what equals its default is left out."""
    graph = model.graph
    description = {
        "version": version_name(VERSION),
        "checksum": _BLANK,
        "input": {"name": graph.input_name, "shape": list(graph.input_shape), **_input_type(graph)},
        "structure": graph.structure,
        "outputs": [_output_entry(output) for output in graph.outputs],
        "ops": [_op_entry(op) for op in graph.ops],
        "preprocess": None if model.preprocess is None else model.preprocess.to_json(),
        "labels": None if model.labels is None else list(model.labels),
        "head": None if model.head is None else model.head.to_json(),
        "provenance": model.provenance,
    }
    try:
        text = json.dumps(description, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        text.encode()
        return text
    except UnicodeEncodeError as error:
        raise BbgError(
            f"a name or a note holds {error.object[error.start : error.end]!r}, which is no character; give it as text "
            "that UTF-8 can hold"
        ) from error
    except (TypeError, ValueError) as error:
        raise BbgError(
            f"a name or a note cannot be written ({error}); names are texts, notes texts or numbers"
        ) from error


def _input_type(graph: Graph) -> dict[str, str]:
    return {} if graph.input_type == "real" else {"type": graph.input_type}


def _output_entry(output: Output) -> dict[str, Any]:
    parts = [{"value": part.value, "order": part.order} for part in output.parts]
    return {"name": output.name, "parts": parts, "shape": list(output.shape)}


def _op_entry(op: Op) -> dict[str, Any]:
    given = {name: v for name, v in op.attributes.items() if v != ATTRIBUTES[name].default}
    optional = {
        "real": op.real,
        "bits": op.bits,
        "bytes": op.bytes,
        "attributes": given or None,
        "epilogue": list(op.epilogue) or None,
        "clip": None if op.clip == (None, None) else list(op.clip),
    }
    entry = {"name": op.name, "kind": op.kind, "inputs": list(op.inputs)}
    return entry | {key: value for key, value in optional.items() if value is not None}


# ---- reading --------------------------------------------------------------------------------------------------------


def decode(data: bytes) -> PackedModel:
    """The model in the bytes of a packed file; BbgError for any damage."""
    description = _description(data)
    version = _version(description.get("version"))
    _verify(data, description.get("checksum"))
    if version > VERSION:
        _refuse_unknown(description, version)
    tensors = _tensors(data)
    checked.mapping(description, "the description", _DESCRIPTION)
    ops = tuple(_op(entry, f"op {i}", tensors) for i, entry in enumerate(checked.sequence(description["ops"], "ops")))
    labels, preprocess, head = (description[key] for key in ("labels", "preprocess", "head"))
    model = PackedModel(
        _graph(description, ops),
        None if preprocess is None else Preprocess.from_json(preprocess),
        None if labels is None else tuple(checked.name(v, "a label") for v in checked.sequence(labels, "labels")),
        _provenance(description["provenance"]),
        None if head is None else head_from_json(head),
    )
    if tensors:
        raise BbgError(f"tensor {min(tensors)!r} belongs to no op; remove it")
    model.check()
    return model


def version_name(version: tuple[int, int]) -> str:
    """As the file spells it: "1.0"."""
    return f"{version[0]}.{version[1]}"


def _description(data: bytes) -> dict[str, Any]:
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or length > min(len(data) - 8, HEADER_LIMIT):
        raise BbgError("is no packed file, or a truncated one; give one that bbg convert wrote")
    header = checked.parse(data[8 : 8 + length], "safetensors header")
    what = "the metadata (is this a packed file of bbg?)"
    metadata = checked.mapping(header.get("__metadata__"), what, ("bbg",))
    return checked.parse(checked.string(metadata["bbg"], "the metadata 'bbg'"), "graph")


def _version(value: Any) -> tuple[int, int]:
    reads = f"this bbg reads format {version_name(VERSION)}"
    if type(value) is int:
        raise BbgError(f"is of an older form (version {checked.shown(value)}); {reads}: convert the model anew")
    if not isinstance(value, str) or not re.fullmatch("(0|[1-9][0-9]{0,3})[.](0|[1-9][0-9]{0,3})", value):
        raise BbgError(f"the format version is {checked.shown(value)}, it must be a string such as '1.0'")
    major, minor = map(int, value.split("."))
    if major != VERSION[0]:
        raise BbgError(f"is of format {value}; {reads}: update bbg or convert the model anew")
    return major, minor


def _verify(data: bytes, checksum: Any) -> None:
    """Raise BbgError unless the file is what its checksum was computed of."""
    if not isinstance(checksum, str) or not re.fullmatch("[0-9a-f]{64}", checksum):
        raise BbgError(
            f"the checksum is {checked.shown(checksum)}, it must be 64 hexadecimal digits; get the file anew"
        )
    at = data.find(checksum.encode())
    if at < 0 or _checksum(data, at) != checksum:
        raise BbgError("is damaged: its contents do not have the checksum that it states; get the file anew")


def _refuse_unknown(description: dict[str, Any], version: tuple[int, int]) -> None:
    """Name what a file of a later minor version has that this reader does not know."""
    for what, known in _used(description):
        if what[-1] not in known:
            has = f"{what[0]} {what[1]!r}, which format {version_name(version)} has"
            raise BbgError(f"{has} and this bbg ({version_name(VERSION)}) does not know: update bbg")


def _used(description: dict[str, Any]) -> Iterator[tuple[tuple[str, Any], Any]]:
    """Every key, kind, attribute, parameter and word of the description with what is known in its place.

    What has not the right form is passed over: it is refused later.
    """

    def entries(value: Any) -> list[dict[str, Any]]:
        return [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []

    def keys(value: Any, what: str, known: tuple[str, ...]) -> Iterator[tuple[tuple[str, Any], Any]]:
        yield from (((f"{what} has the key", key), known) for key in value)

    yield from keys(description, "the description", _DESCRIPTION)
    if isinstance(preprocess := description.get("preprocess"), dict):
        yield from keys(preprocess, "the preprocess", _PREPROCESS)
        if isinstance(preprocess.get("decode"), str):
            yield ("the preprocess has the decode", preprocess["decode"]), DECODE
    if isinstance(description.get("structure"), str):
        yield ("the outputs have the structure", description["structure"]), STRUCTURES
    for output in entries(description.get("outputs")):
        yield from keys(output, f"output {output.get('name')!r}", _OUTPUT)
    if isinstance(head := description.get("head"), dict):
        yield ("the head has the kind", head.get("kind")), list(HEADS)
        yield from keys(head, "the head", KEYS.get(str(head.get("kind")), ("kind",)))
    for op in entries(description.get("ops")):
        what = f"op {op.get('name')!r}"
        yield (f"{what} has the kind", op.get("kind")), list(KINDS)
        yield from keys(op, what, (*_OP, *_OP_OPTIONAL))
        attributes, epilogue = op.get("attributes", {}), op.get("epilogue", [])
        if isinstance(attributes, dict):
            for name, value in attributes.items():
                yield (f"{what} has the attribute", name), list(ATTRIBUTES)
                if ATTRIBUTES[name].words:
                    yield (f"{what} has the {name}", value), ATTRIBUTES[name].words
        if isinstance(epilogue, list):
            yield from (((f"{what} has the epilogue parameter", name), list(EPILOGUE)) for name in epilogue)


def _tensors(data: bytes) -> dict[str, np.ndarray]:
    """Every tensor by its full name. The package refuses holes, overlaps, and sizes that do not fit the shape."""
    try:
        entries = safetensors.deserialize(data)
    except safetensors.SafetensorError as error:
        raise BbgError(f"tensors are damaged ({error}); get the file anew") from error
    arrays = {}
    for name, entry in entries:
        if entry["dtype"] not in _DTYPES:
            raise BbgError(f"tensor {name!r} has dtype {entry['dtype']}; allowed are {', '.join(_DTYPES)}")
        array = np.frombuffer(bytes(entry["data"]), _DTYPES[entry["dtype"]])
        arrays[name] = array.reshape(entry["shape"])
    return arrays


def _graph(description: dict[str, Any], ops: tuple[Op, ...]) -> Graph:
    source = checked.mapping(description["input"], "input", _INPUT, _INPUT_OPTIONAL)
    input_type = checked.word(source.get("type", "real"), "the input's type", ("real", "bytes"))
    shape = _sizes(source["shape"], "the input")
    if len(shape) != 3:
        raise BbgError(f"the input's shape is {list(shape)}, allowed is [C, H, W]")
    return Graph(
        checked.name(source["name"], "the input's name"),
        (shape[0], shape[1], shape[2]),
        ops,
        tuple(_output(entry) for entry in checked.sequence(description["outputs"], "outputs")),
        "bytes" if input_type == "bytes" else "real",
        cast(Structure, checked.word(description["structure"], "the outputs' structure", STRUCTURES)),
    )


def _op(entry: Any, where: str, tensors: dict[str, np.ndarray]) -> Op:
    """The op that `entry` describes; its tensors leave `tensors`."""
    checked.mapping(entry, where, _OP, _OP_OPTIONAL)
    name = checked.name(entry["name"], f"the name of {where}")
    where = f"op {name!r}"
    clip = tuple(
        None if v is None else float(checked.number(v, f"clip of {where}"))
        for v in checked.sequence(entry.get("clip", [None, None]), f"clip of {where}")
    )
    if len(clip) != 2:
        raise BbgError(f"clip of {where} has {len(clip)} numbers, allowed is [low, high]")
    return Op(
        name,
        checked.name(entry["kind"], f"the kind of {where}"),
        checked.names(entry["inputs"], f"an input of {where}"),
        real=checked.optional_name(entry.get("real"), f"'real' of {where}"),
        bits=checked.optional_name(entry.get("bits"), f"'bits' of {where}"),
        bytes=checked.optional_name(entry.get("bytes"), f"'bytes' of {where}"),
        attributes=checked.mapping(entry.get("attributes", {}), f"attributes of {where}"),
        tensors={key: tensors.pop(f"{name}.{key}") for key in (*TENSORS, "epilogue") if f"{name}.{key}" in tensors},
        epilogue=checked.names(entry.get("epilogue", []), f"an epilogue parameter of {where}"),
        clip=(clip[0], clip[1]),
    )


def _output(entry: Any) -> Output:
    checked.mapping(entry, "an output", _OUTPUT)
    name = checked.string(entry["name"], "the name of an output")
    what = f"output {name!r}"
    parts = []
    for part in checked.sequence(entry["parts"], f"'parts' of {what}"):
        checked.mapping(part, f"a part of {what}", _PART)
        order = checked.name(part["order"], f"an order of {what}")
        parts.append(Part(checked.name(part["value"], f"a value of {what}"), order))
    return Output(name, tuple(parts), _sizes(entry["shape"], what))


def _sizes(value: Any, of: str) -> tuple[int, ...]:
    return tuple(checked.integer(n, f"a size of {of}") for n in checked.sequence(value, f"the shape of {of}"))


def _provenance(value: Any) -> dict[str, str | int | float]:
    def note(key: str, v: Any) -> str | int | float:
        what = f"note {checked.shown(key)} of the provenance"
        if type(v) not in (str, int, float):
            raise BbgError(f"{what} is {checked.shown(v)}, it must be a text or a number")
        return checked.string(v, what) if isinstance(v, str) else checked.number(v, what)

    entries = checked.mapping(value, "provenance").items()
    return {checked.name(key, "a key of provenance"): note(key, v) for key, v in entries}
