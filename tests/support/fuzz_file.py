r"""Damage packed files at random and run what can still be read: an error or a right answer each time, never a crash.

    python tests/support/fuzz_file.py 10000            # files; a failure prints its number
    python tests/support/fuzz_file.py 1 --first 4711   # that one again

Under sanitizers, with the native module built by `cmake -DBBG_SANITIZE=address,undefined` and first on the path:

    LD_PRELOAD="$(gcc -print-file-name=libasan.so) $(gcc -print-file-name=libubsan.so)" \
    ASAN_OPTIONS=detect_leaks=0,allocator_may_return_null=1 python tests/support/fuzz_file.py 10000

`BBG_ISA` picks the kernel set.

A file is damaged by flipped, cut, copied or added bytes, or by an edit that leaves its JSON and its container sound. A
file that reads well is run, and the engine must agree with bbg/graph/reference.py. Where a sum lies so near a threshold
that float32 may decide either way, or overflows, the outputs are not compared; the tally counts those.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import struct
import sys
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np

from bbg.engine import Engine
from bbg.errors import BbgError
from bbg.graph import reference
from bbg.graph.file import PackedModel, decode, encode
from bbg.image import Preprocess
from cases import random_graphs
from support.files import resealed
from support.graphs import small

Tally = Counter[str]

BITS, TOLERANCE, LARGE = 1e-5, 1e-4, 2_000_000
NUMBERS = (0, 1, -1, 2, 3, 63, 64, 65, 255, 65535, 65536, 2**31 - 1, 2**31, 2**63 - 1, 2**63, -(2**63), 0.5, 1e39)
OTHERS = (None, True, False, "", "x", [], {}, [1, 1], "conv", "byte_conv", "binary_conv", "bytes", "F32", "U64", "I8")


def originals() -> list[bytes]:
    """Sound files that cover every kind of op; one has preprocessing and labels."""
    preprocess = Preprocess(6, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
    models = [PackedModel(small(), preprocess, ("a", "b", "c", "d"), {"epochs": 3})]
    graphs = [random_graphs.random_graph(seed, ops=4, size=7) for seed in range(24)]
    # Wider and larger: full blocks of lanes and pixels beside the odd ends.
    graphs += [random_graphs.random_graph(seed, ops=4, channels=(16, 32, 64, 130), size=20) for seed in range(8)]
    return [encode(model) for model in (*models, *map(random_graphs.packed, graphs))]


def damage(data: bytes, rng: np.random.Generator) -> bytes:
    """`data` with one or two injuries."""
    for _ in range(int(rng.integers(1, 3))):
        injure = (flip, flip_tensors, flip_tensors, cut, copy_over, edit, edit, edit)[int(rng.integers(8))]
        try:
            data = injure(data, rng)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            data = flip(data, rng)  # an earlier injury left no JSON to edit
    try:
        return resealed(data)  # else the checksum would find every injury, and nothing behind it were tried
    except (BbgError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return data


def flip(data: bytes, rng: np.random.Generator) -> bytes:
    """Change a few bits."""
    array = np.frombuffer(data, np.uint8).copy()
    for at in rng.integers(0, len(array), int(rng.integers(1, 5))) if len(array) else ():
        array[at] ^= 1 << int(rng.integers(8))
    return array.tobytes()


def flip_tensors(data: bytes, rng: np.random.Generator) -> bytes:
    """Change a few bits behind the header."""
    start = 8 + int.from_bytes(data[:8], "little")
    return data[:start] + flip(data[start:], rng)


def cut(data: bytes, rng: np.random.Generator) -> bytes:
    """Take off the end, or add to it."""
    if rng.random() < 0.3:
        return data + rng.bytes(int(rng.integers(1, 65)))
    return data[: int(rng.integers(len(data) + 1))]


def copy_over(data: bytes, rng: np.random.Generator) -> bytes:
    """Overwrite one stretch with another."""
    length = int(rng.integers(1, 65))
    source, target = (int(at) for at in rng.integers(0, max(1, len(data) - length), 2))
    return data[:target] + data[source : source + length] + data[target + length :]


def edit(data: bytes, rng: np.random.Generator) -> bytes:
    """Change one node of the container's header or of the graph; both stay JSON and the lengths stay right."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    description = json.loads(header["__metadata__"]["bbg"])
    mutate(description if rng.random() < 0.75 else header, rng)
    if "__metadata__" in header:
        header["__metadata__"] = {"bbg": json.dumps(description)}
    raw = json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + data[8 + length :]


def nodes(tree: Any) -> Iterator[tuple[Any, Any]]:
    """Every (container, key) below `tree`."""
    for key in list(tree) if isinstance(tree, dict) else range(len(tree)):
        yield tree, key
        if isinstance(tree[key], (dict, list)):
            yield from nodes(tree[key])


def mutate(tree: Any, rng: np.random.Generator) -> None:
    """Replace, remove, double or exchange one node of `tree`."""
    places = list(nodes(tree))
    holder, key = places[int(rng.integers(len(places)))]
    old, draw = holder[key], rng.random()
    if draw < 0.3 and isinstance(old, int):
        holder[key] = old + int(rng.integers(-2, 3))
    elif draw < 0.5:
        other, there = places[int(rng.integers(len(places)))]
        holder[key] = copy.deepcopy(other[there])
    elif draw < 0.65:
        choice = NUMBERS if isinstance(old, (int, float)) else (*OTHERS, *NUMBERS)
        holder[key] = choice[int(rng.integers(len(choice)))]
    elif draw < 0.8:
        del holder[key]
    elif isinstance(holder, list):
        holder.insert(int(rng.integers(len(holder) + 1)), copy.deepcopy(old))
    else:
        holder[f"{key}2"] = old


def judge(data: bytes, rng: np.random.Generator) -> str:
    """What became of a file: "refused", "right", or why its answer was not compared. A wrong answer: AssertionError."""
    try:
        model = decode(data)
        values = model.graph.check()
        costs = model.graph.costs()
        if sum(v.numbers for v in values.values()) > LARGE or sum(c.macs for c in costs) > 100 * LARGE:
            return "large"
        engine = Engine(model, threads=int(rng.integers(1, 3)))
        x, images = random_graphs.random_input(model.graph, int(rng.integers(1, 4)), rng)
        if model.graph.input_type == "real" and model.preprocess is not None:
            images = (x.transpose(0, 2, 3, 1) * 64 + 128).clip(0, 255).astype(np.uint8)
            x = model.preprocess.normalize(images)
        answers = engine.run(images)
    except BbgError:
        return "refused"
    with np.errstate(all="ignore"):
        expected = reference.run(model.graph, x)
        margin = random_graphs.margin(model.graph, expected)
    if not all(np.isfinite(v).all() and np.abs(v).max() < 1e30 for v in expected.values()):
        return "overflow"
    if margin < BITS:
        return "near tie"
    for output, right in reference.outputs(model.graph, expected).items():
        answer = answers[output]
        assert answer.shape == right.shape, (output, answer.shape, right.shape)
        scale = max(1e-30, float(np.abs(right).max()))
        assert math.isclose(float(np.abs(answer - right).max()) / scale, 0, abs_tol=TOLERANCE), (output, answer, right)
    return "right"


def fuzz(count: int, first: int = 0) -> Tally:
    """Judge `count` damaged files, numbered from `first`; each depends on its number alone."""
    sound, tally = originals(), Tally()
    for number in range(first, first + count):
        rng = np.random.default_rng(number)
        data = damage(sound[int(rng.integers(len(sound)))], rng)
        try:
            tally[judge(data, rng)] += 1
        except BaseException:
            print(f"damaged file {number}", file=sys.stderr)
            raise
    return tally


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("count", type=int)
    parser.add_argument("--first", type=int, default=0)
    arguments = parser.parse_args()
    print(dict(fuzz(arguments.count, arguments.first)))
