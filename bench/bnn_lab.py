"""A binary linear layer of 4096 to 4096 in bnn-lab's packed kernel and in bbg, on one thread and on two.

    python -m bench.bnn_lab [--rounds 30] [--out bench/results/bnn_lab.json]

bnn-lab gets an environment of its own under build/, its best kernel, and inputs that are packed beforehand; bbg's time
is that of the op alone on bits that another op has packed. Both end in float32 sums, which are compared.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

from bench.interleave import Runner, pooled, run_interleaved, serve
from bench.markdown import MEDIAN, MIN, RATIOS, figure, plain, table
from bench.measure import spread
from bench.record import Result, machine, parser_of, run

TITLE = "bnn-lab"
PACKAGES = ("bnn-lab==1.0.0", "numpy==1.26.4")
FEATURES = 4096
BATCHES = (1, 64)


def kernels_of_bnn() -> Any:
    """bnn.kernels alone: it needs numpy only, while bnn/__init__.py would want torch."""
    import importlib
    import importlib.util
    import types

    found = importlib.util.find_spec("bnn")
    assert found
    assert found.submodule_search_locations
    package = types.ModuleType("bnn")
    package.__path__ = list(found.submodule_search_locations)
    sys.modules["bnn"] = package
    return importlib.import_module("bnn.kernels.packed")


def in_bnn(batch: int, threads: int) -> None:
    """In bnn-lab's environment: check one product, serve."""
    import ctypes

    import numpy as np

    packed = kernels_of_bnn()
    packed.set_num_threads(threads)
    rng = np.random.default_rng(0)
    x, weight = (rng.integers(0, 2, (rows, FEATURES), dtype=np.int8) * 2 - 1 for rows in (batch, FEATURES))
    (bits, _), (rows, _) = packed.pack_binary_pm1(x), packed.pack_binary_pm1(weight)
    sums = np.empty((batch, FEATURES), np.float32)
    word, number = ctypes.POINTER(ctypes.c_uint64), ctypes.POINTER(ctypes.c_float)
    arguments = (
        bits.ctypes.data_as(word),
        rows.ctypes.data_as(word),
        sums.ctypes.data_as(number),
        batch,
        FEATURES,
        bits.shape[1],
        FEATURES,
    )
    multiply = packed._try_load_native().binary_gemm_u64
    multiply(*arguments)
    np.testing.assert_array_equal(sums, x.astype(np.float32) @ weight.T.astype(np.float32))
    serve(lambda: multiply(*arguments), {"kernels": packed.kernel_name()})


def in_bbg(batch: int, threads: int) -> None:
    """The op's own time, on bits that the op before it has packed."""
    from bench.binary_layers import Timed
    from cases.convolutions import LAYERS

    case = next(layer.case for layer in LAYERS if layer.network == "linear")
    timed = Timed(case, "sums", batch, threads)
    serve(timed.seconds, {"kernels": timed.engine.kernels})


def rows(arguments: argparse.Namespace) -> Result:
    """A row per batch, thread count and runtime."""
    from bench.environments import environment

    pythons = {"bbg": sys.executable, "bnn-lab": str(environment("bnn-lab", PACKAGES, "--no-deps"))}
    found = []
    for threads in [t for t in (1, 2) if t <= machine()["cores"]]:
        for batch in BATCHES:
            command = ["-m", "bench.bnn_lab", "--batch", str(batch), "--threads", str(threads), "--work"]
            runners = {name: Runner([python, *command, name]) for name, python in pythons.items()}
            times = pooled(run_interleaved(runners, arguments.rounds))
            figures = {name: spread(t) for name, t in times.items()}
            for name, runner in runners.items():
                runner.close()
                time = figures[name]
                found.append(
                    {
                        "product": f"{batch} x {FEATURES} x {FEATURES}",
                        "threads": threads,
                        "runtime": name,
                        **time,
                        "best_GMACs": batch * FEATURES**2 / time["min_us"] / 1e3,
                        "ratio_of_min": time["min_us"] / figures["bbg"]["min_us"],
                        "ratio_of_median": time["median_us"] / figures["bbg"]["median_us"],
                        "kernels": runner.facts["kernels"],
                    }
                )
    return {"versions": dict([PACKAGES[0].split("==")]), "bnn_lab": found}


def render(result: Result) -> str:
    """A row per product."""
    return table(
        result["bnn_lab"],
        plain("product"),
        plain("threads"),
        plain("runtime"),
        MIN,
        MEDIAN,
        figure("best_GMACs", "GMAC/s"),
        *RATIOS,
    )


def main() -> None:
    """The command line; with --work, that of a process that takes turns."""
    if "--work" not in sys.argv:
        return run(parser_of("bnn_lab", __doc__, rounds=30), rows)
    parser = argparse.ArgumentParser()
    parser.add_argument("--work", choices=["bbg", "bnn-lab"])
    parser.add_argument("--batch", type=int)
    parser.add_argument("--threads", type=int)
    one = parser.parse_args()
    return (in_bbg if one.work == "bbg" else in_bnn)(one.batch, one.threads)


if __name__ == "__main__":
    main()
