"""Whole networks in 8 bits, beside the other runtimes in int8 and OpenVINO as it comes, on one thread.

    python -m bench.eight_bits [--networks resnet8 resnet50] [--rounds 20] [--out FILE.json]

Real-valued networks with random weights, converted without training: by bbg, by the quantizer of ONNX Runtime (for it
and OpenVINO), and by that of LiteRT. OpenVINO's default is the precision that it picks itself: bfloat16 where the CPU
has it. A second group is held to AVX2 and a third, where the CPU has AMX, to AVX-512 with VNNI. A CPU with AVX2 and no
VNNI is held to nothing, and OpenVINO runs with 7-bit weights too. bbg gets the bytes of the image, the others the
normalised tensor. Where bbg has the network, its twin of 1 bit (8-bit edges) stands beside it.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path
from typing import Any

import torch
import torchvision

import bbg
from bench.markdown import MEDIAN, MIN, RATIOS, not_measured, plain, table
from bench.networks import CALIBRATION, build, entry_of, export, normalised, pack, random_bytes, settled
from bench.record import Result, parser_of, run
from bench.runtimes import Entrant, compare, has_amx, has_avx2, has_vnni

TITLE = "Whole networks in 8 bits"
OWN = ("resnet8", "resnet20", "resnet18_cifar")
FOREIGN = (
    "resnet18",
    "resnet50",
    "mobilenet_v2",
    "mobilenet_v3_large",
    "efficientnet_b0",
    "squeezenet1_1",
    "shufflenet_v2_x1_0",
)
FREE = (
    Entrant("bbg", "8 bits"),
    Entrant("OpenVINO", "int8"),
    Entrant("OpenVINO", "default"),
    Entrant("ONNX Runtime", "int8"),
    Entrant("LiteRT", "int8"),
)
NO_AMX = (
    Entrant("bbg", "8 bits", "avx512"),
    *(Entrant("OpenVINO", p, "AVX512_CORE_VNNI") for p in ("int8", "default")),
)
HELD = (
    Entrant("bbg", "8 bits", "AVX2"),
    Entrant("OpenVINO", "int8, 7-bit weights", "AVX2"),
    Entrant("OpenVINO", "float32", "AVX2"),
)
ONE_BIT = (*OWN, "resnet18")
LEAST = 0.3  # correlation with torch that is asked for: random weights do not quantise well, which changes no time


def unheld() -> tuple[Entrant, ...]:
    """What runs with all instructions of this CPU."""
    return (*FREE, Entrant("OpenVINO", "int8, 7-bit weights")) if has_avx2() and not has_vnni() else FREE


def prepare(name: str, folder: Path) -> None:
    """The files of all runtimes."""
    entry = entry_of(name)
    if name in OWN:
        network = build(name, "float")
    else:
        torch.manual_seed(0)
        network = settled(torchvision.models.get_model(name), entry)
    example = torch.from_numpy(normalised(entry, random_bytes(entry, 4, seed=2)))
    bbg.convert(network, folder / f"{name}.bbg", example, edges="int8", preprocess=entry.preset)
    if name in ONE_BIT:
        pack(name, folder / f"{name}.1 bit.bbg")
    images = normalised(entry, random_bytes(entry, CALIBRATION, seed=3))
    export(network, name, normalised(entry, random_bytes(entry)), images, folder)


def rows(arguments: argparse.Namespace) -> Result:
    """A row per network and entrant."""
    result: Result = {"batch": 1, "threads": 1, "absent": [], "eight_bits": []}
    groups = [unheld(), *[NO_AMX] * has_amx(), *[HELD] * (has_avx2() and has_vnni())]
    for name in arguments.networks:
        with tempfile.TemporaryDirectory() as place:
            prepare(name, Path(place))
            for entrants in groups:
                ours = Entrant("bbg", "1 bit", entrants[0].held_to)
                entrants = (*entrants, ours) if name in ONE_BIT else entrants
                found, absent = compare(name, 1, entrants, arguments.rounds, Path(place), LEAST)
                result["eight_bits"] += found
                result["absent"] += absent
                print(table(found, plain("network"), plain("runtime"), plain("precision"), MIN, *RATIOS), flush=True)
    return result


def fastest(result: Result) -> dict[str, float]:
    """By network: the least time of the fastest peer that nobody held, over that of bbg."""
    free = [row for row in result["eight_bits"] if row["held_to"] is None and row["runtime"] != "bbg"]
    return {
        n: min(r["ratio_of_min"] for r in free if r["network"] == n) for n in dict.fromkeys(r["network"] for r in free)
    }


def render(result: Result) -> str:
    """A row per entrant."""
    ratios = fastest(result)
    text = (
        "One image, one thread, random weights; bbg on the bytes of the image. The fastest peer takes "
        f"{statistics.median(ratios.values()):.2f} times bbg's time in the median of the networks, and "
        f"{min(ratios.values()):.2f} times in the least."
    )
    columns: list[Any] = [plain("network"), ("held to", lambda r: r["held_to"] or ""), plain("runtime")]
    found = table(result["eight_bits"], *columns, plain("precision"), MIN, MEDIAN, *RATIOS)
    return f"{text}\n\n{found}{not_measured(result['absent'])}"


if __name__ == "__main__":
    parser = parser_of("eight_bits", __doc__, rounds=20)
    parser.add_argument("--networks", nargs="+", choices=[*OWN, *FOREIGN], default=[*OWN, *FOREIGN])
    run(parser, rows, ("torch", "torchvision", "onnxruntime", "openvino", "numpy"))
