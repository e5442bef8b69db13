"""The packed file: one safetensors file that holds a network's meaning and nothing executable (docs/format.md).

    write(path, PackedModel(graph, preprocess, labels, provenance))    ->    read(path) == the same model

Files come from strangers: `read` believes nothing, and any damage is a BbgError.
"""

from __future__ import annotations

import json
import math
import os
import re
import stat
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import safetensors
from safetensors.numpy import save

from bbg.errors import BbgError
from bbg.graph.graph import STRUCTURES, Graph, Op, Output, Part, Structure
from bbg.graph.kinds import ATTRIBUTES, KINDS, TENSORS
from bbg.image import Preprocess

VERSION = 1
HEADER_LIMIT = 4 << 20
FILE_LIMIT = 2 << 30

_DTYPES: dict[str, np.dtype[Any]] = {
    "F32": np.dtype("<f4"),
    "U64": np.dtype("<u8"),
    "I32": np.dtype("<i4"),
    "I8": np.dtype("i1"),
}
_UNPRINTABLE = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


@dataclass(frozen=True, eq=False)
class PackedModel:
    """A network with what is needed to use it: preprocessing, class names, and notes on where it came from."""

    graph: Graph
    preprocess: Preprocess | None = None
    labels: tuple[str, ...] | None = None
    provenance: dict[str, str | int | float] = field(default_factory=dict)

    def check(self) -> None:
        """Raise BbgError unless the graph obeys the format, and preprocessing and labels fit it."""
        self.graph.check()
        channels, *size = self.graph.input_shape
        if self.preprocess is not None:
            have = [len(self.preprocess.mean), *self.preprocess.size]
            if have != [channels, *size]:
                raise BbgError(f"preprocess yields an image {have}, the graph's input is {[channels, *size]}")
        elif self.graph.input_type == "bytes":
            raise BbgError("the graph's input is bytes, whose numbers only a preprocess tells; give one")
        classes = math.prod(self.graph.outputs[0].shape)
        if self.labels is not None and self.graph.structure == "tensor" and len(self.labels) != classes:
            raise BbgError(f"{len(self.labels)} labels for {classes} classes; give one per class, or none")


class Item(NamedTuple):
    """A part of the packed file and its bytes."""

    name: str
    bytes: int


def write(path: str | os.PathLike[str], model: PackedModel) -> int:
    """Write `model` to `path` and return the file's size in bytes.

    The file appears whole or not at all, and an older one stays until then. Raises BbgError for a model that breaks the
    format and for a path that cannot be written.
    """
    data = encode(model)
    decode(data)  # what cannot be read is not written
    try:
        _replace(Path(path), data)
    except (OSError, ValueError) as error:
        raise BbgError(f"{path}: cannot be written ({error}); choose another path") from error
    return len(data)


def read(path: str | os.PathLike[str]) -> PackedModel:
    """The model in the packed file `path`; its arrays are read-only. BbgError for anything but a sound packed file."""
    try:
        with open(path, "rb") as file:
            status = os.fstat(file.fileno())
            likely = stat.S_ISREG(status.st_mode) and status.st_size < FILE_LIMIT
            data = file.read() if likely else b""
    except (OSError, ValueError) as error:
        raise BbgError(f"{path}: cannot be read ({error}); give the path of a packed file") from error
    if not likely:
        raise BbgError(f"{path}: is no packed file; one is a regular file below 2 GiB")
    try:
        return decode(data)
    except BbgError as error:
        raise BbgError(f"{path}: {error}") from error


def byte_breakdown(model: PackedModel) -> list[Item]:
    """What the bytes of the packed file are spent on; the sum is the size of the file that `write` writes."""
    data = encode(model)
    sizes: dict[str, int] = {}
    for op in model.graph.ops:
        for name, tensor in op.tensors.items():
            weight = KINDS[op.kind].weight
            what = f"{weight.bits}-bit weights" if name == "weight" and weight is not None else name
            sizes[what] = sizes.get(what, 0) + tensor.nbytes
    description = len(json.dumps(_describe(model), ensure_ascii=False).encode())
    sizes["graph JSON"] = description
    sizes["safetensors header"] = len(data) - sum(sizes.values())
    return [Item(name, size) for name, size in sizes.items()]


def encode(model: PackedModel) -> bytes:
    """The bytes of the packed file; BbgError where the model breaks the format."""
    model.check()
    tensors = {f"{op.name}.{name}": array for op in model.graph.ops for name, array in op.tensors.items()}
    return save(tensors, {"bbg": _describe(model)})


def decode(data: bytes) -> PackedModel:
    """The model in the bytes of a packed file; BbgError for any damage."""
    description = _description(data)
    tensors = _tensors(data)
    version = _number(description.get("version"), "version", whole=True)
    if not 1 <= version <= VERSION:
        raise BbgError(f"format version {version}; this bbg reads 1 to {VERSION}: update it or convert the model anew")
    top = ("version", "input", "structure", "outputs", "ops", "preprocess", "labels", "provenance")
    _object(description, "the description", top)
    source = _object(description["input"], "input", ("name", "shape"), ("type",))
    input_type = source.get("type", "real")
    if input_type not in ("real", "bytes"):
        raise BbgError(f"the input's type is {_shown(input_type)}, allowed are 'real' and 'bytes'")
    shape = [_number(n, "the input's shape", whole=True) for n in _list(source["shape"], "the input's shape")]
    if len(shape) != 3:
        raise BbgError(f"the input's shape is {shape}, allowed is [C, H, W]")
    ops = tuple(_op(entry, f"op {i}", tensors) for i, entry in enumerate(_list(description["ops"], "ops")))
    outputs = tuple(_output(entry) for entry in _list(description["outputs"], "outputs"))
    labels = description["labels"]
    model = PackedModel(
        Graph(
            _text(source["name"], "the input's name"),
            (shape[0], shape[1], shape[2]),
            ops,
            outputs,
            input_type,
            _structure(description["structure"]),
        ),
        None if description["preprocess"] is None else Preprocess.from_json(description["preprocess"]),
        None if labels is None else tuple(_text(label, "a label") for label in _list(labels, "labels")),
        _provenance(description["provenance"]),
    )
    if tensors:
        raise BbgError(f"tensor {min(tensors)!r} belongs to no op; remove it")
    model.check()
    return model


def _replace(target: Path, data: bytes) -> None:
    """Put `data` at `target` in one step: readers see the old file or the whole new one."""
    draft = target.with_name(f".{target.name}.{os.urandom(4).hex()}")
    try:
        with open(draft, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, target)
    finally:
        draft.unlink(missing_ok=True)


def _describe(model: PackedModel) -> str:
    """The JSON string of the metadata; what equals its default is left out."""
    graph = model.graph
    description = {
        "version": VERSION,
        "input": {"name": graph.input_name, "shape": list(graph.input_shape), **_input_type(graph)},
        "structure": graph.structure,
        "outputs": [_output_entry(output) for output in graph.outputs],
        "ops": [_entry(op) for op in graph.ops],
        "preprocess": None if model.preprocess is None else model.preprocess.to_json(),
        "labels": None if model.labels is None else list(model.labels),
        "provenance": model.provenance,
    }
    try:
        return json.dumps(description, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise BbgError(f"the model's description is no JSON ({error}); provenance holds strings and numbers") from error


def _output_entry(output: Output) -> dict[str, Any]:
    parts = [{"value": part.value, "order": part.order} for part in output.parts]
    return {"name": output.name, "parts": parts, "shape": list(output.shape)}


def _input_type(graph: Graph) -> dict[str, str]:
    return {} if graph.input_type == "real" else {"type": graph.input_type}


def _entry(op: Op) -> dict[str, Any]:
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


def _description(data: bytes) -> dict[str, Any]:
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or length > min(len(data) - 8, HEADER_LIMIT):
        raise BbgError("is truncated or no safetensors file; get the file anew")
    header = _json(data[8 : 8 + length], "safetensors header")
    metadata = _object(header.get("__metadata__"), "the metadata (is this a packed file of bbg?)", ("bbg",))
    return _json(_string(metadata["bbg"], "the metadata 'bbg'"), "graph")


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


def _op(entry: Any, where: str, tensors: dict[str, np.ndarray]) -> Op:
    """The op that `entry` describes; its tensors leave `tensors`."""
    _object(entry, where, ("name", "kind", "inputs"), ("real", "bits", "bytes", "attributes", "epilogue", "clip"))
    name = _text(entry["name"], f"the name of {where}")
    where = f"op {name!r}"
    clip = tuple(
        None if v is None else float(_number(v, f"clip of {where}"))
        for v in _list(entry.get("clip", [None, None]), f"clip of {where}")
    )
    if len(clip) != 2:
        raise BbgError(f"clip of {where} has {len(clip)} numbers, allowed is [low, high]")
    return Op(
        name,
        _text(entry["kind"], f"the kind of {where}"),
        _names(entry["inputs"], f"an input of {where}"),
        real=None if entry.get("real") is None else _text(entry["real"], f"'real' of {where}"),
        bits=None if entry.get("bits") is None else _text(entry["bits"], f"'bits' of {where}"),
        bytes=None if entry.get("bytes") is None else _text(entry["bytes"], f"'bytes' of {where}"),
        attributes=_object(entry.get("attributes", {}), f"attributes of {where}"),
        tensors={key: tensors.pop(f"{name}.{key}") for key in (*TENSORS, "epilogue") if f"{name}.{key}" in tensors},
        epilogue=_names(entry.get("epilogue", []), f"an epilogue parameter of {where}"),
        clip=(clip[0], clip[1]),
    )


def _structure(value: Any) -> Structure:
    if value not in STRUCTURES:
        raise BbgError(f"the outputs' structure is {_shown(value)}, allowed are {', '.join(STRUCTURES)}")
    return cast(Structure, value)


def _output(entry: Any) -> Output:
    _object(entry, "an output", ("name", "parts", "shape"))
    name = _string(entry["name"], "the name of an output")
    what = f"output {name!r}"
    parts = []
    for part in _list(entry["parts"], f"'parts' of {what}"):
        _object(part, f"a part of {what}", ("value", "order"))
        parts.append(Part(_text(part["value"], f"a value of {what}"), _text(part["order"], f"an order of {what}")))
    shape = tuple(_number(n, f"a size of {what}", whole=True) for n in _list(entry["shape"], f"'shape' of {what}"))
    return Output(name, tuple(parts), shape)


def _provenance(value: Any) -> dict[str, str | int | float]:
    return {
        _text(key, "a key of provenance"): _string(v, "provenance") if isinstance(v, str) else _number(v, "provenance")
        for key, v in _object(value, "provenance").items()
    }


def _json(text: str | bytes, what: str) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) != len(pairs):
            raise BbgError(f"{what}: a key is given twice in {[key for key, _ in pairs]}")
        return dict(pairs)

    try:
        value = json.loads(text if isinstance(text, str) else text.decode(), object_pairs_hook=unique)
    except BbgError:
        raise
    except (ValueError, RecursionError) as error:
        raise BbgError(f"{what} is no JSON ({error}); get the file anew") from error
    if not isinstance(value, dict):
        raise BbgError(f"{what} is {_shown(value)}, it must be a JSON object")
    return value


def _object(
    value: Any, what: str, required: Collection[str] | None = None, optional: Collection[str] = ()
) -> dict[str, Any]:
    """`value` if it is an object with the required and at most the optional keys (required None: any keys)."""
    if not isinstance(value, dict):
        raise BbgError(f"{what} is {_shown(value)}, it must be a JSON object")
    if required is not None:
        allowed = ", ".join([*required, *optional])
        for key in value:
            if key not in required and key not in optional:
                raise BbgError(f"unknown key {key!r} in {what}; allowed are {allowed}")
        for key in required:
            if key not in value:
                raise BbgError(f"key {key!r} is missing in {what}; its keys are {allowed}")
    return value


def _list(value: Any, what: str) -> list[Any]:
    if not isinstance(value, list):
        raise BbgError(f"{what} is {_shown(value)}, it must be a list")
    return value


def _names(value: Any, what: str) -> tuple[str, ...]:
    return tuple(_text(entry, what) for entry in _list(value, what))


def _string(value: Any, what: str) -> str:
    if not isinstance(value, str) or _UNPRINTABLE.search(value):
        raise BbgError(f"{what} is {_shown(value)}, it must be a string without control characters")
    return value


def _text(value: Any, what: str) -> str:
    if not _string(value, what):
        raise BbgError(f"{what} is empty, it must have a name")
    return str(value)


def _number(value: Any, what: str, whole: bool = False) -> Any:
    allowed = (int,) if whole else (int, float)
    if type(value) not in allowed or not abs(value) < 2**63:
        raise BbgError(f"{what} is {_shown(value)}, it must be {'an integer' if whole else 'a number'} below 2^63")
    return value


def _shown(value: Any) -> str:
    """`value` for a message, at a length that a message can bear."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
