"""The verb convert."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bbg.cli.output import tell
from bbg.cli.parser import DATA, FACTORY, JSON, argument, packed_file, verb
from bbg.cli.scoring import (
    box_figures,
    engine_boxes,
    engine_logits,
    held_out,
    torch_boxes,
    torch_logits,
    trained_network,
    trained_task,
)

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn

    from bbg.conversion import Report
    from bbg.data import Split
    from bbg.engine import Engine
    from bbg.heads import Classification, Detection, Segmentation
    from bbg.training.checkpoint import Checkpoint

CHECK_IMAGES = 32
KEEPS = "--edges fp32 keeps it"


@verb(
    argument("checkpoint", type=Path, metavar="CKPT", help="a checkpoint of bbg train"),
    argument("-o", "--output", type=packed_file, required=True, metavar="FILE", help="the packed file to write, .bbg"),
    argument(
        "--edges",
        choices=("int8", "fp32"),
        help="of the layers that are not binary; default: int8 where their ranges are known",
    ),
    DATA,
    FACTORY,
    JSON,
)
def convert(
    checkpoint: Path, output: Path, edges: str | None, data: Path | None, factory: str | None, json: Path | None
) -> None:
    """Convert a checkpoint to a packed file, checked layer by layer before it is written."""
    from bbg.conversion import Ranges
    from bbg.conversion import convert as convert_model
    from bbg.conversion.report import CHANGED
    from bbg.data import needs_folder
    from bbg.engine import load
    from bbg.heads import Classification, Detection, Segmentation
    from bbg.limits import UNLIMITED
    from bbg.training.checkpoint import Checkpoint

    trained = Checkpoint.load(checkpoint)
    model = trained_network(trained, factory)
    head = trained_task(trained, model).head
    split = None
    if data is not None or not needs_folder(trained.recipe.dataset):
        split = held_out(trained.recipe.dataset, data, trained.preprocess, trained.classes)
    report = convert_model(
        model,
        output,
        example(trained, split),
        calibration=Ranges.from_dict(trained.ranges) or (None if split is None else split.train),
        edges=edges,
        preprocess=trained.preprocess,
        labels=trained.classes,
        provenance=provenance(trained),
        head=head,
    )
    facts: dict[str, Any] = {}
    if split is None and report.edges is not None:  # random pixels judge nothing
        report = replace(report, edges=replace(report.edges, difference=None))
    if split is not None and isinstance(head, Segmentation):
        facts = compare_masks(head, model, trained, load(output, limits=UNLIMITED), split)
        report = state_figure(report, facts, "miou")
        if report.edges is not None and facts["changed_pixels"] > CHANGED:
            facts["warning"] = f"8-bit edges change the class of {facts['changed_pixels']:.1%} of the pixels; {KEEPS}"
    elif split is not None and isinstance(head, Detection):
        facts = compare_boxes(head, model, trained, load(output, limits=UNLIMITED), split)
        report = state_figure(report, facts, "map")
    elif split is not None and isinstance(head, Classification):
        facts = compare(
            head, torch_logits(model, trained, split), engine_logits(load(output, limits=UNLIMITED), split), split
        )
        report = state_figure(report, facts, "accuracy")
        if report.edges is not None and facts["disagreements"] > CHANGED * len(split.test):
            share = facts["disagreements"] / len(split.test)
            facts["warning"] = f"8-bit edges change the answer on {share:.1%} of the test images; {KEEPS}"
    tell({**report.as_dict(), **facts}, json)


def provenance(trained: Checkpoint) -> dict[str, str | int | float]:
    """Where a network comes from, for its packed file; bench and eval read it too."""
    recipe = trained.recipe
    notes = {key: getattr(recipe, key) for key in ("dataset", "network", "method", "act", "width", "heads", "seed")}
    notes["epochs"] = trained.epoch
    scored = trained.step == 0 and trained.epoch > recipe.activation_epochs
    # Inside an epoch, or with real weights, it is another network that was scored.
    for figure in ("accuracy", "miou", "map"):
        reached = trained.history[-1].get(f"test_{figure}", math.nan) if trained.history and scored else math.nan
        if math.isfinite(reached):  # it is no number where no pixel or box of the test images counts
            notes[f"{figure}_of_the_training"] = reached
    return {key: value for key, value in notes.items() if value is not None}


def state_figure(report: Report, facts: dict[str, Any], figure: str) -> Report:
    """Write into the packed file what it was measured to reach; returns the report with the size that it has then."""
    from bbg.graph.file import read, write

    if not math.isfinite(facts.get(f"{figure}_engine", math.nan)):
        return report
    packed = read(report.path)
    measured = {figure: facts[f"{figure}_engine"], "test_images": facts["test_images"]}
    more = write(report.path, replace(packed, provenance={**packed.provenance, **measured})) - report.after
    *parts, description = report.parts
    edges = None if report.edges is None else replace(report.edges, bytes=report.edges.bytes + more)
    return replace(report, parts=(*parts, replace(description, after=description.after + more)), edges=edges)


def compare(head: Classification, torch_side: np.ndarray, engine_side: np.ndarray, split: Split) -> dict[str, Any]:
    """The figures of both sides, and on how many test images they decide otherwise."""
    in_torch, in_engine = (head.score(side, split.test.labels) for side in (torch_side, engine_side))
    figures: dict[str, float] = {}
    for name, value in in_torch.items():
        figures |= {f"{name}_torch": value, f"{name}_engine": in_engine[name]}
    differs = head.decide(torch_side) != head.decide(engine_side)
    return {"test_images": len(torch_side), **figures, "disagreements": int(differs.sum())}


def compare_masks(
    head: Segmentation, model: nn.Module, trained: Checkpoint, engine: Engine, split: Split
) -> dict[str, Any]:
    """The figures of both sides, and the share of the pixels of the test images on which they decide otherwise."""
    import numpy as np

    from bbg import metrics
    from bbg.data import ImageSet, read_batch
    from bbg.log import track
    from bbg.scoring.segmentation import batch_of, counts_of
    from bbg.training.evaluate import logits_of

    size, classes = trained.preprocess.size, len(trained.classes)
    tables = [np.zeros((classes, classes), np.int64) for _ in range(2)]
    changed, images = 0, len(split.test)
    batches = np.array_split(np.arange(images), -(-images // batch_of(*size)))
    for indices in track(batches, "evaluating"):
        pixels, masks = read_batch(split.test, indices)
        some = ImageSet(pixels, np.zeros(len(pixels), np.int64), tuple(trained.classes), trained.preprocess)
        (logits,) = engine.run(pixels).values()
        answers = head.decide(logits_of(model, some, trained.preprocess).numpy(), size), head.decide(logits, size)
        for side, answer in enumerate(answers):
            tables[side] += counts_of(masks, answer, classes)
        changed += int((answers[0] != answers[1]).sum())
    found = dict(zip(("torch", "engine"), map(metrics.overlap, tables), strict=True))
    figures: dict[str, float] = {f"miou_{side}": overlap.mean for side, overlap in found.items()}
    figures |= {f"pixel_accuracy_{side}": overlap.accuracy for side, overlap in found.items()}
    return {"test_images": images, **figures, "changed_pixels": changed / (images * size[0] * size[1])}


def compare_boxes(
    head: Detection, model: nn.Module, trained: Checkpoint, engine: Engine, split: Split
) -> dict[str, Any]:
    """The mAP of both sides on the test images."""
    figures: dict[str, float] = {}
    runs = {"torch": torch_boxes(model, head, trained.preprocess), "engine": engine_boxes(engine, head)}
    for side, run in runs.items():
        figures |= {f"{name}_{side}": value for name, value in box_figures(split.test, run).items()}
    return {"test_images": len(split.test), **figures}


def example(trained: Checkpoint, split: Split | None) -> Tensor:
    """The batch on which conversion is checked: test images where there are some, else seeded random pixels."""
    import numpy as np
    import torch

    from bbg.data import read_batch

    preprocess = trained.preprocess
    if split is not None:
        apart = max(1, len(split.test) // CHECK_IMAGES)
        pixels, _ = read_batch(split.test, range(0, len(split.test), apart)[:CHECK_IMAGES])
    else:
        shape = (CHECK_IMAGES, *preprocess.size, len(preprocess.mean))
        pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    return torch.from_numpy(preprocess.normalize(pixels))
