"""torchvision's networks, none of them written here: binarized, trained for three steps, converted, and timed.

    python -m bench.torchvision_networks [--networks resnet18 resnet50] [--rounds 10] [--folder build/torchvision]

Each is binarized with random weights for a thousand classes, trained on eight images at 224x224
(cases/torchvision_networks.py says which), and converted, for which the law of the layers must hold on those eight
images. Then it takes turns on one thread with OpenVINO, which runs the real-valued original in float32 and int8. What
has been converted stays in --folder and is not made again.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path
from typing import Any

import torch

import bbg
from bbg.binarization.report import DEPTHWISE, FIRST, LAST
from bench.markdown import figure, not_measured, plain, table
from bench.networks import IMAGENET, export
from bench.record import ROOT, Result, parser_of, read, run
from bench.runtimes import Entrant, compare
from cases.torchvision_networks import NETWORKS, binary_twin

TITLE = "Networks that were not written here"
SIDE = 224
ENTRANTS = (Entrant("bbg", "1 bit"), Entrant("OpenVINO", "int8"), Entrant("OpenVINO", "float32"))
LEAST = 0.3  # correlation of int8 with torch: random weights do not quantise well, which changes no time
REASONS = {FIRST: "first", LAST: "last", DEPTHWISE: "depthwise"}


def convert(name: str, folder: Path) -> dict[str, Any]:
    """Make NAME.bbg and the twin's files; what was found on the way."""
    network, original, images, losses = binary_twin(name, SIDE, IMAGENET.classes)
    report = bbg.convert(network, folder / f"{name}.bbg", images, edges="int8", preprocess=IMAGENET.preset)
    export(original, name, images[:1].numpy(), images.numpy(), folder)
    kept = Counter(REASONS.get(row.why, row.why.partition(":")[0]) for row in network.report.of("kept") if row.macs)
    return {
        "network": name,
        "float32_bytes": sum(4 * tensor.numel() for tensor in original.state_dict().values()),
        "bytes": report.after,
        "share": network.report.share,
        "share_beside_depthwise": network.report.share_beside_depthwise,
        "binary_layers": len(network.report.of("binary")),
        "stays_real": ", ".join(f"{count} {reason}" for reason, count in kept.items()),
        "losses": losses,
        "law": report.difference,
        "near_ties": report.ties,
        "images": report.agreement.images,
        "images_departed": report.agreement.diverged,
        "departure": report.agreement.divergence,
    }


def converted(name: str, folder: Path) -> dict[str, Any]:
    """The facts of `convert`, from the folder where it has them already."""
    facts = folder / f"{name}.json"
    if not facts.exists():
        found = convert(name, folder)
        facts.write_text(json.dumps(found), encoding="utf-8")
    return read(facts)


def rows(arguments: argparse.Namespace) -> Result:
    """A row per network."""
    arguments.folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    found = []
    for name in arguments.networks:
        found.append(converted(name, arguments.folder))
        print(json.dumps(found[-1]), flush=True)
    result: Result = {"absent": [], "trained_on": "generated images", "torchvision_networks": found}
    for row in found:
        timed, absent = compare(row["network"], 1, ENTRANTS, arguments.rounds, arguments.folder, LEAST)
        result["absent"] += absent
        times = {entrant["precision"]: entrant for entrant in timed}
        row["min_us"] = times["1 bit"]["min_us"]
        for precision in ("int8", "float32"):
            row[f"{precision}_ratio"] = times[precision]["ratio_of_min"] if precision in times else None
    return result


def render(result: Result) -> str:
    """A row per network."""
    text = (
        "224x224, one image, one thread, 8-bit edges. Shares are of the multiply-accumulates outside the first and "
        f"the last layer. The law of the layers held on eight {result['trained_on']}. OpenVINO runs the real-valued "
        "original; with random weights its int8 is far from float32, which changes no time."
    )
    rows = table(
        result["torchvision_networks"],
        plain("network"),
        ("float32, MB", lambda r: f"{r['float32_bytes'] / 1e6:.1f}"),
        ("packed, MB", lambda r: f"{r['bytes'] / 1e6:.2f}"),
        ("MACs at 1 bit, %", lambda r: f"{100 * r['share']:.1f}"),
        ("without depthwise", lambda r: f"{100 * r['share_beside_depthwise']:.1f}"),
        plain("stays_real", "stays real"),
        ("largest difference in a layer", lambda r: f"{r['law']:.0e}"),
        figure("min_us", "bbg, us"),
        figure("int8_ratio", "OpenVINO int8, times bbg"),
        figure("float32_ratio", "float32"),
    )
    return f"{text}\n\n{rows}{not_measured(result['absent'])}"


if __name__ == "__main__":
    parser = parser_of("torchvision_networks", __doc__, rounds=10)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "torchvision")
    run(parser, rows, ("torch", "torchvision", "openvino", "numpy"))
