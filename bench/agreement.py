"""Where engine and torch name another class for a test image: count the images, and show the bit that began it.

    python -m bench.agreement CHECKPOINT --data DIR [--out FILE.json]

Both sides get the same float32 images, and edges are in float32. An engine that is exact layer by layer can differ end
to end only by cascades that start at a near-tie: a bit whose torch value lies within 1e-5 of the layer's largest value
of its threshold. For each image the first packed value on which the two runs differ is looked up, in the order of the
graph.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

import bbg
from bbg.conversion.lowering import lower_network
from bbg.conversion.oracle import Lowered, run_free
from bbg.conversion.verify import TOLERANCE, Terms
from bbg.data import open_data
from bbg.data.loader import Loader
from bbg.engine import Engine
from bbg.graph import Graph
from bbg.graph.file import PackedModel, read
from bbg.training.checkpoint import Checkpoint


def first_difference(
    lowered: Lowered,
    graph: Graph,
    engine: Mapping[str, torch.Tensor],
    free: Mapping[str, torch.Tensor],
    image: int,
    terms: Terms | None = None,
) -> dict[str, Any]:
    """The first bits or bytes of `image` on which the engine's values and those of torch's own run of the batch differ.

    Values that `engine` has not are passed over. `terms`: how large the numbers are that a value is a sum of; then the
    distance from the tie is over these, where they are larger than the layer's largest value.
    """
    for name in (name for op in graph.ops for name in op.written):
        if name not in lowered.oracle or name not in engine or not lowered.oracle[name].is_discrete:
            continue
        torch_op = lowered.oracle[name]
        source = torch_op.inputs[0].name
        distance = torch_op.divergence(engine[name], free[source], terms and terms.of(source))[image]
        if distance.any():
            nearest = float(distance.max())
            return {
                "value": name,
                "bits": int(distance.count_nonzero()),
                "distance": nearest,
                "near_tie": nearest <= TOLERANCE,
            }
    return {"value": None, "bits": 0, "distance": 0.0, "near_tie": False}


@torch.no_grad()
def compare(trained: Checkpoint, data: Path | None, packed: Path | None) -> dict[str, Any]:
    """Both accuracies over all test images, the differences of the logits, and the first difference of each image."""
    split = open_data(trained.recipe.dataset, data, preprocess=trained.preprocess)
    network = trained.network()
    batches = list(Loader(split.test, 250, preprocess=trained.preprocess).epoch())
    if packed is None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "network.bbg"
            bbg.convert(
                network, path, batches[0][0][:32], edges="fp32", preprocess=trained.preprocess, labels=trained.classes
            )
            model = read(path)
    else:
        model = read(packed)
    engine = Engine(model)
    bits = [op.bits for op in model.graph.ops if op.bits is not None]
    shown = Engine(PackedModel(model.graph.with_outputs(bits)))
    lowered = lower_network(network, batches[0][0][:1].contiguous())

    rows, largest, differences = [], 0.0, []
    right = {"torch": 0, "engine": 0}
    done = 0
    for x, labels in batches:
        x = x.contiguous()
        ours, theirs = engine(x.numpy()), network(x).numpy()
        right["torch"] += int((theirs.argmax(1) == labels.numpy()).sum())
        right["engine"] += int((ours.argmax(1) == labels.numpy()).sum())
        differences.append(np.abs(ours - theirs).max(axis=1))
        largest = max(largest, float(np.abs(theirs).max()))
        others = np.flatnonzero(ours.argmax(1) != theirs.argmax(1))
        if len(others):
            # The whole batch again: torch's own sums depend on how many images it is given.
            values = {name: torch.from_numpy(value) for name, value in shown(x.numpy()).items()}
            free = run_free(lowered.oracle, {"input": x})
            for i in others:
                rows.append({"image": done + int(i), **first_difference(lowered, model.graph, values, free, int(i))})
        done += len(x)
    per_image = np.concatenate(differences)
    return {
        "network": trained.recipe.network,
        "images": done,
        "accuracy_in_torch": right["torch"] / done,
        "accuracy_in_the_engine": right["engine"] / done,
        "largest_logit": largest,
        "logit_difference": {
            "largest": float(per_image.max()),
            "percentile_99": float(np.percentile(per_image, 99)),
            "median": float(np.median(per_image)),
        },
        "disagreements": rows,
    }


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--packed", type=Path, help="a packed file of this checkpoint; none: convert it here")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    result = compare(Checkpoint.load(options.checkpoint), options.data, options.packed)
    table = Table("image", "first different value", "bits", "distance / largest", "near-tie")
    for row in result["disagreements"]:
        near = "yes" if row["near_tie"] else "NO"
        table.add_row(str(row["image"]), str(row["value"]), str(row["bits"]), f"{row['distance']:.1e}", near)
    console = Console()
    console.print(table)
    console.print({key: value for key, value in result.items() if key != "disagreements"})
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
