"""The verb inspect: what a packed file, the kernel sets or a checkpoint hold. Only a checkpoint needs torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from bbg.cli.output import show
from bbg.cli.parser import FACTORY, JSON, MODEL, argument, new_file, verb
from bbg.cli.scoring import held_out, trained_network
from bbg.errors import BbgError
from bbg.zoo import resolve

if TYPE_CHECKING:
    from bbg.analysis import Activity, Cost, Entropy, Summary

IMAGES = 1000  # test images that dead filters and stuck activations are looked for on


@verb(
    argument("model", nargs="?", metavar="MODEL", help=MODEL),
    argument("--cpu", action="store_true", help="show the kernel sets instead, and which one runs here"),
    argument("--checkpoint", type=Path, metavar="CKPT", help="look into a checkpoint of bbg train instead"),
    argument("--data", type=Path, metavar="DIR", help="with --checkpoint: folder of the images"),
    FACTORY,
    argument("--histograms", type=new_file, metavar="FILE.png", help="with --checkpoint: also draw the distributions"),
    JSON,
)
def inspect(
    model: str | None,
    cpu: bool,
    checkpoint: Path | None,
    data: Path | None,
    factory: str | None,
    histograms: Path | None,
    json: Path | None,
) -> None:
    """Show what a model is made of; of a checkpoint, also how its bits, gates and filters do."""
    if (model is not None) + cpu + (checkpoint is not None) != 1:
        raise BbgError("inspect takes either a MODEL or --cpu or --checkpoint CKPT; give one of them")
    if checkpoint is not None:
        show(examine(checkpoint, data, histograms, factory), json)
        return
    if data is not None or histograms is not None or factory is not None:
        raise BbgError("inspect takes --data, --factory and --histograms with --checkpoint CKPT only; leave them out")
    if model is None:
        from bbg.engine import kernel_sets

        show({"kernel_sets": [s._asdict() for s in kernel_sets()]}, json)
        return
    from bbg.graph.breakdown import byte_breakdown
    from bbg.graph.file import read

    path = resolve(model)
    packed = read(path)
    costs = packed.graph.costs()
    layers = [
        {
            "layer": c.name,
            "kind": c.kind,
            "output": c.shape,
            "weight_bits": c.bits,
            "bytes": c.bytes,
            "operations": c.macs,
        }
        for c in costs
    ]
    show(
        {
            "layers": layers,
            "bytes": [item._asdict() for item in byte_breakdown(packed)],
            "file": str(path),
            "file_bytes": path.stat().st_size,
            "input": packed.graph.input_shape,
            "classes": None if packed.labels is None else len(packed.labels),
            "binary_operations": sum(c.macs for c in costs if c.bits == 1),
            "byte_operations": sum(c.macs for c in costs if c.bits == 8),
            "float_operations": sum(c.macs for c in costs if c.bits == 32),
            "provenance": [{"note": note, "value": value} for note, value in packed.provenance.items()],
        },
        json,
    )


def examine(checkpoint: Path, data: Path | None, picture: Path | None, factory: str | None) -> dict[str, Any]:
    """The report on `checkpoint`; with `picture`, the histograms are drawn into that file too.

    Dead filters and stuck activations are looked for where there are images: a folder `data`, or the digits.
    """
    import torch

    from bbg import analysis
    from bbg.data import needs_folder, read_batch
    from bbg.training.checkpoint import Checkpoint

    trained = Checkpoint.load(checkpoint)
    model, preprocess = trained_network(trained, factory), trained.preprocess
    split = None
    if data is not None or not needs_folder(trained.recipe.dataset):
        split = held_out(trained.recipe.dataset, data, preprocess, trained.classes)
    blank = torch.zeros(1, len(preprocess.mean), *preprocess.size)
    cost = analysis.costs(model, blank)
    keys = trained.recipe.to_dict().items()
    report: dict[str, Any] = {"recipe": [{"key": key, "value": value} for key, value in keys if value is not None]}
    report |= {"weights": [_weights(row) for row in analysis.weight_entropy(model)]}
    report["gates"] = [
        {"unit": g.name, "mean": g.mean, "std": g.std, "min": g.least, "max": g.largest, "share_negative": g.negative}
        for g in analysis.gates(model)
    ]
    if split is not None:
        pixels, _ = read_batch(split.test, range(0, len(split.test), -(-len(split.test) // IMAGES)))
        images = torch.from_numpy(preprocess.normalize(pixels))
        report["activity"] = [_activity(row) for row in analysis.activity(model, images)]
    report["sign_flips"] = [
        {"epoch": int(row["epoch"]), "share": row["flips"]} for row in trained.history if "flips" in row
    ]
    report["costs"] = [*map(_cost, (row for row in cost.rows if row.shape)), _rest(cost)]
    report["by_bit_width"] = [
        {"bits": bits, "bytes": cost.bytes[bits], "operations": cost.macs[bits]} for bits in cost.macs
    ]
    report |= {
        "checkpoint": str(checkpoint),
        "network": trained.recipe.network,
        "method": trained.recipe.method,
        "epochs": trained.epoch,
        "steps_of_the_next_epoch": trained.step,
        "images_looked_at": 0 if split is None else len(pixels),
        "bytes": sum(cost.bytes.values()),
        "bytes_if_all_were_float32": cost.float_bytes,
    }
    if picture is not None:
        report["histograms"] = str(analysis.histograms(model, picture, title=str(checkpoint)))
    return {key: value for key, value in report.items() if value != []}


def _weights(row: Entropy) -> dict[str, Any]:
    return {
        "layer": row.name,
        "filters": len(row.filters),
        "weights": row.weights,
        "share_of_+1": row.positive,
        "entropy": row.layer,
        "least_of_a_filter": row.least,
        "mean_of_filters": row.mean,
    }


def _activity(row: Activity) -> dict[str, Any]:
    return {
        "layer": row.name,
        "filters": len(row.dead),
        "dead": int(row.dead.sum()),
        "inputs": len(row.positive),
        "stuck": int(row.stuck.sum()),
        "share_of_+1": float(row.positive.mean()),
    }


def _cost(row: Cost) -> dict[str, Any]:
    return {
        "layer": row.name,
        "kind": row.kind,
        "output": row.shape,
        "weight_bits": row.bits,
        "weights": row.weights,
        "other_numbers": row.vectors,
        "bytes": row.bytes,
        "operations": row.macs,
    }


def _rest(cost: Summary) -> dict[str, Any]:
    """All that is no product, as one row: BN, gates, slopes of nonlinearities."""
    rows = [row for row in cost.rows if not row.shape]
    return {
        "layer": "all others",
        "kind": "",
        "output": None,
        "weight_bits": None,
        "weights": None,
        "other_numbers": sum(row.weights + row.vectors for row in rows),
        "bytes": sum(row.bytes for row in rows),
        "operations": 0,
    }
