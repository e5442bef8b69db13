"""Images per second of `bbg predict`, alone and through Ray, beside decoding alone and the network alone.

    python -m bench.scoring [FOLDER] [--images 1000 10000 100000] [--workers 2] [--rounds 3]

FOLDER holds photographs; without one they are made, 400 pixels on a side. They are repeated under other names, by
links. A round is three processes, one after the other: one core decodes some of them and then runs the network on their
pixels; `bbg predict` goes over all of them on as many cores as there are workers; workers of Ray do. At best that many
cores give `workers / (decode time + network time)`. Of Ray the seconds count from when the first worker is there; what
is left of the time from the start to the end is told beside. Memory is that of all processes of a run, shared pages
counted once. Without --model, other runtimes run the real-valued twin of the network over the same photographs
(scoring_peers.py).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

from PIL import Image

from bench import scoring_peers
from bench.markdown import figure, not_measured, part, percent, plain, table
from bench.memory import watched
from bench.predict import ALONE, NETWORK, PARTS, WHOLE, measured, pack, photographs
from bench.record import Result, parser_of, run
from cases.images import photographs as made_by_formula

TITLE = "Predicting very many photographs, with Ray"
SIDE, MADE = 400, 16  # of the photographs that are made, and how many
ASKED = {"predict": 0.85, "ray": 0.75}  # shares of the best possible that the project asks for

THROUGH_RAY = """
import json, os, sys, time
os.sched_setaffinity(0, set(map(int, sys.argv[1].split(","))))
from pathlib import Path
from bbg.scoring.ray import answer_all
began = time.perf_counter()
found = answer_all(sys.argv[5], [sys.argv[3]], Path(sys.argv[4]), workers=int(sys.argv[6]))
with open(sys.argv[2], "w") as file:
    json.dump({"seconds": found.seconds, "whole": time.perf_counter() - began, "images": found.done}, file)
"""


def make(folder: Path) -> list[Path]:
    """Photographs by a formula, as JPEGs."""
    for number, pixels in enumerate(made_by_formula(SIDE, MADE)):
        Image.fromarray(pixels).save(folder / f"{number:02}.jpg", quality=90)
    return photographs(folder)


def repeated(found: list[Path], folder: Path, images: int) -> Path:
    """A folder with so many links to the photographs, a thousand in a folder."""
    for number in range(images):
        place = folder / f"{number // 1000:04}"
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{number:06}.jpg").symlink_to(found[number % len(found)])
    return folder


def rows(arguments: argparse.Namespace) -> Result:
    """A row for each number of images: the medians over the rounds, and the most memory."""
    cores = sorted(os.sched_getaffinity(0))[: arguments.workers]
    if len(cores) < arguments.workers:
        raise RuntimeError(f"{arguments.workers} cores are needed")
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        if arguments.photographs is None:
            (place / "made").mkdir()
        found = make(place / "made") if arguments.photographs is None else photographs(arguments.photographs)
        model = arguments.model or pack(place / "net.bbg")
        if arguments.model is None:
            scoring_peers.prepare(NETWORK, found, place)
        result: Result = {"threads": len(cores), "photographs": len(found), "scoring": [], "peers": [], "absent": []}
        for images in arguments.images:
            many = repeated(found, place / f"many-{images}", images)
            peers = None
            if arguments.model is None:
                peers = scoring_peers.Peers(NETWORK, place, many, images, cores)
                result["absent"] += peers.absent
            rounds = []
            for number in range(arguments.rounds):
                rounds.append(one_round(place, found, model, many, images, cores, number))
                if peers is not None:
                    peers.turn()
            middle = {key: median(one[key] for one in rounds) for key in rounds[0]}
            middle |= {key: max(one[key] for one in rounds) for key in rounds[0] if key.endswith("_bytes")}
            shares = {f"{way}_shares": [round(one[f"{way}_share"], 4) for one in rounds] for way in ASKED}
            row = {"network": arguments.model.stem if arguments.model else NETWORK, "images": images}
            result["scoring"].append({**row, "workers": len(cores), **middle, **shares})
            if peers is not None:
                result["peers"] += peers.rows(result["scoring"][-1])
    if result["peers"]:
        result["versions"] = {name: version(name) for name in scoring_peers.PACKAGES}
    return result


def one_round(
    place: Path, found: list[Path], model: Path, many: Path, images: int, cores: list[int], number: int
) -> dict[str, Any]:
    """Times of the parts, of the command alone and of Ray."""
    some = [str(found[i % len(found)]) for i in range(min(ALONE, images))]
    alone = measured([PARTS, str(model), str(cores[number % len(cores)]), *some])
    best = len(cores) / (alone["decode"] + alone["network"])
    allowed, report, out = ",".join(map(str, cores)), place / "report.json", place / f"out-{images}-{number}"
    words = [many, "--model", model, "--threads", len(cores), "--json", place / "out.json"]
    predict_bytes = watched("-c", WHOLE, allowed, report, *words)
    predict = json.loads(report.read_text())
    ray_bytes = watched("-c", THROUGH_RAY, allowed, report, many, out, model, len(cores))
    ray = json.loads(report.read_text())
    if ray["images"] != images:
        raise RuntimeError(f"Ray answered for {ray['images']} images of {images}")
    speeds = {"predict": images / predict["seconds"], "ray": images / ray["seconds"]}
    print(f"{images} images, round {number + 1}: {speeds}, at best {best:.1f}", file=sys.stderr, flush=True)
    return {
        "decode_us": 1e6 * alone["decode"],
        "network_us": 1e6 * alone["network"],
        "best_per_second": best,
        **{f"{way}_per_second": speed for way, speed in speeds.items()},
        **{f"{way}_share": speed / best for way, speed in speeds.items()},
        "ray_start_s": ray["whole"] - ray["seconds"],
        "predict_bytes": predict_bytes,
        "ray_bytes": ray_bytes,
    }


def render(result: Result) -> str:
    """A row per number of images."""
    text = (
        "`bbg predict` over a folder of photographs, and `bbg predict --ray` with one worker per core. Decoding (with "
        "resizing) and the network are also measured alone on one core in the same round; at best that many cores "
        "give workers / (decode + network). Starting and stopping Ray takes the seconds that stand by themselves. "
        "Memory is that of all processes."
    )
    shown = table(
        result["scoring"],
        plain("network"),
        plain("workers"),
        ("images", lambda r: f"{r['images']:,}"),
        figure("decode_us", "decode, us"),
        figure("network_us", "network, us"),
        figure("best_per_second", "at best, images/s"),
        figure("predict_per_second", "predict"),
        part("predict_share", heading("predict")),
        figure("ray_per_second", "Ray"),
        part("ray_share", heading("ray")),
        figure("ray_start_s", "start and stop, s"),
        ("predict, MB", lambda r: f"{r['predict_bytes'] / 1e6:.0f}"),
        ("Ray, MB", lambda r: f"{r['ray_bytes'] / 1e6:.0f}"),
    )
    return f"{text}\n\n{shown}{scoring_peers.render(result)}{not_measured(result.get('absent', []))}"


def heading(way: str) -> str:
    """Of the column of its share."""
    return f"share of the best possible ({percent(ASKED[way])} asked for)"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = parser_of("scoring", __doc__, rounds=3)
    made.add_argument("photographs", type=Path, metavar="FOLDER", nargs="?", help="default: some are made")
    made.add_argument("--model", type=Path, help="a packed file; default: an untrained ResNet-18, beside its twin")
    made.add_argument("--images", type=int, nargs="+", default=[1000, 10_000, 100_000])
    made.add_argument("--workers", type=int, default=2, help="and cores; default: %(default)s")
    return made


if __name__ == "__main__":
    run(parser(), rows, ("numpy", "pillow", "ray", "pyarrow"))
