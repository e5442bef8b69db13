"""The verb check."""

from __future__ import annotations

import argparse
from pathlib import Path

from bbg.cli.output import show
from bbg.cli.parser import JSON, argument, count, verb


def shape(text: str) -> tuple[int, int, int]:
    """Channels, height and width of an image, as "3,224,224"."""
    sizes = tuple(int(part) if part.strip().isascii() and part.strip().isdigit() else 0 for part in text.split(","))
    if len(sizes) != 3 or min(sizes) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no shape; give channels, height and width, as 3,224,224")
    return sizes[0], sizes[1], sizes[2]


@verb(
    argument(
        "factory", metavar="MODULE:FACTORY", help="the function that makes the network, as package.module:function"
    ),
    argument("--shape", type=shape, default="3,224,224", metavar="C,H,W", help="of one image; default: 3,224,224"),
    argument("--classes", type=count, metavar="N", help="num_classes of the factory; default: its own"),
    JSON,
)
def check(factory: str, shape: tuple[int, int, int], classes: int | None, json: Path | None) -> None:
    """Say whether a network converts and which layers become binary; else all causes, with lines of its code."""
    import torch

    from bbg.conversion import check as check_network
    from bbg.training.factory import made_for

    found = check_network(made_for(factory, shape[0], classes), torch.zeros(1, *shape))
    rows = [
        {"name": row.name, "layer": row.layer, "action": row.action, "why": row.why, "MACs": row.macs or None}
        for row in found.rows
    ]
    converts, counts, *note = str(found).splitlines()
    told = {"layers": rows, "counts": counts, "result": converts, **({"note": note[0]} if note else {})}
    show(found.to_dict(), json, told)
