"""The share of the roofline that each block of a kernel and each layer reaches; tests/native/speed.json records it.

    python -m bench.kernel_shares [--tries 20] [--out tests/native/speed.json]

A share is a ratio of two speeds measured in one process, a moment apart. A block is one instantiation of a kernel: a
way of counting, vectors of filters, pixels. Its layer consists of such blocks alone. AVX2's loop is the classic one,
which its table kernel ("nibbles") exceeds.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import NamedTuple

from bbg import _native
from bbg.engine import kernel_sets
from bench.binary_layers import Timed
from bench.record import ROOT, Result, machine
from cases.convolutions import LAYERS, Case, Layer

SHARES = ROOT / "tests" / "native" / "speed.json"
SAME_BITS = {"amx": "avx512"}  # sets whose kernels of bits are those of another set, compiled once more
LANES = {"amx": 16, "avx512": 16, "avx2": 8, "neon": 8, "scalar": 8}
FILTERS = 32  # in a vector of the table kernel, whatever the lanes
CALLS = 60  # of a layer in one try


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
    """The best of a layer and of the roofline so far, on the kernel set that BBG_ISA names."""

    def __init__(self, kernel_set: str, layer: Layer, form: str) -> None:
        self._set = kernel_set
        self._layer = Timed(layer.case, form, layer.images)
        if self._layer.engine.kernels != kernel_set:
            raise ValueError(f"{kernel_set} is measured where BBG_ISA names it, not {self._layer.engine.kernels}")
        self._kernel = self._roofline = 0.0

    def measure(self) -> float:
        """The share, after one more try."""
        self._roofline = max(self._roofline, _native.roofline(self._set))
        seconds = min(self._layer.seconds() for _ in range(max(3, CALLS // self._layer.images)))
        self._kernel = max(self._kernel, 1e-9 * self._layer.macs / seconds)
        return self._kernel / self._roofline

    def best(self, tries: int) -> float:
        """The share after so many tries, with two digits."""
        return round(max(self.measure() for _ in range(tries)), 2)


def block_share(block: Block) -> Share:
    """The share of a block, whose sums end in thresholds."""
    return Share(block.kernel_set, Layer("block", block.case), "bits")


def layer_share(kernel_set: str, layer: Layer) -> Share:
    """The share of a layer with the whole epilogue of a unit."""
    return Share(kernel_set, layer, "unit")


def blocks(recorded: Result, kernel_set: str) -> list[tuple[Block, float]]:
    """Every block of a set with its recorded share."""
    return [
        (Block(kernel_set, row["counting"], row["vectors"], pixels), share)
        for row in recorded["blocks"].get(SAME_BITS.get(kernel_set, kernel_set), ())
        for pixels, share in zip(row["pixels"], row["shares"], strict=True)
    ]


def layers(recorded: Result, kernel_set: str) -> list[tuple[Layer, float]]:
    """Every layer that a set has a recorded share of."""
    shares = recorded["layers"].get(SAME_BITS.get(kernel_set, kernel_set), {})
    return [(layer, shares[str(layer)]) for layer in LAYERS if shares]


def text(recorded: Result) -> str:
    """The JSON of a record, a row in a line."""

    def lines(rows: list[str]) -> str:
        return ",\n      ".join(rows)

    def member(name: str, sets: dict[str, str]) -> str:
        inner = ",\n    ".join(f'"{kernel_set}": {value}' for kernel_set, value in sets.items())
        return f'"{name}": {{\n    {inner}\n  }}'

    members = [f'"{key}": {json.dumps(value)}' for key, value in recorded.items() if key not in ("blocks", "layers")]
    of_blocks = {
        kernel_set: f"[\n      {lines([json.dumps(row) for row in rows])}\n    ]"
        for kernel_set, rows in recorded["blocks"].items()
    }
    of_layers = {
        kernel_set: f"{{\n      {lines([f'{json.dumps(k)}: {v}' for k, v in shares.items()])}\n    }}"
        for kernel_set, shares in recorded["layers"].items()
    }
    members += [member("blocks", of_blocks), member("layers", of_layers)]
    return "{\n  " + ",\n  ".join(members) + "\n}\n"


def main() -> None:
    """Measure what the record lists anew, for the kernel sets of this machine; those of other machines stay."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tries", type=int, default=20)
    parser.add_argument("--out", type=Path, default=SHARES)
    arguments = parser.parse_args()
    recorded = json.loads(SHARES.read_text(encoding="utf-8"))
    facts = machine()
    recorded |= {key: facts[key] for key in ("date", "commit", "cpu", "cpu_family_model")}
    for kernel_set in [s.name for s in kernel_sets() if s.supported and s.name not in SAME_BITS]:
        os.environ["BBG_ISA"] = kernel_set
        for row in recorded["blocks"].get(kernel_set, ()):
            own = [Block(kernel_set, row["counting"], row["vectors"], pixels) for pixels in row["pixels"]]
            row["shares"] = [block_share(block).best(arguments.tries) for block in own]
        for layer, _ in layers(recorded, kernel_set):
            recorded["layers"][kernel_set][str(layer)] = layer_share(kernel_set, layer).best(arguments.tries)
    arguments.out.write_text(text(recorded), encoding="utf-8")


if __name__ == "__main__":
    main()
