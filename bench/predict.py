"""Memory and throughput of `bbg predict` over many photographs, beside decoding alone and the network alone.

    python -m bench.predict FOLDER [--model net.bbg] [--images 5000] [--rounds 3] [--out bench/results/predict.json]

FOLDER holds photographs; they are repeated under other names, by links, until there are `--images`. A round is three
processes, one after the other: one core decodes some of them and does nothing else; one core runs the network on the
pixels; `bbg predict` runs over all on two cores. What two cores could do at best is `2 / (decode time + network time)`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from bench.markdown import figure, part, plain, table
from bench.networks import NETWORKS, build
from bench.record import Result, parser_of, run

TITLE = "Predicting a folder of photographs"
NETWORK = "resnet18"
ALONE = 200  # images that are decoded, and run, alone

# One process measures the parts, so that nothing of it is in the memory of the whole.
PARTS = """
import json, os, sys, time
os.sched_setaffinity(0, {int(sys.argv[2])})
import numpy as np, bbg
engine = bbg.load(sys.argv[1], threads=1)
files = sys.argv[3:]
engine.preprocess.apply(files[0])
began = time.process_time()
pixels = [engine.preprocess.apply(file) for file in files]
decode = (time.process_time() - began) / len(files)
batches = [np.stack(pixels[at : at + 32]) for at in range(0, len(pixels), 32)]
engine(batches[0])
began = time.process_time()
for batch in batches:
    engine(batch)
print(json.dumps({"decode": decode, "network": (time.process_time() - began) / len(files)}))
"""
# The whole is the command itself, with what the kernel counted of it.
WHOLE = """
import json, os, re, sys, time
os.sched_setaffinity(0, set(map(int, sys.argv[1].split(","))))
from bbg.cli import main
began = time.perf_counter()
main(["predict", *sys.argv[3:]])
seconds, cpu = time.perf_counter() - began, time.process_time()
status = open("/proc/self/status").read()  # what getrusage tells may be the parent's
peak = 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", status)[1])
with open(sys.argv[2], "w") as file:
    json.dump({"seconds": seconds, "cpu": cpu, "peak": peak}, file)
"""


def photographs(folder: Path) -> list[Path]:
    """The JPEGs below `folder`, in order; RuntimeError where there is none."""
    found = sorted(path.resolve() for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
    if not found:
        raise RuntimeError(f"no photographs in {folder.name!r}")
    return found


def rows(arguments: argparse.Namespace) -> Result:
    """One row: the medians over the rounds, and the least share of the best."""
    found = photographs(arguments.photographs)
    cores = sorted(os.sched_getaffinity(0))[:2]
    if len(cores) < 2:
        raise RuntimeError("two cores are needed")
    rounds = []
    with tempfile.TemporaryDirectory() as place:
        many = Path(place) / "photographs"
        many.mkdir()
        for i in range(arguments.images):
            (many / f"{i:05}.jpg").symlink_to(found[i % len(found)])
        model = arguments.model or pack(Path(place) / "net.bbg")
        some = [str(path) for path in found[:: max(1, len(found) // ALONE)]][:ALONE]
        for number in range(arguments.rounds):
            alone = measured([PARTS, str(model), str(cores[number % 2]), *some])
            report = Path(place) / "whole.json"
            words = [str(many), "--model", str(model), "--json", str(Path(place) / "out.json")]
            began = time.perf_counter()
            quiet([WHOLE, ",".join(map(str, cores)), str(report), *words])
            print(f"round {number + 1}: {time.perf_counter() - began:.1f} s", file=sys.stderr, flush=True)
            whole = json.loads(report.read_text())
            speed, best = arguments.images / whole["seconds"], 2 / (alone["decode"] + alone["network"])
            used = whole["cpu"] / arguments.images
            rounds.append({**alone, **whole, "used": used, "speed": speed, "best": best, "share": speed / best})
    middle = {key: median(r[key] for r in rounds) for key in rounds[0]}
    row = {
        "network": arguments.model.stem if arguments.model else NETWORK,
        "images": arguments.images,
        "photographs": len(found),
        "decode_us": 1e6 * middle["decode"],
        "network_us": 1e6 * middle["network"],
        "processor_us": 1e6 * middle["used"],  # of both cores, for one image of the whole
        "images_per_second": middle["speed"],
        "best_images_per_second": middle["best"],
        "share": middle["share"],
        "shares": [round(r["share"], 4) for r in rounds],
        "peak_bytes": max(r["peak"] for r in rounds),
    }
    return {"threads": 2, "predict": [row]}


def pack(path: Path) -> Path:
    """ResNet-18 of untrained weights, whose head the command can read."""
    import torch

    import bbg

    preprocess = NETWORKS[NETWORK].preprocess
    example = torch.randn(2, 3, *preprocess.size, generator=torch.Generator().manual_seed(0))
    bbg.convert(build(NETWORK, "bbg"), path, example, edges="int8", preprocess=preprocess)
    return path


def quiet(words: list[str]) -> str:
    """What a process of this Python prints that runs `words[0]`."""
    code, *arguments = words
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1])
    return done.stdout


def measured(words: list[str]) -> Result:
    """What it prints as JSON."""
    result: Result = json.loads(quiet(words))
    return result


def render(result: Result) -> str:
    """A row per network."""
    text = (
        "`bbg predict` over a folder of photographs on two cores. Decoding (with resizing) and the network are also "
        "measured alone on one core in the same round; the best that two cores could do is 2 / (decode + network)."
    )
    shown = table(
        result["predict"],
        plain("network"),
        ("images", lambda r: f"{r['images']:,}"),
        figure("decode_us", "decode, us"),
        figure("network_us", "network, us"),
        figure("processor_us", "both in predict, us"),
        figure("images_per_second", "images/s"),
        figure("best_images_per_second", "at best"),
        part("share"),
        ("peak memory, MB", lambda r: f"{r['peak_bytes'] / 1e6:.0f}"),
    )
    return f"{text}\n\n{shown}"


def parser() -> argparse.ArgumentParser:
    """The command line; the folder may also be named by the environment, as `make bench` does."""
    made = parser_of("predict", __doc__, rounds=3)
    there = os.environ.get("BBG_PHOTOGRAPHS")
    made.add_argument("photographs", type=Path, metavar="FOLDER", nargs="?", default=Path(there or "photographs"))
    made.add_argument("--model", type=Path, help="a packed file; default: an untrained ResNet-18")
    made.add_argument("--images", type=int, default=5000)
    return made


if __name__ == "__main__":
    run(parser(), rows)
