"""torchvision's networks, which nobody here wrote: binarized, trained for three steps, converted, and raced.

    python bench/foreign.py [--networks resnet18 resnet50] [--rounds 10] [--folder build/foreign]

Each is binarized with random weights for a thousand classes, trained on eight parts of two photographs (scikit-learn's)
at 224x224, and converted, for which the law of the layers must hold on those eight images. Then it is raced on one
thread against OpenVINO with the real-valued original in float32 and int8. What has been converted stays in --folder and
is not made again.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from common import ROOT, finish, machine, options
from networks import IMAGENET, export
from peers import Entrant, measure

import bbg
from bbg.binarization.report import DEPTHWISE, FIRST, LAST

SIDE = 224
ENTRANTS = (Entrant("bbg", "1 bit"), Entrant("OpenVINO", "int8"), Entrant("OpenVINO", "float32"))
LEAST = 0.3  # correlation of int8 with torch: random weights do not quantise well, which changes no time
REASONS = {FIRST: "first", LAST: "last", DEPTHWISE: "depthwise"}


def prepare(name: str, folder: Path) -> dict[str, Any]:
    """Make NAME.bbg and the twin's files; what was found on the way."""
    from foreign_networks import binary_twin

    network, original, images, losses = binary_twin(name, SIDE, IMAGENET.classes)
    report = bbg.convert(network, folder / f"{name}.bbg", images, preprocess=IMAGENET.preset)
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


def prepared(name: str, folder: Path) -> dict[str, Any]:
    """The facts of `prepare`, from the folder where it has them already."""
    facts = folder / f"{name}.json"
    if not facts.exists():
        found = prepare(name, folder)
        facts.write_text(json.dumps(found), encoding="utf-8")
    known: dict[str, Any] = json.loads(facts.read_text(encoding="utf-8"))
    return known


def main() -> None:
    """The command line."""
    from foreign_networks import NETWORKS

    parser = options(__doc__, "foreign")
    parser.set_defaults(rounds=10)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "foreign")
    parser.add_argument("--prepare", action="store_true", help="convert only")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    rows = []
    for name in arguments.networks:
        rows.append(prepared(name, arguments.folder))
        print(json.dumps(rows[-1]), flush=True)
    if arguments.prepare:
        return
    result: dict[str, Any] = {
        **machine(("torch", "torchvision", "openvino", "numpy")),
        "rounds": arguments.rounds,
        "absent": [],
        "foreign": [],
    }
    for row in rows:
        raced, absent = measure(row["network"], 1, ENTRANTS, arguments.rounds, arguments.folder, LEAST)
        result["absent"] += absent
        times = {entrant["precision"]: entrant for entrant in raced}
        row["min_us"] = times["1 bit"]["min_us"]
        for precision in ("int8", "float32"):
            row[f"{precision}_ratio"] = times[precision]["ratio_of_min"] if precision in times else None
        result["foreign"].append(row)
    finish(result, arguments.out)


if __name__ == "__main__":
    main()
