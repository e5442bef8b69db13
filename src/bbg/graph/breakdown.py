"""What the bytes of a packed file are spent on."""

from __future__ import annotations

import json
from typing import NamedTuple

from bbg.graph.file import PackedModel, encode
from bbg.graph.kinds import KINDS


class Item(NamedTuple):
    """A part of the packed file and its bytes."""

    name: str
    bytes: int


def byte_breakdown(model: PackedModel) -> list[Item]:
    """The parts of the packed file of `model`; their sum is the size of the file that `graph.file.write` writes."""
    data = encode(model)
    sizes: dict[str, int] = {}
    for op in model.graph.ops:
        for name, tensor in op.tensors.items():
            weight = KINDS[op.kind].weight
            what = f"{weight.bits}-bit weights" if name == "weight" and weight is not None else name
            sizes[what] = sizes.get(what, 0) + tensor.nbytes
    header = data[8 : 8 + int.from_bytes(data[:8], "little")]
    sizes["graph JSON"] = len(json.loads(header)["__metadata__"]["bbg"].encode())
    sizes["safetensors header"] = len(data) - sum(sizes.values())
    return [Item(name, size) for name, size in sizes.items()]
