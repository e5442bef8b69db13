"""What a small file may cost: hostile ones are refused before they take memory or time, honest ones stay far below."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support import costly

import bbg
from bbg import cli
from bbg.engine import Engine
from bbg.errors import BbgError
from bbg.graph import Graph, Op, Output
from bbg.graph.file import PackedModel, read, write
from bbg.heads import Classification
from bbg.image import Preprocess
from bbg.limits import Limits


def packed(side: int, ops: list[Op], input_type: str = "real", head: bool = False) -> PackedModel:
    """A network of grey images whose output is the result of the last op."""
    shape = (1, side, side)
    draft = Graph("x", shape, tuple(ops), (), input_type)  # type: ignore[arg-type]
    value = draft.shapes(side, side)[ops[-1].result]
    output = Output.of_flat("", ops[-1].result, value.numbers)
    graph = Graph("x", shape, tuple(ops), (output,), input_type)  # type: ignore[arg-type]
    how = Preprocess(side, mode="L", mean=(0.0,), std=(1.0,))
    return PackedModel(graph, how, head=Classification() if head else None)


def op(kind: str, inputs: str, result: str, **attributes: Any) -> Op:
    written = {"bits": result} if kind == "max_pool_bits" else {"real": result}
    return Op(f"to {result}", kind, tuple(inputs.split()), attributes=attributes, **written)  # type: ignore[arg-type]


def doubling() -> PackedModel:
    return packed(1, [op("concat", f"{i or 'x'} {i or 'x'}", str(i + 1)) for i in range(25)])


def border_classes(side: int) -> PackedModel:
    """As many kinds of border as a window has taps, each of which counts all of its taps."""
    sums = Op("p", "adaptive_avg_pool", ("x",), bits="b", attributes={"size": (side, side)})
    window = {"kernel": (side, side), "stride": (1, 1), "padding": (side - 1,) * 2, "dilation": (1, 1), "groups": 1}
    weight = np.zeros((1, side * side // 64), np.uint64)
    conv = Op("c", "binary_conv", ("b",), "y", attributes={**window, "channels": 1}, tensors={"weight": weight})
    return packed(1, [sums, conv, op("adaptive_avg_pool", "y", "z", size=(1, 1))])


def large_windows() -> PackedModel:
    side = 1000
    window = {"kernel": (side // 2 + 1,) * 2, "stride": (1, 1), "padding": (side // 4,) * 2, "dilation": (1, 1)}
    pool = op("max_pool", "u", "y", **window, ceil_mode=False)
    ends = op("adaptive_avg_pool", "x", "u", size=(side, side)), op("adaptive_avg_pool", "y", "z", size=(1, 1))
    return packed(1, [ends[0], pool, ends[1]])


WINDOW: dict[str, Any] = {"kernel": (1, 1), "stride": (1, 1), "padding": (0, 0), "dilation": (1, 1)}
HOSTILE: dict[str, Callable[[], PackedModel]] = {
    "a channel for each of 32 bytes": lambda: packed(1, [op("match_channels", "x", "y", channels=64_000_000)]),
    "25 concatenations": doubling,
    "windows of 256 x 256": lambda: border_classes(256),
    "windows of 512 x 512": lambda: border_classes(512),
    "a pool of windows of 501 x 501": large_windows,
    "a picture of 5,600 x 5,600": lambda: packed(5_600, [op("adaptive_avg_pool", "x", "y", size=(1, 1))]),
    "32 million classes": lambda: packed(1, [op("match_channels", "x", "y", channels=32_000_000)], head=True),
    "a product of large maps": lambda: packed(
        1,
        [
            op("adaptive_avg_pool", "x", "a", size=(9000, 9000)),
            op("multiply", "a a", "b"),
            op("multiply", "b a", "c"),
        ],
    ),
    "a channel for each group": lambda: packed(
        1,
        [
            op("match_channels", "x", "a", channels=2_000_000),
            op("max_pool", "a", "b", **WINDOW, ceil_mode=False),
            op("match_channels", "b", "c", channels=1),
        ],
    ),
    "a wide padding": lambda: packed(
        1,
        [
            op("max_pool", "x", "a", **{**WINDOW, "kernel": (65535, 65535), "padding": (32767, 32767)}, ceil_mode=True),
            op("adaptive_avg_pool", "a", "b", size=(1, 1)),
        ],
    ),
    "a chain of large values": lambda: packed(
        1,
        [
            op("match_channels", "x", "0", channels=10_000),
            *(op("unary", f"{i}", f"{i + 1}", function="gelu") for i in range(150)),
        ],
    ),
    "a map of a billion pixels": lambda: packed(
        1, [op("adaptive_avg_pool", "x", "y", size=(32_000, 32_000)), op("adaptive_avg_pool", "y", "z", size=(1, 1))]
    ),
    "a map of one column": lambda: packed(
        1, [op("adaptive_avg_pool", "x", "y", size=(65_535, 1)), op("match_channels", "y", "z", channels=30_000)]
    ),
    "twenty maps alive": lambda: packed(
        1,
        [
            *(op("adaptive_avg_pool", "x", f"m{i}", size=(1000, 1000)) for i in range(20)),
            op("concat", " ".join(f"m{i}" for i in range(20)), "all"),
            op("adaptive_avg_pool", "all", "z", size=(1, 1)),
        ],
    ),
}

CHILD = """
import json, resource, sys, time
import numpy as np, bbg
from bbg.engine import Engine
bbg.zoo.names()
began, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
told = None
try:
    engine = bbg.load(sys.argv[1], threads=1)
    image = np.zeros((engine.input_shape[1], engine.input_shape[2]), np.uint8)
    engine.predict(image) if engine.head else engine(engine.preprocess.apply(image)[None])
except bbg.BbgError as error:
    told = str(error)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps([time.process_time() - began, 1024 * (peak - before), told]))
"""


@pytest.mark.parametrize("case", HOSTILE)
def test_a_small_file_takes_little_or_is_refused(case: str, tmp_path: Path) -> None:
    file = tmp_path / "hostile.bbg"
    assert write(file, HOSTILE[case]()) < 40_000
    done = subprocess.run([sys.executable, "-c", CHILD, file], capture_output=True, text=True, check=True, timeout=60)
    seconds, taken, told = json.loads(done.stdout)
    assert seconds < costly.SECONDS
    assert taken < costly.BYTES
    if told is not None:
        assert "limits." in told
        assert "if you trust the file, load it with limits=bbg.Limits(" in told


def test_any_small_file_takes_little_or_is_refused() -> None:
    """100 of the files of `python -m support.costly 10000`; some of them are answered, and some are over a limit."""
    tally, _, _ = costly.run(100)
    assert tally.keys() >= {"answered", "limits"}


def test_a_plan_takes_time_in_proportion_to_the_ops(tmp_path: Path) -> None:
    """38,000 ops took 20 s: each op was compared with each."""
    count = 20_000
    chain = [op("pointwise", str(i - 1) if i else "x", str(i)) for i in range(count)]
    alive = [op("pointwise", "x", f"v{i}") for i in range(count)]
    for ops in (chain, [*alive, op("concat", " ".join(f"v{i}" for i in range(count)), "y")]):
        write(tmp_path / "many.bbg", packed(1, ops))
        done = subprocess.run(
            [sys.executable, "-c", CHILD, tmp_path / "many.bbg"], capture_output=True, text=True, check=True, timeout=60
        )
        seconds, _, told = json.loads(done.stdout)
        assert told is None
        assert seconds < 10


def test_limits_are_told_and_can_be_raised() -> None:
    large = packed(1, [op("match_channels", "x", "y", channels=300_000)])
    with pytest.raises(BbgError, match=r"tables take \d+ bytes of memory; limits.memory allows 67108864; if you trust"):
        Engine(large)
    assert Engine(large, limits=Limits(memory=2**30))(np.zeros((1, 1, 1, 1), np.float32)).shape == (1, 300_000)  # type: ignore[union-attr]
    small = packed(64, [op("adaptive_avg_pool", "x", "y", size=(1, 1))])
    with pytest.raises(BbgError, match=r"an image takes \d+ operations; limits.operations allows 100"):
        Engine(small, limits=Limits(operations=100))
    with pytest.raises(BbgError, match=r"memory than the 40000 bytes that limits.memory allows"):
        Engine(small, limits=Limits(memory=40_000))


def test_the_command_line_lifts_the_limits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, photo = tmp_path / "large.bbg", tmp_path / "photo.png"
    write(file, packed(1, [op("match_channels", "x", "y", channels=300_000)], head=True))
    Image.new("L", (1, 1)).save(photo)
    for words in (["predict", f"{photo}", "--model", f"{file}"], ["bench", f"{file}", "--seconds", "0.01"]):
        with pytest.raises(SystemExit) as end:
            cli.main(words)
        assert end.value.code == 2
        assert "with --no-limits on the command line" in capsys.readouterr().err
        cli.main([*words, "--no-limits"])
        assert capsys.readouterr().out


@pytest.mark.parametrize("bad", [0, -1, 2.5, "1GB", True, 2**63])
def test_limits_are_positive_integers(bad: Any) -> None:
    for name in ("memory", "operations"):
        with pytest.raises(BbgError, match=f"limits: {name} is "):
            Limits(**{name: bad})
    with pytest.raises(BbgError, match=r"limits is a int; give a bbg.Limits or None"):
        bbg.load("resnet20-cifar10", limits=5)  # type: ignore[arg-type]


def test_an_honest_network_stays_far_below() -> None:
    """The zoo's network fits a tenth of what its size allows."""
    model = read(bbg.zoo.path("resnet20-cifar10"))
    weights = sum(tensor.nbytes for each in model.graph.ops for tensor in each.tensors.values())
    memory, operations = Limits().of(weights)
    Engine(model, limits=Limits(memory // 10, operations // 10))
