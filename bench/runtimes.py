"""Packed networks beside their real-valued twins in other runtimes, one image at a time, on one thread and on two.

    python -m bench.runtimes [--networks resnet20 resnet18] [--threads 1 2] [--rounds 30] [--out FILE.json]

bbg gets the bytes of the image, so that normalising (and quantising) them is in its time; the others get the normalised
float32 tensor, bound beforehand. Every runtime has a process of its own and they take turns (interleave.py);
networks.py says what the twins are, runtime_process.py how each is set. A second group is held to AVX2, bbg and
OpenVINO alike.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from bbg import style
from bbg.engine import kernel_sets
from bbg.files import write_bytes
from bench import litert
from bench.interleave import Runner, pooled, run_interleaved
from bench.markdown import MEDIAN, MIN, RATIOS, not_measured, number, plain, table
from bench.measure import spread
from bench.networks import AVAILABLE, NETWORKS, pack, twin
from bench.record import Result, machine, parser_of, run

TITLE = "Networks in other runtimes"
PLOT = "bench.svg"


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
    Entrant("OpenVINO", "default"),
    Entrant("OpenVINO", "float32"),
    Entrant("ONNX Runtime", "int8"),
    Entrant("ONNX Runtime", "float32"),
    Entrant("LiteRT", "int8"),
    Entrant("LiteRT", "float32"),
    Entrant("torch", "float32"),
)
HELD = (
    Entrant("bbg", "1 bit", "AVX2"),
    Entrant("OpenVINO", "int8", "AVX2_VNNI"),
    Entrant("OpenVINO", "int8, 7-bit weights", "AVX2"),
    Entrant("OpenVINO", "float32", "AVX2"),
)


def has_avx2() -> bool:
    """Whether bbg can run on its AVX2 kernels here."""
    return any(s.name == "avx2" and s.supported for s in kernel_sets())


def has_amx() -> bool:
    """Whether the CPU multiplies bytes by tiles."""
    return "amx_int8" in _flags()


def has_vnni() -> bool:
    """Whether the CPU adds up products of four bytes at once."""
    return not {"avx512_vnni", "avx_vnni", "asimddp"}.isdisjoint(_flags())


def _flags() -> list[str]:
    cpu = Path("/proc/cpuinfo")
    return cpu.read_text().split() if cpu.exists() else []


def compare(
    network: str, threads: int, entrants: tuple[Entrant, ...], rounds: int, folder: Path, least: float | None = None
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """A row per entrant, the first being what the ratios refer to, and those that could not run.

    `least`: the correlation with torch's output that is asked for, in place of what each precision allows.
    """
    runners: dict[Entrant, Runner] = {}
    absent = []
    for entrant in entrants:
        command = ["-m", "bench.runtime_process", entrant.runtime, entrant.precision]
        command += [network, str(threads), str(folder.resolve()), *([] if least is None else [str(least)])]
        try:
            command = [litert.python() if entrant.runtime == "LiteRT" else sys.executable, *command]
            runners[entrant] = Runner(command, **entrant.environment)
        except RuntimeError as error:
            if entrant.runtime == "bbg":
                raise
            absent.append({"network": network, "threads": threads, **entrant._asdict(), "reason": str(error)})
    try:
        times = pooled(run_interleaved({str(e): r for e, r in runners.items()}, rounds))
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
            "bytes": runners[entrant].facts.get("bytes"),
            **({"accuracy": facts["accuracy"]} if "accuracy" in (facts := runners[entrant].facts) else {}),
        }
        for entrant, figure in figures.items()
    ]
    return rows, absent


def rows(arguments: argparse.Namespace) -> Result:
    """A row per network, number of threads and entrant."""
    result: Result = {"batch": 1, "absent": [], "networks": []}
    groups = [FREE] + [HELD] * has_avx2()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for network in arguments.networks:
            pack(network, folder / f"{network}.bbg")
            twin(network, folder)
            for threads in [t for t in arguments.threads if t <= machine()["cores"]]:
                for entrants in groups:
                    rows, absent = compare(network, threads, entrants, arguments.rounds, folder)
                    result["networks"] += rows
                    result["absent"] += absent
    missing = [name for name in NETWORKS if name not in AVAILABLE]
    if missing:
        print(f"not in this version of bbg: {', '.join(missing)}")
    return result


def drawn(result: Result) -> list[Result]:
    """What the plot shows: one thread, nobody held to anything."""
    return [r for r in result["networks"] if r["threads"] == 1 and r["held_to"] is None]


def render(result: Result) -> str:
    """A row per entrant."""
    text = (
        "One image at a time, random weights; the others run the real-valued twin. What is held to AVX2 is "
        "compared with bbg on AVX2. OpenVINO's and ONNX Runtime's int8 convolutions were seen to run in int8."
    )
    plot = f"![Time of a network in each runtime]({PLOT})\n\n" if drawn(result) else ""
    rows = table(
        result["networks"],
        plain("network"),
        plain("threads"),
        plain("runtime"),
        plain("precision"),
        ("held to", lambda r: r["held_to"] or ""),
        MIN,
        MEDIAN,
        *RATIOS,
    )
    return f"{text}\n\n{plot}{rows}{not_measured(result['absent'])}"


def draw(result: Result, folder: Path) -> None:
    """Bars of the least times, the fastest first, one panel per network and two panels beside each other."""
    rows = drawn(result)
    if not rows:
        return
    networks = list(dict.fromkeys(r["network"] for r in rows))
    most = max(sum(r["network"] == network for r in rows) for network in networks)
    lines = -(-len(networks) // 2)
    with style.applied():
        figure = style.figure(10, lines * (0.3 * most + 1.0) + 0.8)
        axes = figure.subplots(lines, 2, squeeze=False).flatten()
        for axis, network in zip(axes, networks, strict=False):
            own = sorted((r for r in rows if r["network"] == network), key=lambda r: r["min_us"])
            bits = [r["runtime"] == "bbg" for r in own]
            colours = [style.GREEN if bit else style.PALE for bit in bits]
            axis.barh(range(len(own)), [r["min_us"] for r in own], color=colours, height=0.7)
            for y, (r, bit) in enumerate(zip(own, bits, strict=True)):
                text = f"{number(r['min_us'])} µs" + ("" if bit else f"  ({r['ratio_of_min']:.1f} times)")
                axis.annotate(text, (r["min_us"], y), (4, 0), textcoords="offset points", va="center", fontsize=9)
            names = [
                "bbg, 1 bit" if bit else f"{r['runtime']}, {r['precision']}" for r, bit in zip(own, bits, strict=True)
            ]
            axis.set_yticks(range(len(own)), names, fontsize=9)
            axis.set(title=network, xticks=[], xlim=(0, 1.45 * max(r["min_us"] for r in own)))
            axis.set_ylim(most - 0.4, -0.6)
            axis.spines[["left", "bottom"]].set_visible(False)
        for axis in axes[len(networks) :]:
            axis.set_visible(False)
        title = "One image on one thread: bbg at 1 bit, and the real-valued twin in other runtimes"
        figure.suptitle(title, x=0.012, ha="left", fontsize=12, fontweight="bold")
        write_bytes(folder / PLOT, style.svg(figure))


if __name__ == "__main__":
    parser = parser_of("runtimes", __doc__, rounds=30)
    parser.add_argument("--networks", nargs="+", choices=AVAILABLE, default=AVAILABLE)
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    run(parser, rows, ("torch", "onnxruntime", "openvino", "numpy"))
