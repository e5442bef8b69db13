"""SSD300-VGG16: packed, beside its real-valued twin in other runtimes; its bytes; the time of its boxes.

    python -m bench.ssd300 [--rounds 20] [--runtimes OpenVINO LiteRT] [--out FILE.json]

One image of 300 x 300 at a time, 20 classes, on one thread; random weights, which change no time. All runtimes take
turns (runtimes.py). The packed network stands there twice: its real-valued layers in 8 bits, and in float32. OpenVINO
runs the twin quantised, its convolutions seen to run in int8, and in float32, forced to it.

Decoding and suppression (`head.decide`) are timed beside the packed network, in one process, on outputs of four kinds:
a dozen objects of a sure detector, a hundred, the same dozen where all that is likelier than 1 % is asked for, as
scoring does, and noise, in which every prior is a candidate.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import bbg
from bbg.boxes import corners, count, encode, iou, priors
from bbg.graph.breakdown import byte_breakdown
from bbg.graph.file import read
from bbg.heads import Detection
from bench.markdown import MEDIAN, MIN, figure, not_measured, number, plain, table
from bench.measure import durations, spread
from bench.networks import CALIBRATION, VOC, Joined, build, export, normalised, pack, random_bytes
from bench.record import Result, parser_of, run
from bench.runtimes import Entrant, compare

TITLE = "SSD300-VGG16"
NETWORK = "ssd300_vgg16"
OURS = (Entrant("bbg", "int8"), Entrant("bbg", "fp32"))
PEERS = (
    Entrant("OpenVINO", "int8"),
    Entrant("OpenVINO", "float32"),
    Entrant("ONNX Runtime", "int8"),
    Entrant("LiteRT", "int8"),
    Entrant("LiteRT", "float32"),
)
LEAST = 0.3  # correlation with torch that is asked for: random weights do not quantise well, which changes no time
# What was asked for: times OpenVINO's time over ours, by the precision of our heads.
ASKED = {("int8", "int8"): 3.5, ("int8", "float32"): 13.0, ("fp32", "int8"): 2.2, ("fp32", "float32"): 8.0}
SECONDS = 0.2  # of one turn of the boxes


class Scene(NamedTuple):
    """What a detector saw: `objects`, or None, noise; the least score that is asked for."""

    objects: int | None
    score: float


SCENES = {
    "12 objects": Scene(12, 0.5),
    "100 objects": Scene(100, 0.5),
    "12 objects, from 1 % on": Scene(12, 0.01),
    "noise": Scene(None, 0.5),
}


def outputs_of(head: Detection, classes: int, scene: Scene, seed: int = 0) -> dict[str, np.ndarray]:
    """Outputs as a trained detector makes them of a scene.

    Priors that overlap with an object 0.6 times as much as its best one, or more, have its box, with errors. From 0.85
    times on its class is likelier than the background. All others are background, `e^9` times as likely as any class.
    """
    draws, all_priors = np.random.default_rng(seed), priors(head.levels)
    number = count(head.levels)
    offsets = draws.normal(0, 0.5, (number, 4))
    logits = draws.normal(0, 1, (number, 1 + classes))
    if scene.objects is None:
        logits *= 3  # some class is likelier than all others together, in half of the priors
    else:
        logits[:, 0] += 9
        corner = draws.uniform(0, 0.7, (scene.objects, 2))
        truth = np.concatenate((corner, np.minimum(corner + draws.uniform(0.05, 0.4, corner.shape), 1)), 1)
        for box, overlaps in zip(truth, iou(truth, corners(all_priors)), strict=True):
            share = overlaps / overlaps.max()
            near = np.flatnonzero(share > 0.6)
            offsets[near] = encode(box[None], all_priors[near]) + draws.normal(0, 0.3, (len(near), 4))
            logits[near, draws.integers(1, 1 + classes)] = logits[near, 0] + 20 * (share[near] - 0.85)
    return {"boxes": offsets[None].astype(np.float32), "scores": logits[None].astype(np.float32)}


def prepare(folder: Path, peers: tuple[Entrant, ...]) -> float:
    """The files of all runtimes; the bytes of the twin's numbers in float32."""
    entry = VOC[NETWORK]
    for ours in OURS:
        pack(NETWORK, folder / f"{NETWORK}.{ours.precision}.bbg", ours.precision)
    twin = build(NETWORK, "float")
    if peers:
        images = normalised(entry, random_bytes(entry, CALIBRATION, seed=3))
        export(Joined(twin).eval(), NETWORK, normalised(entry, random_bytes(entry)), images, folder)
    return 4 * sum(p.numel() for p in twin.parameters())


def rows(arguments: argparse.Namespace) -> Result:
    """A row per entrant; the bytes of both files; a row per kind of outputs and heads."""
    peers = tuple(entrant for entrant in PEERS if entrant.runtime in arguments.runtimes)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        twin_bytes = prepare(folder, peers)
        found, absent = compare(NETWORK, 1, (*OURS, *peers), arguments.rounds, folder, LEAST)
        files = {ours.precision: folder / f"{NETWORK}.{ours.precision}.bbg" for ours in OURS}
        sizes = [
            {"heads": heads, "bytes": path.stat().st_size, "parts": [i._asdict() for i in byte_breakdown(read(path))]}
            for heads, path in files.items()
        ]
        deciding = decided(files, arguments.rounds)
    return {
        "batch": 1, "threads": 1, "twin_bytes": twin_bytes, "absent": absent, "ssd300": found, "sizes": sizes,
        "deciding": deciding,
    }  # fmt: skip


def decided(files: dict[str, Path], rounds: int) -> list[Result]:
    """The time of `head.decide` on each kind of outputs, and of the network in the same turns, for each kind of heads.

    The outputs follow a run of the network each, so that the caches hold what they hold behind it.
    """
    found = []
    for heads, path in files.items():
        engine = bbg.load(path, threads=1)
        head = engine.head
        assert isinstance(head, Detection)
        image = random_bytes(VOC[NETWORK])
        scenes = {name: outputs_of(head, VOC[NETWORK].classes, scene) for name, scene in SCENES.items()}
        times: dict[str, list[float]] = {"network": [], **{name: [] for name in scenes}}

        def behind(name: str, engine: Any = engine, head: Any = head, image: Any = image, made: Any = scenes) -> float:
            engine(image)
            began = time.perf_counter()
            head.decide(made[name], SCENES[name].score)
            return time.perf_counter() - began

        for _ in range(rounds):
            times["network"] += durations(partial(engine, image), SECONDS, warm=1)
            for name in scenes:
                times[name] += durations(partial(behind, name), SECONDS, warm=1)
        network = spread(times["network"])
        for name, outputs in scenes.items():
            own = spread(times[name])
            boxes = len(head.decide(outputs, SCENES[name].score)[0].scores)
            share = own["median_us"] / (own["median_us"] + network["median_us"])
            found.append(
                {"heads": heads, "scene": name, "boxes": boxes, **own, "network_median_us": network["median_us"]}
                | {"share": share}
            )
    return found


def ratios(result: Result) -> list[Result]:
    """A row per peer and kind of our heads: how many times our time it takes, and what was asked."""
    own = {r["precision"]: r for r in result["ssd300"] if r["runtime"] == "bbg"}
    return [
        {
            "heads": heads,
            "peer": f"{r['runtime']}, {r['precision']}",
            "min": r["min_us"] / mine["min_us"],
            "median": r["median_us"] / mine["median_us"],
            "asked": ASKED.get((heads, r["precision"])) if r["runtime"] == "OpenVINO" else None,
        }
        for heads, mine in own.items()
        for r in result["ssd300"]
        if r["runtime"] != "bbg"
    ]


def render(result: Result) -> str:
    """Times, ratios, bytes, and the boxes."""
    times = table(result["ssd300"], plain("runtime"), plain("precision"), MIN, MEDIAN)
    compared = table(
        ratios(result),
        plain("heads", "our heads"),
        plain("peer"),
        figure("min", "times ours, of min"),
        figure("median", "of median"),
        figure("asked", "asked for"),
    )
    whole = result["twin_bytes"]
    sizes = [
        {"heads": size["heads"], **part} for size in result["sizes"] for part in (*size["parts"], all_of(size, whole))
    ]
    deciding = table(
        result["deciding"],
        plain("heads", "heads"),
        plain("scene", "outputs of"),
        plain("boxes"),
        MIN,
        MEDIAN,
        figure("network_median_us", "network, median"),
        ("share of both", lambda r: f"{100 * r['share']:.1f} %"),
    )
    bytes_ = table(
        sizes,
        plain("heads"),
        plain("name", "part"),
        ("bytes", lambda r: f"{r['bytes']:,}"),
        ("smaller than float32", lambda r: f"{r['smaller']:.1f} times" if "smaller" in r else ""),
    )
    return (
        "One image of 300x300, one thread, random weights, 20 classes. The others run the real-valued twin.\n\n"
        f"{times}{not_measured(result['absent'])}\n\n{compared}\n\n"
        f"Bytes of the files; the twin's numbers take {number(whole / 1e6)} MB in float32.\n\n{bytes_}\n\n"
        "Decoding and suppression, behind a run of the network, on outputs made like those of a trained detector.\n\n"
        f"{deciding}"
    )


def all_of(size: Result, whole: float) -> Result:
    """The row of a whole file."""
    return {"name": "all", "bytes": size["bytes"], "smaller": whole / size["bytes"]}


if __name__ == "__main__":
    parser = parser_of("ssd300", __doc__, rounds=20)
    names = list(dict.fromkeys(entrant.runtime for entrant in PEERS))
    parser.add_argument("--runtimes", nargs="*", choices=names, default=names, help="the peers; default: all")
    run(parser, rows, ("torch", "onnxruntime", "openvino", "numpy"))
