"""Packed networks beside their real-valued twins in other runtimes, on one thread, one image at a time.

    python bench/peers.py [--networks resnet20 vgg_small] [--rounds 40] [--out bench/results/peers.json]

The twin has the same topology and widths with plain convolutions and ReLU; the peers get it as ONNX, fold its BN by
their own optimizers, and have input and output tensors bound beforehand. Rounds alternate, so a busy machine slows all
alike. Weights are random: they change no time. Each peer's output is compared with torch's before it is timed.
"""

from __future__ import annotations

import argparse
import datetime
import io
import json
import os
import platform
import statistics
import subprocess
import tempfile
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import nn

import bbg

ACTS = {"resnet20": "rprelu", "vgg_small": "prelu"}  # as in recipes/cifar10_*.toml
HERE = Path(__file__).parent

Call = Callable[[], object]


def packed(network: str, x: np.ndarray, folder: Path) -> tuple[Call, dict[str, Any]]:
    """The call of the packed network in the engine, and what it ran on."""
    torch.manual_seed(0)
    model = bbg.create(network, "bbg", num_classes=10, act=ACTS[network]).eval()
    path = folder / f"{network}.bbg"
    bbg.convert(model, path, torch.from_numpy(x), preprocess="cifar10")
    engine = bbg.load(path, threads=1)
    return lambda: engine(x), {"kernels": engine.kernels, "bytes": path.stat().st_size}


def onnx_of(twin: nn.Module, x: np.ndarray) -> bytes:
    """The twin as an ONNX file in memory."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(twin, (torch.from_numpy(x),), buffer, input_names=["x"], output_names=["y"], dynamo=False)
    return buffer.getvalue()


def in_onnxruntime(model: bytes, x: np.ndarray, expected: np.ndarray) -> Call:
    """ONNX Runtime float32, everything optimised, tensors bound."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    y = np.empty_like(expected)
    binding = session.io_binding()
    binding.bind_ortvalue_input("x", ort.OrtValue.ortvalue_from_numpy(x))
    binding.bind_output("y", "cpu", 0, np.float32, y.shape, y.ctypes.data)
    session.run_with_iobinding(binding)
    np.testing.assert_allclose(y, expected, rtol=1e-3, atol=1e-3)
    return lambda: session.run_with_iobinding(binding)


def in_openvino(model: bytes, x: np.ndarray, expected: np.ndarray) -> Call:
    """OpenVINO float32 in its latency mode, tensors bound."""
    import openvino as ov

    settings = {"INFERENCE_NUM_THREADS": 1, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    core = ov.Core()
    request = core.compile_model(core.read_model(model), "CPU", settings).create_infer_request()
    request.set_input_tensor(ov.Tensor(x, shared_memory=True))
    request.infer()
    np.testing.assert_allclose(request.get_output_tensor().data, expected, rtol=1e-3, atol=1e-3)
    return request.infer


def in_torch(twin: nn.Module, x: np.ndarray) -> Call:
    """Eager torch float32."""
    images = torch.from_numpy(x)

    def call() -> torch.Tensor:
        with torch.inference_mode():
            return twin(images)

    return call


def race(calls: dict[str, Call], rounds: int, seconds: float = 0.05) -> dict[str, list[float]]:
    """Durations by name: `rounds` times, each runs for `seconds` in turn after two warming calls."""
    durations: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            call(), call()
            end = time.perf_counter() + seconds
            while True:
                began = time.perf_counter()
                call()
                done = time.perf_counter()
                durations[name].append(done - began)
                if done > end:
                    break
    return durations


def measure(network: str, rounds: int, folder: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """One row per runtime for `network`, and facts about the packed one."""
    x = np.random.default_rng(0).normal(size=(1, 3, 32, 32)).astype(np.float32)
    torch.manual_seed(0)
    twin = bbg.create(network, "float", num_classes=10).eval()
    ours, facts = packed(network, x, folder)
    onnx = onnx_of(twin, x)
    with torch.inference_mode():
        expected = twin(torch.from_numpy(x)).numpy()
    calls = {
        "bbg, 1 bit": ours,
        "ONNX Runtime, float32": in_onnxruntime(onnx, x, expected),
        "OpenVINO, float32": in_openvino(onnx, x, expected),
        "torch, float32": in_torch(twin, x),
    }
    rows = []
    durations = race(calls, rounds)
    base = min(durations["bbg, 1 bit"]), statistics.median(durations["bbg, 1 bit"])
    for name, times in durations.items():
        low, middle = min(times), statistics.median(times)
        rows.append({"network": network, "runtime": name, "min_us": 1e6 * low, "median_us": 1e6 * middle,
                     "min_ratio": low / base[0], "median_ratio": middle / base[1], "calls": len(times)})  # fmt: skip
    return rows, facts


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    git = ["git", "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(git, cwd=HERE, capture_output=True, text=True, check=False)
    return {
        "cpu": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "threads": 1,
        "batch": 1,
        "commit": commit.stdout.strip() or None,
        "date": datetime.date.today().isoformat(),
        "versions": {name: version(name) for name in ("torch", "onnxruntime", "openvino", "numpy")},
    }


def main() -> None:
    """Measure, print a table and keep the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", choices=list(ACTS), default=list(ACTS))
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "peers.json")
    arguments = parser.parse_args()

    torch.set_num_threads(1)
    report: dict[str, Any] = {**machine(), "packed": {}, "rows": []}
    with tempfile.TemporaryDirectory() as folder:
        for network in arguments.networks:
            rows, report["packed"][network] = measure(network, arguments.rounds, Path(folder))
            report["rows"] += rows
    table = Table(title=f"One image, one thread, {report['cpu']}", box=None, header_style="bold", pad_edge=False)
    for heading in ("network", "runtime", "min us", "median us", "ratio of min", "of median"):
        table.add_column(heading, justify="left" if heading in ("network", "runtime") else "right")
    for row in report["rows"]:
        table.add_row(row["network"], row["runtime"], f"{row['min_us']:,.1f}", f"{row['median_us']:,.1f}",
                      f"{row['min_ratio']:.1f}", f"{row['median_ratio']:.1f}")  # fmt: skip
    Console().print(table)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
