"""Random graphs on every kernel set: no answer may depend on garbage, on the number of threads, or on an earlier call.

    tests/native/sanitized.sh guarded -m support.guarded 20000           # graphs; a failure prints its number
    tests/native/sanitized.sh guarded -m support.guarded 1 --first 4711  # that one again

In the guarded build (cmake -DBBG_GUARDED=ON) every value has memory of its own, filled with a byte that BBG_GARBAGE
names: 0, 127 (floats of 3.4e38) or 255 (NaN). Under the address sanitizer whoever reads or writes beside it is found.
Answers must be equal to the bit between garbages, numbers of threads and calls. Between kernel sets, and to the plain
formulas of bbg/graph/reference.py, real values may differ by rounding; where a bit or byte lies too near to a tie for
that, they are not compared. The pairs of kinds that follow each other are counted: none that can be may be missing.
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np

from bbg.cpu import cores
from bbg.engine import Engine, kernel_sets
from bbg.errors import BbgError
from bbg.graph import Graph, reference
from bbg.graph.kinds import KINDS
from cases import random_graphs

GARBAGE, THREADS = (0, 127, 255), (1, 3)
TIE, TOLERANCE = 1e-5, 1e-4
PART = 250  # graphs that a process takes at a time
ENOUGH = 5000  # graphs from 0 on in which every pair of kinds should occur

Answers = dict[str, np.ndarray]
Pair = tuple[str, str]


def drawn(seed: int) -> Graph:
    """The graph of this number: of any kinds, of joins, moves or pools, small or larger than a block of lanes."""
    if seed % 5 == 2:
        return random_graphs.random_pools(seed)
    if seed % 5 == 3:
        return random_graphs.random_joins(seed)
    if seed % 5 == 4:
        return random_graphs.random_moves(seed)
    rng = np.random.default_rng(seed)
    channels = (16, 32, 64, 130) if seed % 7 == 0 else (1, 3, 8, 16, 33, 64, 70)
    return random_graphs.random_graph(seed, int(rng.integers(2, 9)), channels, int(rng.choice([3, 6, 9, 14])))


def pairs(graph: Graph) -> Iterator[Pair]:
    """The kinds of each writer and reader of a value."""
    writers = {name: op.kind for op in graph.ops for name in op.written}
    for op in graph.ops:
        yield from ((writers[name], op.kind) for name in op.operands if name in writers)


def possible() -> set[Pair]:
    """All pairs of kinds that can follow each other: bits come of those that write real values, or of bits."""
    return {
        (writer, reader)
        for writer, reader in itertools.product(KINDS, KINDS)
        if KINDS[writer].real_output or KINDS[reader].main == "bits"
    }


def check(seed: int) -> Counter[Pair]:
    """Run the graph of this number in every way; AssertionError where two answers differ that must not."""
    graph = drawn(seed)
    rng = np.random.default_rng(seed)
    model = random_graphs.packed(graph)
    x, images = random_graphs.random_input(graph, int(rng.integers(1, 5)), rng)
    others = random_graphs.random_input(graph, len(images) + 1, rng)[1]
    with np.errstate(all="ignore"):
        expected = reference.run(graph, x)
        comparable = random_graphs.margin(graph, expected) > TIE and all(
            np.isfinite(v).all() and np.abs(v).max() < 1e30 for v in expected.values()
        )
    right = reference.outputs(graph, expected)
    for kernels in (each.name for each in kernel_sets() if each.supported):
        os.environ["BBG_ISA"] = kernels
        first: Answers | None = None
        for garbage, threads in itertools.product(GARBAGE, THREADS):
            os.environ["BBG_GARBAGE"] = str(garbage)
            engine = Engine(model, threads)
            answers = engine.run(images)
            engine.run(others)
            for found in (answers, engine.run(images)):
                first = found if first is None else first
                for name, array in found.items():
                    same = np.array_equal(array, first[name], equal_nan=True)
                    assert same, (seed, kernels, garbage, threads, name)
        assert first is not None
        for name, wanted in right.items() if comparable else ():
            largest = max(1e-30, float(np.abs(wanted).max()))
            off = float(np.abs(first[name] - wanted).max()) / largest
            assert off < TOLERANCE, (seed, kernels, name, off)
    return Counter(pairs(graph))


def run(count: int, first: int = 0) -> Counter[Pair]:
    """Check `count` graphs, numbered from `first`."""
    before = {name: os.environ.get(name) for name in ("BBG_ISA", "BBG_GARBAGE")}
    seen: Counter[Pair] = Counter()
    try:
        for seed in range(first, first + count):
            try:
                seen += check(seed)
            except (AssertionError, BbgError):
                print(f"graph {seed}", file=sys.stderr)
                raise
        print(f"{count} graphs from {first} on", flush=True)
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
    return seen


def run_in_parts(count: int, first: int, processes: int) -> Counter[Pair]:
    """As `run`, by several processes."""
    begins = range(first, first + count, PART)
    counts = [min(PART, first + count - begin) for begin in begins]
    seen: Counter[Pair] = Counter()
    with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
        for part in pool.map(run, counts, begins):
            seen += part
    return seen


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("count", type=int)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--processes", type=int, default=cores(), help="default: one per core")
    arguments = parser.parse_args()
    seen = run_in_parts(arguments.count, arguments.first, arguments.processes)
    missing = possible() - seen.keys()
    print(f"{arguments.count} graphs, {len(seen)} of {len(possible())} pairs of kinds")
    if arguments.first == 0 and arguments.count >= ENOUGH and missing:
        raise SystemExit(f"never drawn: {sorted(missing)}")


if __name__ == "__main__":
    main()
