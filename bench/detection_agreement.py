"""Detectors, packed against torch: boxes, the bits that fall the other way, and mAP, on all test images.

    python -m bench.detection_agreement CHECKPOINT ... --data DIR [--part test] [--images N] [--out FILE.json]

Both sides get the same float32 image, one at a time, and heads and first layer are in float32. Where no sign falls the
other way, each box of one side must have one of its class on the other: an IoU above 0.99, and a score within 0.001. A
box is let off where its score is that near to the least one that is asked for. Of an image on which a sign does fall
the other way the first one is looked up, in the order of the graph: it must be a near-tie, within 1e-5 of the largest
number of its layer, or of those that it is a sum of.

mAP is that of torch, of this packed file, and of the one with 8-bit edges, whose ranges are those of the training
images.
"""

from __future__ import annotations

import tempfile
from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

import bbg
from bbg.boxes import Boxes, iou
from bbg.cli.scoring import box_figures, engine_boxes, torch_boxes, trained_network, trained_task
from bbg.conversion.lowering import lower_network
from bbg.conversion.oracle import INPUT, run_free
from bbg.conversion.verify import Terms, outputs_of
from bbg.data import BoxSet, open_boxed, open_data
from bbg.engine import Engine
from bbg.graph.file import read
from bbg.heads import Detection
from bbg.limits import UNLIMITED
from bbg.scoring import SHOWN
from bbg.scoring.detection import OVERLAP, SURE
from bbg.training.checkpoint import Checkpoint
from bench.agreement import first_difference
from bench.markdown import plain, table
from bench.record import Result, parser_of, run
from bench.study.row import pack

TITLE = "Detectors, packed against torch"
SAME, NEAR = 0.99, 1e-3  # the IoU, and the difference of scores, of what is one box
SCORES = (SHOWN, SURE)  # the least scores that boxes are compared at


def unmatched(ours: Boxes, theirs: Boxes, score: float) -> tuple[int, int]:
    """How many boxes of either side have no partner on the other, and how many of these lie at the least `score`.

    Each box has one partner at most; the best one chooses first.
    """
    free = np.ones(len(theirs.scores), bool)
    alone = []
    for box, kind, value in zip(*ours, strict=True):
        fits = free & (theirs.classes == kind) & (np.abs(theirs.scores - value) <= NEAR)
        overlaps = np.where(fits, iou(box[None].astype(np.float64), theirs.boxes.astype(np.float64))[0], 0)
        if len(overlaps) and overlaps.max() > SAME:
            free[overlaps.argmax()] = False
        else:
            alone.append(value)
    left = np.array([*alone, *theirs.scores[free]])
    return len(left), int((left < score + NEAR).sum())


@torch.no_grad()
def compared(network: torch.nn.Module, packed: Path, images: BoxSet) -> Result:
    """All images, one by one: bits, outputs and boxes of both sides."""
    network.eval()
    model = read(packed)
    graph, head = model.graph, cast(Detection, model.head)
    lowered = lower_network(network, torch.from_numpy(images.preprocess.normalize(images.read(0)[0][None])))
    engine = Engine(model, limits=UNLIMITED)
    every_value = graph.with_outputs([name for op in graph.ops for name in op.written])
    observed = Engine(replace(model, graph=every_value, head=None), limits=UNLIMITED)
    flips: list[Result] = []
    same = {score: {"boxes": 0, "alone": 0, "at_the_least_score": 0} for score in SCORES}
    largest, traced = 0.0, 0.0
    for index in range(len(images)):
        x = torch.from_numpy(images.preprocess.normalize(images.read(index)[0][None]))
        ours, theirs = engine.run(x.numpy()), {name: value.numpy() for name, value in network(x).items()}
        values = {INPUT: x, **{name: torch.from_numpy(value) for name, value in observed.run(x.numpy()).items()}}
        free = run_free(lowered.oracle, {INPUT: x})
        found = outputs_of(graph, free)
        traced = max(traced, *(float(np.abs(found[name] - theirs[name]).max()) for name in theirs))
        flip = first_difference(lowered, graph, values, free, 0, Terms(lowered.graph, values))
        if flip["value"] is not None:
            flips.append({"image": images.items[index].image.name, **flip})
            continue
        largest = max(largest, *(float(np.abs(ours[name] - theirs[name]).max()) for name in theirs))
        for score, counts in same.items():
            (mine,), (torchs,) = head.decide(ours, score, OVERLAP), head.decide(theirs, score, OVERLAP)
            alone, excused = unmatched(mine, torchs, score)
            counts["boxes"] += len(torchs.scores)
            counts["alone"] += alone
            counts["at_the_least_score"] += excused
    return {
        "images": len(images),
        "same_bits": len(images) - len(flips),
        "flips": flips,
        "no_near_tie": sum(not flip["near_tie"] for flip in flips),
        "largest_distance": max((flip["distance"] for flip in flips), default=0.0),
        "largest_difference": largest,  # of all outputs, where no bit differs
        "traced_difference": traced,  # of torch's outputs from those of torch layer by layer
        "boxes": [{"score": score, **counts} for score, counts in same.items()],
    }


def measured(path: Path, data: Path, part: str, most: int | None) -> Result:
    """The row of a checkpoint."""
    trained = Checkpoint.load(path)
    network = trained_network(trained, None)
    split = open_data(trained.recipe.dataset, data, preprocess=trained.preprocess)
    images = open_boxed(data, trained.preprocess, part, trained.classes)
    images = images.part(np.arange(min(len(images), most or len(images))))
    head = cast(Detection, trained_task(trained, network).head)
    with tempfile.TemporaryDirectory() as place:
        files = {edges: Path(place) / f"{edges}.bbg" for edges in ("fp32", "int8")}
        for edges, file in files.items():
            pack(trained, network, split, file, edges)
        figures: dict[str, Any] = {"torch": box_figures(images, torch_boxes(network, head, trained.preprocess))["map"]}
        for edges, file in files.items():
            engine = bbg.load(file, limits=UNLIMITED)
            figures[edges] = box_figures(images, engine_boxes(engine, head))["map"]
            figures[f"{edges}_bytes"] = file.stat().st_size
        return {
            "checkpoint": path.parent.name,
            "network": trained.recipe.network,
            "method": trained.recipe.method,
            "epoch": trained.epoch,
            "map": figures,
            **compared(network, files["fp32"], images),
        }


def rows(arguments: Namespace) -> Result:
    """A row per checkpoint."""
    torch.set_num_threads(arguments.threads)
    found = []
    for path in arguments.checkpoints:
        found.append(measured(path, arguments.data, arguments.part, arguments.images))
        print({key: value for key, value in found[-1].items() if key != "flips"}, flush=True)
    return {"part": arguments.part, "same": SAME, "near": NEAR, "detectors": found}


def render(result: Result) -> str:
    """A row per checkpoint, and one for each image with a flipped bit."""

    def share(row: Any) -> str:
        flipped = len(row["flips"])
        return f"{flipped} ({100 * flipped / row['images']:.1f} %)"

    def boxes(row: Any) -> str:
        return "; ".join(
            f"from {100 * b['score']:.0f} % on: {b['boxes']:,}, of which {b['alone']} have no partner"
            + (f", {b['at_the_least_score']} at the least score" if b["at_the_least_score"] else "")
            for b in row["boxes"]
        )

    detectors = table(
        result["detectors"],
        plain("checkpoint"),
        plain("method"),
        plain("images"),
        ("images with a flipped bit", share),
        ("first flips that are no near-tie", lambda r: r["no_near_tie"]),
        ("farthest from its tie", lambda r: f"{r['largest_distance']:.1e}"),
        ("boxes of torch where no bit differs", boxes),
        ("largest difference of the outputs", lambda r: f"{r['largest_difference']:.1e}"),
    )
    figures = table(
        result["detectors"],
        plain("checkpoint"),
        ("mAP in torch", lambda r: f"{100 * r['map']['torch']:.2f}"),
        ("packed, float edges", lambda r: f"{100 * r['map']['fp32']:.2f}"),
        ("kB", lambda r: f"{r['map']['fp32_bytes'] / 1000:,.0f}"),
        ("packed, 8-bit edges", lambda r: f"{100 * r['map']['int8']:.2f}"),
        (" kB", lambda r: f"{r['map']['int8_bytes'] / 1000:,.0f}"),
    )
    flips = [{"checkpoint": row["checkpoint"], **flip} for row in result["detectors"] for flip in row["flips"]]
    shown = table(
        flips,
        plain("checkpoint"),
        plain("image"),
        plain("value", "first value that differs"),
        plain("bits"),
        ("distance over the largest", lambda r: f"{r['distance']:.1e}"),
        ("near-tie", lambda r: "yes" if r["near_tie"] else "NO"),
    )
    text = (
        f"All images of `{result['part']}`, one at a time, heads in float32. Two boxes are one where their IoU is "
        f"above {result['same']} and their scores differ by at most {result['near']}. A flipped bit is one whose value "
        "in torch is on the other side of its threshold; the first of an image begins what follows."
    )
    return f"{text}\n\n{detectors}\n\n{figures}" + (f"\n\n{shown}" if flips else "")


if __name__ == "__main__":
    parser = parser_of("detection_agreement", __doc__, 1)
    parser.add_argument("checkpoints", nargs="+", type=Path, metavar="CHECKPOINT")
    parser.add_argument("--data", type=Path, required=True, help="the folder of images with boxes")
    parser.add_argument("--part", default="test", help="default: %(default)s")
    parser.add_argument("--images", type=int, metavar="N", help="the first N images only; default: all")
    parser.add_argument("--threads", type=int, default=1, help="of torch; default: %(default)s")
    run(parser, rows, ("numpy", "torch"))
