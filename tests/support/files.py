"""Packed files taken apart and put together."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from typing import Any

from bbg.graph.file import PackedModel, with_checksum
from bbg.heads import Classification
from bbg.image import Preprocess
from support.graphs import small

PREPROCESS = Preprocess((6, 6), mean=(0.5, 0.25, 0.125), std=(1.0, 2.0, 0.5))


def model() -> PackedModel:
    notes: dict[str, str | int | float] = {"epochs": 3, "accuracy": 0.5, "data": "digits"}
    return PackedModel(small(), PREPROCESS, ("ant", "bee", "cat", "🐕"), notes, Classification())


def parts(data: bytes) -> tuple[dict[str, Any], dict[str, Any], bytes]:
    """A packed file's safetensors header, its description, and the bytes of its tensors."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    return header, json.loads(header["__metadata__"]["bbg"]), data[8 + length :]


def join(header: dict[str, Any], description: Any, payload: bytes) -> bytes:
    """The packed file of these parts; its checksum is right, so that what is wrong with it is found behind that."""
    if isinstance(description, dict) and "checksum" in description:
        description = {**description, "checksum": "0" * 64}
    text = description if isinstance(description, str) else json.dumps(description)
    raw = json.dumps({**header, "__metadata__": {"bbg": text}}).encode()
    data = struct.pack("<Q", len(raw)) + raw + payload
    return with_checksum(data) if b"0" * 64 in data else data


def resealed(data: bytes) -> bytes:
    """`data` with the checksum that it should have, or as it is where its checksum cannot be found."""
    description = parts(data)[1]
    at = data.find(description["checksum"].encode())
    if len(description["checksum"]) != 64 or at < 0:
        return data
    return with_checksum(data[:at] + b"0" * 64 + data[at + 64 :])


def same(a: PackedModel, b: PackedModel) -> bool:
    """Equal in every field and every bit."""

    def plain(m: PackedModel) -> Any:
        ops = [
            (
                o.name,
                o.kind,
                o.inputs,
                o.real,
                o.bits,
                o.attributes,
                o.epilogue,
                o.clip,
                {k: (t.dtype, t.shape, t.tobytes()) for k, t in o.tensors.items()},
            )
            for o in m.graph.ops
        ]
        graph = (m.graph.input_name, m.graph.input_shape, ops, m.graph.outputs, m.graph.structure)
        return graph, m.preprocess, m.labels, m.provenance, m.head

    return bool(plain(a) == plain(b))


def entry(index: int, **changes: Any) -> Callable[[dict[str, Any]], None]:
    """Change keys of the op number `index`; a value of `...` removes the key."""

    def change(description: dict[str, Any]) -> None:
        op = description["ops"][index]
        op.update(changes)
        description["ops"][index] = {k: v for k, v in op.items() if v is not ...}

    return change


def top(**changes: Any) -> Callable[[dict[str, Any]], None]:
    def change(description: dict[str, Any]) -> None:
        description.update(changes)
        for key in [k for k, v in changes.items() if v is ...]:
            del description[key]

    return change
