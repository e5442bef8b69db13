"""Files of at most 4 kB that ask for memory and time: each takes little, or is refused.

    python -m support.costly 10000             # files; a failure prints its number
    python -m support.costly 1 --first 4711    # that one again

Each file is loaded in a forked process, and one image goes through it. Sizes are drawn evenly on a logarithmic scale,
up to what the format allows, so that files fall on both sides of the limits and near them. Some ops come many times
over: a chain, a concatenation that doubles, many values alive at once.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np

import bbg
from bbg.errors import BbgError
from bbg.graph import Graph, Op, Output
from bbg.graph.file import PackedModel, encode
from bbg.graph.kinds import KINDS
from bbg.heads import Classification
from bbg.image import Preprocess

FILE, SECONDS, BYTES = 4096, 2.0, 256 * 2**20  # of CPU, and above the process that it is forked from
NAMES = tuple(KINDS)


class Draw:
    """A graph in the making."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.type = str(self.rng.choice(["real", "real", "bytes"]))
        side = self.size(4096) if self.rng.random() < 0.3 else int(self.rng.integers(1, 9))
        self.shape = (int(self.rng.choice([1, 3])), side, side)
        self.ops: list[Op] = []

    def size(self, most: int) -> int:
        return int(2 ** self.rng.uniform(0, np.log2(most)))

    def pair(self, most: int) -> tuple[int, int]:
        first = self.size(most)
        return (first, first) if self.rng.random() < 0.7 else (first, self.size(most))

    def graph(self, outputs: tuple[Output, ...] = ()) -> Graph:
        return Graph("x", self.shape, tuple(self.ops), outputs, self.type)  # type: ignore[arg-type]

    def add(self, kind: str) -> None:
        """An op of this kind that the format allows, reading the last value or an earlier one."""
        values = self.graph().shapes(*self.shape[1:])
        rule = KINDS[kind]
        fit = [name for name, value in values.items() if value.type == rule.main]
        if not fit:
            return
        source = fit[-1] if self.rng.random() < 0.8 else str(self.rng.choice(fit))
        main = values[source]
        alike = [name for name in fit if values[name].shape == main.shape] or [source]
        count = rule.operands or int(self.rng.integers(2, 9))
        inputs = (source, *(str(name) for name in self.rng.choice(alike, count - 1)))
        attributes = {name: self.attribute(name, main.shape) for name in rule.attributes}
        if kind == "max_pool_bits" or self.rng.random() < 0.25:
            written = {"bits": f"b{len(self.ops)}"}
        else:
            written = {str(self.rng.choice(["real", "real", "bytes"])): f"v{len(self.ops)}"}
        op = Op(f"{len(self.ops)}", kind, inputs, attributes=attributes, **written)  # type: ignore[arg-type]
        try:
            channels = rule.shape(op.attributes, *(values[name].shape for name in inputs))[0]
            tensors = {}
            for name, (dtype, shape) in op.tensor_forms(main, channels).items():
                if name in rule.optional:
                    continue
                if np.prod(shape, dtype=float) * np.dtype(dtype).itemsize > FILE:
                    return
                tensors[name] = np.zeros(shape, dtype)
            op = Op(op.name, kind, inputs, attributes=attributes, tensors=tensors, **written)  # type: ignore[arg-type]
            self.ops.append(op)
            self.graph().shapes(*self.shape[1:])
        except BbgError:
            if self.ops and self.ops[-1] is op:
                self.ops.pop()

    def attribute(self, name: str, shape: tuple[int, int, int]) -> object:
        side = max(shape[1:])
        if name == "kernel":
            return self.pair(2 * side)
        if name == "padding":
            return (0, 0) if self.rng.random() < 0.5 else self.pair(side)
        if name == "dilation":
            return (1, 1) if self.rng.random() < 0.7 else self.pair(side)
        if name == "stride":
            return (1, 1) if self.rng.random() < 0.7 else self.pair(16)
        if name == "size":
            return self.pair(65535)
        if name == "channels":
            return self.size(2**28 if self.rng.random() < 0.2 else 2**12)
        if name == "groups":
            return int(self.rng.choice([1, shape[0]]))
        if name == "function":
            return "sigmoid"
        return 1e-5 if name == "eps" else bool(self.rng.integers(2))


def drawn(seed: int) -> bytes | None:
    """The file of this number; None where nothing of at most 4 kB came of it."""
    draw = Draw(seed)
    rng = draw.rng
    favourite = str(rng.choice(NAMES))
    for _ in range(int(rng.integers(1, 20))):
        draw.add(favourite if rng.random() < 0.4 else str(rng.choice(NAMES)))
    if rng.random() < 0.7:
        draw.add("adaptive_avg_pool")
    if not draw.ops:
        return None
    last = draw.ops[-1]
    if rng.random() < 0.5:  # an output of a few numbers, whatever stands before it
        values = draw.graph().shapes(*draw.shape[1:])
        if values[last.result].type == "real":
            draw.ops.append(Op("e", "adaptive_avg_pool", (last.result,), real="e", attributes={"size": (1, 1)}))
            last = draw.ops[-1]
    value = draw.graph().shapes(*draw.shape[1:])[last.result]
    flat = Output.of_flat("", last.result, value.numbers)
    channels, side, _ = draw.shape
    how = Preprocess(side, mode="L" if channels == 1 else "RGB", mean=(0.0,) * channels, std=(1.0,) * channels)
    try:
        data = encode(PackedModel(draw.graph((flat,)), how, head=Classification() if rng.random() < 0.5 else None))
    except BbgError:
        return None
    return data if len(data) <= FILE else None


def cost(file: Path) -> tuple[float, int, str | None]:
    """Seconds of CPU and bytes of memory of a forked process that loads the file and runs an image; what it said."""
    reads, writes = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reads)
        told = None
        # A file that nothing stops is stopped here, and then has taken too much.
        resource.setrlimit(resource.RLIMIT_CPU, (30, 30))
        began, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        try:
            engine = bbg.load(file, threads=1)
            channels, height, width = engine.input_shape
            image = np.zeros((height, width, channels)[: 3 if channels > 1 else 2], np.uint8)
            engine.predict(image) if engine.head else engine(np.zeros((1, height, width, channels), np.uint8))
        except BbgError as error:
            told = str(error)
        taken = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        with os.fdopen(writes, "w") as pipe:
            json.dump([time.process_time() - began, 1024 * taken, told], pipe)
        os._exit(0)
    os.close(writes)
    with os.fdopen(reads) as pipe:
        answer = pipe.read()
    status = os.waitpid(child, 0)[1]
    assert answer, f"the process ended with {os.waitstatus_to_exitcode(status)} and no answer"
    seconds, taken, told = json.loads(answer)
    return seconds, taken, told


def run(count: int, first: int = 0) -> tuple[Counter[str], float, int]:
    """Try `count` files, numbered from `first` on; what became of them, the most seconds and the most bytes."""
    tally: Counter[str] = Counter()
    most_seconds, most_bytes, number = 0.0, 0, first
    # What the first load imports and builds is not the file's.
    bbg.load("resnet20-cifar10", threads=1)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "costly.bbg"
        while tally.total() < count:
            data = drawn(number)
            if data is not None:
                file.write_bytes(data)
                seconds, taken, told = cost(file)
                place = f"file {number}: {seconds:.2f} s, {taken / 2**20:.0f} MB, {told}"
                assert seconds < SECONDS and taken < BYTES, place  # noqa: PT018
                tally["answered" if told is None else "limits" if "limits." in told else "refused"] += 1
                most_seconds, most_bytes = max(most_seconds, seconds), max(most_bytes, taken)
            number += 1
    return tally, most_seconds, most_bytes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("count", type=int)
    parser.add_argument("--first", type=int, default=0)
    arguments = parser.parse_args()
    tally, seconds, taken = run(arguments.count, arguments.first)
    print(f"{dict(tally)}; at most {seconds:.2f} s of CPU and {taken / 2**20:.0f} MB")


if __name__ == "__main__":
    main()
