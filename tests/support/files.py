"""Packed files taken apart and put together."""

from __future__ import annotations

import json
import struct
from typing import Any

from bbg.graph.file import PackedModel
from bbg.image import Preprocess
from support.graphs import small

PREPROCESS = Preprocess((6, 6), mean=(0.5, 0.25, 0.125), std=(1.0, 2.0, 0.5))


def model() -> PackedModel:
    return PackedModel(
        small(), PREPROCESS, ("ant", "bee", "cat", "🐕"), {"epochs": 3, "accuracy": 0.5, "data": "digits"}
    )


def parts(data: bytes) -> tuple[dict[str, Any], dict[str, Any], bytes]:
    """A packed file's safetensors header, its description, and the bytes of its tensors."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    return header, json.loads(header["__metadata__"]["bbg"]), data[8 + length :]


def join(header: dict[str, Any], description: Any, payload: bytes) -> bytes:
    text = description if isinstance(description, str) else json.dumps(description)
    raw = json.dumps({**header, "__metadata__": {"bbg": text}}).encode()
    return struct.pack("<Q", len(raw)) + raw + payload
