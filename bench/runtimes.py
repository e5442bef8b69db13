"""Packed networks beside their real-valued twins in other runtimes, one image at a time, on one thread and on two.

    python bench/peers.py [--networks resnet20 resnet18] [--threads 1 2] [--rounds 30] [--out bench/results/peers.json]

bbg gets the bytes of the image, so that normalising (and quantising) them is in its time; the others get the normalised
float32 tensor, bound beforehand. Every runtime has a process of its own and they take turns (turns.py); networks.py
says what the twins are, runtimes.py how each is set. A second group is held to AVX2, bbg and OpenVINO alike.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from common import finish, machine, options
from networks import AVAILABLE, NETWORKS, pack, twin
from turns import Runner, race, spread

from bbg.engine import kernel_sets

HERE = Path(__file__).parent


class Entrant(NamedTuple):
    """A runtime in one precision, held to an instruction set or not."""

    runtime: str
    precision: str
    held_to: str | None = None

    @property
    def environment(self) -> dict[str, str]:
        """What holds it."""
        if self.held_to is None:
            return {}
        ours = "avx2" if self.held_to.startswith("AVX2") else self.held_to
        return {"BBG_ISA": ours} if self.runtime == "bbg" else {"ONEDNN_MAX_CPU_ISA": self.held_to}


FREE = (
    Entrant("bbg", "1 bit"),
    Entrant("OpenVINO", "int8"),
    Entrant("OpenVINO", "bfloat16"),
    Entrant("OpenVINO", "float32"),
    Entrant("ONNX Runtime", "int8"),
    Entrant("ONNX Runtime", "float32"),
    Entrant("torch", "float32"),
)
HELD = (
    Entrant("bbg", "1 bit", "AVX2"),
    Entrant("OpenVINO", "int8", "AVX2_VNNI"),
    Entrant("OpenVINO", "int8, 7-bit weights", "AVX2"),
    Entrant("OpenVINO", "float32", "AVX2"),
)


def measure(
    network: str, threads: int, entrants: tuple[Entrant, ...], rounds: int, folder: Path, least: float | None = None
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """A row per entrant, the first being what the ratios refer to, and those that could not run.

    `least`: the correlation with torch's output that is asked for, in place of what each precision allows.
    """
    runners: dict[Entrant, Runner] = {}
    absent = []
    for entrant in entrants:
        command = [
            sys.executable,
            str(HERE / "runtimes.py"),
            entrant.runtime,
            entrant.precision,
            network,
            str(threads),
            str(folder),
            *([] if least is None else [str(least)]),
        ]
        try:
            runners[entrant] = Runner(command, **entrant.environment)
        except RuntimeError as error:
            if entrant.runtime == "bbg":
                raise
            absent.append({"network": network, "threads": threads, **entrant._asdict(), "reason": str(error)})
    try:
        times = race({str(e): r for e, r in runners.items()}, rounds)
    finally:
        for runner in runners.values():
            runner.close()
    figures = {entrant: spread(times[str(entrant)]) for entrant in runners}
    base = figures[entrants[0]]
    rows = [
        {
            "network": network,
            "threads": threads,
            **entrant._asdict(),
            **figure,
            "ratio_of_min": figure["min_us"] / base["min_us"],
            "ratio_of_median": figure["median_us"] / base["median_us"],
            "correlation": runners[entrant].facts.get("correlation"),
            "ran": str(runners[entrant].facts["kernels"]),
        }
        for entrant, figure in figures.items()
    ]
    return rows, absent


def main() -> None:
    """The command line."""
    parser = options(__doc__, "peers")
    parser.add_argument("--networks", nargs="+", choices=AVAILABLE, default=AVAILABLE)
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    arguments = parser.parse_args()
    result: dict[str, Any] = {
        **machine(("torch", "onnxruntime", "openvino", "numpy")),
        "batch": 1,
        "rounds": arguments.rounds,
        "absent": [],
        "networks": [],
    }
    groups = [FREE] + [HELD] * any(s.name == "avx2" and s.supported for s in kernel_sets())
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for network in arguments.networks:
            pack(network, folder / f"{network}.bbg")
            twin(network, folder)
            for threads in [t for t in arguments.threads if t <= result["cores"]]:
                for entrants in groups:
                    rows, absent = measure(network, threads, entrants, arguments.rounds, folder)
                    result["networks"] += rows
                    result["absent"] += absent
    missing = [name for name in NETWORKS if name not in AVAILABLE]
    if missing:
        print(f"not in this version of bbg: {', '.join(missing)}")
    finish(result, arguments.out)


if __name__ == "__main__":
    main()
