"""What scoring.py compares with: torchvision's DataLoader in front of other runtimes in int8, on the same cores.

They run the real-valued twin of the same network, rounded to int8 after ranges of the photographs themselves. How many
processes decode, how many threads the runtime has and how many images it gets at a time is tried out for each runtime,
and the best is what counts (`settings`, `best_of`). loader_process.py is one run.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np

from bench.markdown import figure, plain, table
from bench.memory import watched
from bench.networks import CALIBRATION, NETWORKS, build, normalised, pooled, quantize, to_onnx
from bench.record import Result

RUNTIMES = ("OpenVINO", "ONNX Runtime")
PACKAGES = ("torch", "torchvision", "onnxruntime", "openvino")
PRECISION = "int8"
BATCHES = (1, 32)
TRIAL = 400  # images of the run that tells which setting is the best


class Setting(NamedTuple):
    """Processes that decode, threads of the runtime, and images that it gets at a time."""

    loaders: int
    threads: int
    batch: int

    def __str__(self) -> str:
        return f"{self.loaders} loaders, {self.threads} threads, batch {self.batch}"


def settings(cores: int) -> list[Setting]:
    """What is tried: the cores divided between both, all of them for the loaders too, and all of them for each."""
    half = max(1, cores // 2)
    splits = dict.fromkeys([(max(1, cores - half), half), (cores, half), (cores, cores)])
    return [Setting(*split, batch) for split in splits for batch in BATCHES]


def best_of(speeds: Mapping[Setting, float]) -> Setting:
    """The fastest; of equal ones the first."""
    return max(speeds, key=lambda setting: speeds[setting])


def prepare(name: str, found: list[Path], folder: Path) -> None:
    """The int8 twin of the network called `name`, for any number of images, and how they are preprocessed."""
    preprocess = NETWORKS[name].preprocess
    pixels = np.stack([preprocess.apply(found[i % len(found)]) for i in range(CALIBRATION)])
    images = normalised(NETWORKS[name], pixels)
    to_onnx(pooled(build(name, "float")), name, images, folder, any_batch=True)
    quantize(folder / f"{name}.onnx", folder / f"{name}.{PRECISION}.onnx", images, bits=8)
    (folder / f"{name}.json").write_text(json.dumps(preprocess.to_json()), encoding="utf-8")


class Peers:
    """The runtimes, each in the setting that was the best over some of the photographs below `many`.

    `absent`: those that could not run. `turn` runs each of the others once, `rows` tells what came of all turns.
    """

    def __init__(self, name: str, folder: Path, many: Path, images: int, cores: list[int]) -> None:
        self.name, self.folder, self.many, self.images, self.cores = name, folder, many, images, cores
        self.absent: list[dict[str, Any]] = []
        self.trials: dict[str, dict[Setting, float]] = {}
        self.runs: dict[str, list[dict[str, Any]]] = {}
        for runtime in RUNTIMES:
            try:
                found = {one: self._speed(runtime, one, min(TRIAL, images)) for one in settings(len(cores))}
                self.trials[runtime] = {one: run["per_second"] for one, run in found.items()}
                self.runs[runtime] = []
            except RuntimeError as error:
                self.absent.append(
                    {"runtime": runtime, "precision": PRECISION, "network": name, "reason": str(error)},
                )

    def turn(self) -> None:
        """Run each once over all photographs."""
        for runtime, runs in self.runs.items():
            runs.append(self._speed(runtime, best_of(self.trials[runtime]), self.images))

    def rows(self, row: Mapping[str, Any]) -> list[dict[str, Any]]:
        """A row for each runtime, beside the `row` of scoring.py for the same photographs."""
        return [
            {
                "network": self.name,
                "images": self.images,
                "runtime": runtime,
                "precision": PRECISION,
                **best_of(self.trials[runtime])._asdict(),
                "correlation": runs[0]["correlation"],
                "per_second": (speed := median(run["per_second"] for run in runs)),
                "predict_ratio": row["predict_per_second"] / speed,
                "ray_ratio": row["ray_per_second"] / speed,
                "bytes": max(run["bytes"] for run in runs),
                "speeds": [round(run["per_second"], 2) for run in runs],
                "trials": {str(one): round(found, 2) for one, found in self.trials[runtime].items()},
            }
            for runtime, runs in self.runs.items()
        ]

    def _speed(self, runtime: str, setting: Setting, images: int) -> dict[str, Any]:
        report = self.folder / "peer.json"
        allowed = ",".join(map(str, self.cores))
        places = (self.many, self.folder, self.name, report)
        most = watched("-m", "bench.loader_process", runtime, allowed, *setting, images, *places)
        found = json.loads(report.read_text(encoding="utf-8"))
        if found["images"] != images:
            raise RuntimeError(f"it answered for {found['images']} images of {images}")
        speed = images / found["seconds"]
        print(f"{images} images, {runtime}, {setting}: {speed:.1f}", file=sys.stderr, flush=True)
        return {"per_second": speed, "bytes": most, "correlation": found["correlation"]}


def render(result: Result) -> str:
    """A row for each runtime and number of images; nothing where none took part."""
    if not result.get("peers"):
        return ""
    text = (
        "Beside them torchvision's DataLoader (Pillow, resize, crop, normalise) feeds another runtime, which runs the "
        "real-valued twin in int8 on the same cores. Of the ways to divide the cores between the processes that "
        f"decode and the threads of the runtime, and of batches of {' and '.join(map(str, BATCHES))}, each runtime has "
        f"the one that was the fastest over {TRIAL} images. Importing and compiling do not count. Its convolutions "
        "were seen to run in int8."
    )
    shown = table(
        result["peers"],
        ("images", lambda r: f"{r['images']:,}"),
        plain("runtime"),
        plain("precision"),
        plain("loaders"),
        plain("threads"),
        plain("batch"),
        figure("per_second", "images/s"),
        figure("predict_ratio", "bbg predict, times as many"),
        figure("ray_ratio", "Ray"),
        ("MB", lambda r: f"{r['bytes'] / 1e6:.0f}"),
    )
    return f"\n\n{text}\n\n{shown}"
