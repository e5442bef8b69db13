"""No kernel falls below half of its share of the roofline loop, measured in the same process a moment before.

A share is a ratio, so another machine or a slow moment moves both sides, and the best of many tries stands, so a busy
core does not trip it either. Every block of filters and pixels that a kernel set compiles has a case: a compiler that
spills the sums of one makes it three times slower and leaves all others alone.

    PYTHONPATH=bench python tests/test_speed.py      # prints the tables as measured here
"""

from __future__ import annotations

import platform
import time
from typing import NamedTuple

import pytest
from kernels import Timed

from bbg import _native
from bbg.engine import kernel_sets
from cases.convolutions import LAYERS, Case, Layer

LANES = {"avx512": 16, "avx2": 8, "neon": 8, "scalar": 8}
FILTERS = 32  # in a vector of the table kernel, whatever the lanes
CALLS = 60  # of a layer in one try
PATIENCE, LEAST_TRIES = 5.0, 20  # seconds and tries until a kernel that stays slow has failed

# Measured on Zen 5, which has the highest roofline for its clock, with g++ 12; NEON has not been measured.
# AVX2's loop is the classic one, which its table kernel ("nibbles") exceeds.
# By kernel set, way of counting and vectors of filters: the share of each number of pixels that `pixels` lists.
BLOCKS = {
    "avx512": {
        ("words", 1): (0.18, 0.3, 0.54, 0.68, 0.71),
        ("words", 2): (0.32, 0.48, 0.66, 0.75, 0.75),
        ("masked", 1): (0.09, 0.13, 0.23, 0.19, 0.26),
        ("masked", 2): (0.14, 0.18, 0.29, 0.25, 0.31),
        ("pairs", 1): (0.06, 0.12, 0.21, 0.2, 0.39),
        ("pairs", 2): (0.09, 0.21, 0.33, 0.32, 0.47),
        ("triples", 1): (0.28, 0.41, 0.73, 0.87, 0.93),
        ("triples", 2): (0.46, 0.64, 0.93, 1.0, 1.04),
    },
    "avx2": {
        ("words", 1): (0.48, 0.6, 0.69),
        ("words", 2): (0.65, 0.74, 0.83),
        ("masked", 1): (0.22, 0.28, 0.31),
        ("masked", 2): (0.29, 0.34, 0.36),
        ("pairs", 1): (0.16, 0.29, 0.39),
        ("pairs", 2): (0.26, 0.49, 0.58),
        ("nibbles", 2): (1.07, 1.24, 1.31),
        ("nibbles", 3): (0.94, 1.07, 1.12),
    },
    "scalar": {
        ("words", 1): (0.22, 0.09, 0.19),
        ("words", 2): (0.3, 0.29, 0.3),
        ("masked", 1): (0.1, 0.04, 0.09),
        ("masked", 2): (0.14, 0.14, 0.14),
    },
}
# By kernel set: the share of each of LAYERS with the whole epilogue of a unit.
UNITS = {
    "avx512": (
        0.86,
        0.98,
        1.02,
        1.01,
        0.86,
        0.96,
        1.0,
        0.38,
        0.56,
        0.66,
        0.24,
        0.47,
        0.98,
        0.96,
        1.04,
        0.98,
        1.03,
        0.26,
        0.54,
        0.32,
        0.88,
    ),
    "avx2": (
        1.27,
        1.41,
        1.43,
        1.4,
        1.31,
        1.38,
        1.43,
        0.59,
        0.69,
        1.13,
        0.32,
        0.97,
        1.4,
        1.39,
        1.47,
        1.4,
        1.44,
        0.47,
        0.94,
        0.88,
        0.84,
    ),
}


class Block(NamedTuple):
    """What one instantiation of a kernel does: a way of counting, vectors of filters, pixels."""

    kernel_set: str
    counting: str
    vectors: int
    pixels: int

    def __str__(self) -> str:
        return f"{self.kernel_set}, {self.counting}, {self.vectors}x{self.pixels}"

    @property
    def case(self) -> Case:
        """A layer that consists of such blocks."""
        outputs = self.vectors * (FILTERS if self.counting == "nibbles" else LANES[self.kernel_set])
        tall = (34, self.pixels + 2)
        return {
            "words": Case(512, outputs, (32, self.pixels), (1, 1), padding=(0, 0)),
            "nibbles": Case(512, outputs, (32, self.pixels), (1, 1), padding=(0, 0)),
            "masked": Case(512, outputs, (32, self.pixels), (1, 1), padding=(0, 0), groups=2),
            "pairs": Case(16, outputs, tall, padding=(0, 0)),
            "triples": Case(128, outputs, tall, padding=(0, 0)),
        }[self.counting]


class Share:
    """The best of a layer and of the roofline so far."""

    def __init__(self, kernel_set: str, layer: Layer, form: str) -> None:
        self._set = kernel_set
        self._layer = Timed(layer.case, form, layer.images)
        assert self._layer.engine.kernels == kernel_set
        self._kernel = self._roofline = 0.0

    def measure(self) -> float:
        """The share, after one more try."""
        self._roofline = max(self._roofline, _native.roofline(self._set))
        seconds = min(self._layer.seconds() for _ in range(max(3, CALLS // self._layer.images)))
        self._kernel = max(self._kernel, 1e-9 * self._layer.macs / seconds)
        return self._kernel / self._roofline

    def reaches(self, least: float) -> None:
        """Fail unless a try gets there."""
        end, tries = time.monotonic() + PATIENCE, 1
        while (reached := self.measure()) < least:
            tries += 1
            if time.monotonic() > end and tries > LEAST_TRIES:
                pytest.fail(f"{reached:.3f} of the roofline, half of the share is {least:.3f}")


def pixels(kernel_set: str, counting: str) -> tuple[int, ...]:
    """The numbers of pixels that this way of counting takes at a time."""
    if kernel_set == "avx512":
        return (1, 2, 4, 7, 8)
    return (2, 3, 4) if counting == "nibbles" else (1, 2, 4)


def blocks(kernel_set: str) -> list[tuple[Block, float]]:
    """Every block of a set with its share."""
    return [
        (Block(kernel_set, counting, vectors, number), share)
        for (counting, vectors), row in BLOCKS[kernel_set].items()
        for number, share in zip(pixels(kernel_set, counting), row, strict=True)
    ]


SUPPORTED = [s.name for s in kernel_sets() if s.supported]
MEASURED = [s for s in SUPPORTED if platform.machine() == "x86_64"]


@pytest.mark.skipif(not MEASURED, reason="no shares for this processor")
@pytest.mark.parametrize(("block", "share"), [pair for s in MEASURED for pair in blocks(s)], ids=str)
def test_a_block_has_half_of_its_share(block: Block, share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BBG_ISA", block.kernel_set)
    Share(block.kernel_set, Layer("block", block.case), "bits").reaches(share / 2)


UNIT_CASES = [(s, *pair) for s in MEASURED if s in UNITS for pair in zip(LAYERS, UNITS[s], strict=True)]


@pytest.mark.parametrize(("kernel_set", "layer", "share"), UNIT_CASES, ids=str)
def test_a_layer_has_half_of_its_share(
    kernel_set: str, layer: Layer, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BBG_ISA", kernel_set)
    Share(kernel_set, layer, "unit").reaches(share / 2)


def test_the_roofline_of_a_set_that_is_not_there_is_an_error() -> None:
    for name in {"sse", *LANES} - set(SUPPORTED):
        with pytest.raises(ValueError, match="no kernel set"):
            _native.roofline(name)


def main(tries: int = 20) -> None:
    """Print the tables as measured now."""
    with pytest.MonkeyPatch.context() as patch:
        for kernel_set in SUPPORTED:
            patch.setenv("BBG_ISA", kernel_set)
            best: dict[tuple[str, int], list[float]] = {}
            for block, _ in blocks(kernel_set):
                share = Share(kernel_set, Layer("block", block.case), "bits")
                row = best.setdefault((block.counting, block.vectors), [])
                row.append(round(max(share.measure() for _ in range(tries)), 2))
            for key, row in best.items():
                print(f'"{kernel_set}", {key}: {tuple(row)},')
            if kernel_set in UNITS:
                units = [Share(kernel_set, layer, "unit") for layer in LAYERS]
                print(f'"{kernel_set}": {tuple(round(max(u.measure() for _ in range(tries)), 2) for u in units)},')


if __name__ == "__main__":
    main()
