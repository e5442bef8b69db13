"""The verb shard."""

from __future__ import annotations

import argparse
from pathlib import Path

from bbg.cli.output import tell
from bbg.cli.parser import JSON, argument, new_folder, verb


def shard_size(text: str) -> int:
    """A number of bytes, such as 256M."""
    from bbg.data.shard_writer import bytes_of

    try:
        return bytes_of(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no size; give bytes, or a number and K, M or G") from None


@verb(
    argument("data", type=Path, metavar="DIR", help="folder of the images, with train and val in it"),
    argument("--out", type=new_folder, required=True, metavar="DIR", help="new folder for the shards"),
    argument(
        "--size", type=shard_size, default="256M", metavar="SIZE", help="of a shard at most; default: %(default)s"
    ),
    argument("--dataset", default="imagenet", help="name of the data set; default: %(default)s"),
    argument(
        "--seed", type=int, default=0, metavar="N", help="shuffles the images in the shards; default: %(default)s"
    ),
    JSON,
)
def shard(data: Path, out: Path, size: int, dataset: str, seed: int, json: Path | None) -> None:
    """Write an image set as tar shards of webdataset, its files as they are."""
    from bbg.data import open_data
    from bbg.data.report import skipped_lines
    from bbg.data.shard_writer import write_shards
    from bbg.errors import BbgError
    from bbg.log import LOGGER

    if seed < 0:
        raise BbgError(f"--seed is {seed}; allowed are integers from 0")
    split = open_data(dataset, data)
    for line in skipped_lines([*split.train.skipped, *split.test.skipped]):
        LOGGER.info(line)
    written = write_shards(split, out, size, seed)
    report = {f"{half}_{name}": value for half, row in written.items() for name, value in row._asdict().items()}
    tell({"out": str(out), "classes": len(split.classes), **report}, json)
