"""`bbg predict` over a folder with a detector, its pictures drawn: the time of each stage, in the command and alone.

    python -m bench.predict_boxes FOLDER [--model net.bbg] [--images 72] [--score 0.5] [--rounds 5] [--out FILE.json]

A round is three processes, one after the other. One core runs the network on the pixels of all pictures, one at a time,
and does nothing else; `bbg predict --verbose --out DIR` runs on one core, then on two, and tells the time of its
stages. For each stage there is the time that passes in it, waits for a core or for Python's lock included, and that in
which its thread itself runs. The latter tells whether the network is slower inside than alone: other processes do not
count.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import tempfile
from pathlib import Path
from statistics import median

from bench.markdown import figure, plain, table
from bench.predict import measured, photographs, quiet
from bench.record import Result, parser_of, run

TITLE = "Boxes on a folder of pictures"
STAGES = ("decoding", "network", "answer", "drawing", "writing")
NAMES = {"decoding": "decoding, resizing", "answer": "boxes", "drawing": "drawing, packing"}
STAGE = re.compile(r"(\w+) ([\d.]+) ms \(([\d.]+) on a core\)")
WHOLE = re.compile(r"(\d+) images in ([\d.]+) s, on (\d+) threads?")

ALONE = """
import json, os, sys, time
os.sched_setaffinity(0, {int(sys.argv[2])})
import bbg
engine = bbg.load(sys.argv[1], threads=1)
pixels = [engine.preprocess.apply(file)[None] for file in sys.argv[3:]]
engine.run(pixels[0])
began, own = time.perf_counter(), time.thread_time()
for one in pixels:
    engine.run(one)
took = time.perf_counter() - began, time.thread_time() - own
print(json.dumps({"ms": 1e3 * took[0] / len(pixels), "core_ms": 1e3 * took[1] / len(pixels)}))
"""
COMMAND = """
import os, sys
os.sched_setaffinity(0, set(map(int, sys.argv[1].split(","))))
from bbg.cli import main
main(["predict", *sys.argv[2:]])
"""


def told(text: str) -> Result:
    """What the command says of its stages, per image: `NAME_ms` and `NAME_core_ms`, and `images_per_second` of all."""
    line = next(line for line in reversed(text.splitlines()) if WHOLE.match(line))
    images, seconds, threads = WHOLE.match(line).groups()  # type: ignore[union-attr]
    found: Result = {"threads": int(threads), "images_per_second": int(images) / float(seconds)}
    for name, took, own in STAGE.findall(line):
        found |= {f"{name}_ms": float(took), f"{name}_core_ms": float(own)}
    return found


def rows(arguments: argparse.Namespace) -> Result:
    """A row per number of cores: the medians over the rounds."""
    found = photographs(arguments.photographs)[: arguments.images]
    cores = sorted(os.sched_getaffinity(0))[:2]
    alone: list[Result] = []
    inside: dict[int, list[Result]] = {many: [] for many in range(1, len(cores) + 1)}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "pictures"
        folder.mkdir()
        for path in found:
            (folder / path.name).symlink_to(path)
        model = str((arguments.model or pack(Path(place) / "net.bbg")).resolve())
        for number in range(arguments.rounds):
            alone.append(measured([ALONE, model, str(cores[number % len(cores)]), *map(str, found)]))
            for many, own in inside.items():
                out = Path(place) / f"{number}-{many}"
                words = [str(folder), "--model", model, "--out", str(out), "--score", str(arguments.score)]
                words += ["--threads", str(many), "--verbose"]
                own.append(told(quiet([COMMAND, ",".join(map(str, cores[:many])), *words])))
                drawn = len(list(out.iterdir()))
                if drawn != len(found):
                    raise RuntimeError(f"{drawn} of {len(found)} pictures were drawn")
            print(f"round {number + 1}: {json.dumps({m: own[-1] for m, own in inside.items()})}", file=sys.stderr)
    network = {key: median(one[key] for one in alone) for key in alone[0]}
    rows = []
    for own in inside.values():
        middle = {key: median(one[key] for one in own) for key in own[0]}
        slower = middle["network_core_ms"] / network["core_ms"]
        rows.append({**middle, "network_alone_ms": network["ms"], "network_alone_core_ms": network["core_ms"]})
        rows[-1] |= {"slower": slower, "drawn": len(found)}
    return {"images": len(found), "model": arguments.model.stem if arguments.model else None, "predict_boxes": rows}


def pack(path: Path) -> Path:
    """The light detector of untrained weights, whose boxes mean nothing."""
    import torch

    import bbg
    from bench.networks import Network, normalised, random_bytes, settled

    entry = Network(3, "imagenet", {}, (240, 320))
    torch.manual_seed(0)
    network = settled(bbg.create("ssd_light", num_classes=entry.classes, size=entry.size), entry)
    example = torch.from_numpy(normalised(entry, random_bytes(entry, 4, seed=2)))
    bbg.convert(network, path, example, edges="int8", preprocess=entry.preprocess)
    return path


def render(result: Result) -> str:
    """A row per stage, for each number of cores."""
    stages = [
        {
            "threads": row["threads"],
            "stage": NAMES.get(name, name),
            "ms": row[f"{name}_ms"],
            "core_ms": row[f"{name}_core_ms"],
            "alone": row["network_alone_core_ms"] if name == "network" else None,
        }
        for row in result["predict_boxes"]
        for name in STAGES
    ]
    speeds = "; ".join(
        f"on {row['threads']:.0f} thread{'s' if row['threads'] > 1 else ''} {row['images_per_second']:.1f} images/s, "
        f"the network {row['slower']:.2f} times the core's time that it takes alone"
        for row in result["predict_boxes"]
    )
    model = result["model"] or "an untrained light detector"
    text = (
        f"`bbg predict --out DIR` over {result['images']} pictures with {model}: {speeds}. Per image, in ms: what "
        "passes in each stage, and how long its thread runs."
    )
    shown = table(
        stages,
        ("threads", lambda row: f"{row['threads']:.0f}"),
        plain("stage"),
        figure("ms", "passes"),
        figure("core_ms", "on a core"),
        figure("alone", "alone, on a core"),
    )
    return f"{text}\n\n{shown}"


def parser() -> argparse.ArgumentParser:
    """The command line; the folder may also be named by the environment, as for the benchmark `predict`."""
    made = parser_of("predict_boxes", __doc__, rounds=5)
    there = os.environ.get("BBG_PHOTOGRAPHS")
    made.add_argument("photographs", type=Path, metavar="FOLDER", nargs="?", default=Path(there or "photographs"))
    made.add_argument("--model", type=Path, help="a packed detector; default: an untrained ssd_light")
    made.add_argument("--images", type=int, default=72, help="pictures, the first ones; default: %(default)s")
    made.add_argument("--score", type=float, default=0.5, help="the least score of a box; default: %(default)s")
    return made


if __name__ == "__main__":
    run(parser(), rows)
