"""What `bbg predict --ray` does in the place of `bbg predict`."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bbg.cli.output import tell
from bbg.cli.parser import argument, count
from bbg.errors import BbgError

ARGUMENTS = (
    argument(
        "--ray",
        action="store_true",
        help="by workers of Ray, for very many images: files, folders, tar shards or Parquet files; into Parquet files "
        "in --out DIR. A run that was ended goes on when it is started again",
    ),
    argument("--workers", type=count, metavar="N", help="with --ray: engines; default: all cores, or all free CPUs"),
    argument(
        "--address", metavar="ADDRESS", help="with --ray: of a cluster, such as auto; default: this machine alone"
    ),
)
# Options that have no place beside --ray, and what to do instead.
OTHERS = {
    "json": "the answers are Parquet files in --out",
    "csv": "the answers are Parquet files in --out",
    "xml": "the answers are Parquet files in --out",
    "coco": "the answers are Parquet files in --out",
    "threads": "a worker has one thread, and --workers says how many there are",
    "allow_urls": "workers fetch nothing",
    "every": "workers read no videos",
}


def check(ray: bool, workers: int | None, address: str | None, out: Path | None, others: Mapping[str, Any]) -> None:
    """BbgError for options that do not go together."""
    if not ray:
        for name, value in (("workers", workers), ("address", address)):
            if value is not None:
                raise BbgError(f"--{name} is for workers of Ray; add --ray, or leave it out")
        return
    if out is None:
        raise BbgError("--ray writes Parquet files into a folder; say which one by --out DIR")
    for name, why in OTHERS.items():
        if others[name] not in (None, False, 1 if name == "every" else None):
            raise BbgError(f"--{name.replace('_', '-')} has no place beside --ray: {why}; leave it out")


def predict_all(sources: list[str], model: str, out: Path, **options: Any) -> None:
    """Score all of `sources`, say how many, and end with status 1 where an image cannot be read."""
    if options["address"] is None:
        _close()
    from bbg.scoring.ray import answer_all

    found = answer_all(model, sources, out, **options)
    report: dict[str, Any] = {"out": str(out), "images": found.images, "errors": found.errors}
    if found.done < found.images:
        report["of an earlier run"] = found.images - found.done
    if found.done:
        report |= {"seconds": round(found.seconds, 1), "images_per_s": round(found.done / found.seconds, 1)}
        report["workers"] = found.workers
    tell(report)
    if found.errors:
        sys.exit(1)


def _close() -> None:
    """Give a Ray of this machine alone a secret: it listens on all networks, and runs what it is sent.

    Ray reads that when it is imported, and so do the processes that it starts. One that was imported before has what
    the program gave it.
    """
    import secrets

    if "ray" not in sys.modules and "RAY_AUTH_MODE" not in os.environ:
        os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
