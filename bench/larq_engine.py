"""Binary ImageNet networks in Larq Compute Engine, beside bbg's ResNet-18 where this version has it.

    python -m bench.larq_engine [--rounds 10] [--out bench/results/larq_engine.json]

LCE gets an environment of its own under build/ (TensorFlow converts the networks of larq-zoo, with random weights), one
image, one thread; its interpreter runs once with the fastest of its settings and once as it comes. Its optimised
kernels are those for ARM: on x86 it falls back on portable ones, so this says what an x86 user of LCE gets, not what
LCE can do.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench.interleave import Runner, pooled, run_interleaved, serve
from bench.markdown import MEDIAN, MIN, RATIOS, plain, table
from bench.measure import durations, spread
from bench.record import Result, parser_of, run

TITLE = "Larq Compute Engine"
PACKAGES = (
    "larq-compute-engine==0.16.0",
    "larq==0.14.0",
    "larq-zoo==2.4.0",
    "tensorflow-cpu==2.16.2",
    "tf_keras==2.16.0",
)
NETWORKS = {"BiRealNet": "literature", "BinaryResNetE18": "literature", "QuickNet": "sota"}
SETTINGS: tuple[tuple[str, ...], ...] = ((), ("use_xnnpack",), ("use_indirect_bgemm",))
SETTINGS += (("use_indirect_bgemm", "use_xnnpack"),)


def work(name: str, settings: tuple[tuple[str, ...], ...]) -> None:
    """In LCE's environment: convert, find the fastest setting, serve."""
    import larq_compute_engine as lce
    import larq_zoo
    import numpy as np
    from larq_compute_engine.tflite.python.interpreter import Interpreter

    model = getattr(getattr(larq_zoo, NETWORKS[name]), name)(weights=None)
    flat = lce.convert_keras_model(model)
    images = np.random.default_rng(0).standard_normal((1, 224, 224, 3)).astype(np.float32)

    def call_of(setting: tuple[str, ...]) -> Any:
        interpreter = Interpreter(flat, num_threads=1, **dict.fromkeys(setting, True))
        return lambda: interpreter.interpreter.predict([images])

    best = min(settings, key=lambda setting: min(durations(call_of(setting), 0.5)))
    serve(call_of(best), {"setting": ", ".join(best) or "default", "bytes": len(flat)})


def rows(arguments: argparse.Namespace) -> Result:
    """A row per network and setting, and one for bbg."""
    from bench.environments import environment
    from bench.networks import AVAILABLE, pack

    python = str(environment("larq", PACKAGES))
    runners: dict[str, Runner] = {}
    with tempfile.TemporaryDirectory() as folder:
        if "resnet18" in AVAILABLE:
            pack("resnet18", Path(folder) / "resnet18.bbg")
            command = [sys.executable, "-m", "bench.runtime_process", "bbg", "1 bit", "resnet18", "1", folder]
            runners["resnet18 in bbg"] = Runner(command)
        for name in NETWORKS:
            quiet = {"TF_USE_LEGACY_KERAS": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}
            command = [python, "-m", "bench.larq_engine", "--work", name]
            runners[f"{name} in LCE"] = Runner(command, **quiet)
            runners[f"{name} in LCE, as it comes"] = Runner([*command, "--default"], **quiet)
        times = pooled(run_interleaved(runners, arguments.rounds, 0.2))
        for runner in runners.values():
            runner.close()
    figures = {name: spread(t) for name, t in times.items()}
    base = figures.get("resnet18 in bbg")
    found = []
    for name, runner in runners.items():
        row = {"network": name, **figures[name]}
        if base:
            row["ratio_of_min"] = row["min_us"] / base["min_us"]
            row["ratio_of_median"] = row["median_us"] / base["median_us"]
        found.append({**row, "bytes": runner.facts["bytes"], "setting": runner.facts.get("setting", "")})
    return {"versions": dict(p.split("==") for p in PACKAGES), "threads": 1, "batch": 1, "larq": found}


def render(result: Result) -> str:
    """A row per network."""
    text = (
        "224x224, one image, one thread. LCE's optimised kernels are for ARM; on x86 it runs portable ones. It "
        "takes its turns with the fastest setting of its interpreter and as it comes."
    )
    rows = table(result["larq"], plain("network"), MIN, MEDIAN, *RATIOS, plain("setting"))
    return f"{text}\n\n{rows}"


def main() -> None:
    """The command line; with --work, that of a process that takes turns."""
    if "--work" not in sys.argv:
        return run(parser_of("larq_engine", __doc__, rounds=10), rows)
    parser = argparse.ArgumentParser()
    parser.add_argument("--work", choices=list(NETWORKS))
    parser.add_argument("--default", action="store_true")
    asked = parser.parse_args()
    return work(asked.work, SETTINGS[:1] if asked.default else SETTINGS)


if __name__ == "__main__":
    main()
