"""One row of the study, from its start or its last checkpoint to its record.

    python -m bench.study.row resnet20-bbg-8e-s0 --data DIR --runs DIR [--records DIR] [--threads N]

RUNS/NAME keeps the checkpoint, the curves and the packed file; RECORDS/NAME.json says what came of it. A row that is
stopped (SIGTERM, or after --leg minutes) leaves a record that is not finished, and goes on when it is started again.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import signal
import threading
from pathlib import Path
from typing import IO, Any

import torch
from torch import nn

from bbg.cli.convert import example, provenance
from bbg.cli.scoring import engine_figures, trained_network, trained_task
from bbg.conversion import Ranges, convert
from bbg.cpu import cores
from bbg.data import Split, open_recipe
from bbg.engine import load
from bbg.errors import BbgError
from bbg.files import write_bytes, write_json
from bbg.recipe import Recipe
from bbg.training.checkpoint import Checkpoint, digest_of
from bbg.training.device import choose_device, described
from bbg.training.loop import train
from bench.record import machine
from bench.study.rows import LIST, RECORDS, Row, read


def trained(runs: Path, name: str) -> tuple[Checkpoint, nn.Module]:
    """The checkpoint of the row `name`, and its network; a network of a factory is made by that of the list."""
    factories = {row.name: row.recipe.factory for row in read()}
    state = Checkpoint.load(runs / name / "last.ckpt")
    return state, trained_network(state, factories.get(name))


def lock(file: Path) -> IO[str]:
    """Take `file` for this process alone, with its number inside; BbgError where another one has it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    stream = file.open("a+")
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        stream.seek(0)
        raise BbgError(f"process {stream.read() or '?'} works in {str(file.parent)!r} already; wait for it") from None
    stream.truncate(0)
    stream.write(str(os.getpid()))
    stream.flush()
    return stream


def work(row: Row, split: Split, folder: Path, records: Path, clock: threading.Timer | None = None) -> bool:
    """Train `row` as far as it goes and write its record; whether it is finished. `clock` ends the training alone."""
    recipe, last = row.recipe, folder / "last.ckpt"
    start = None if row.start is None else folder.parent / row.start / "last.ckpt"
    for other in row.needs:
        check_finished(folder.parent / other / "last.ckpt")
    if row.teacher is not None:
        recipe = recipe.changed({"teacher": os.path.abspath(folder.parent / row.teacher / "last.ckpt")})
    facts = {"name": row.name, "tier": row.tier, **machine(("torch", "numpy")), "threads": torch.get_num_threads()}
    facts["device"] = described(choose_device())
    facts["commits"] = _commits(folder, str(facts.pop("commit")))
    facts["recipe"] = row.recipe.to_dict()  # without the path of a teacher
    facts["start"], facts["teacher"] = row.start, row.teacher
    try:
        begun = last.exists()
        state = train(recipe, split, folder, init=None if begun else start, resume=begun, progress=False)
    except KeyboardInterrupt:
        found = Checkpoint.load(last)
        reached = {"data": found.data, "epochs": found.epoch, "history": found.history}
        write_json({"finished": False, **facts, **reached}, records / f"{row.name}.json")
        return False
    finally:
        if clock is not None:
            clock.cancel()
    write_json({"finished": True, **facts, **outcome(state, recipe, split, folder)}, records / f"{row.name}.json")
    return True


def check_finished(checkpoint: Path) -> None:
    """Raise BbgError unless all epochs of a row that another one needs are behind it."""
    state = Checkpoint.load(checkpoint)
    if state.epoch < state.recipe.epochs:
        came = f"is at epoch {state.epoch} of {state.recipe.epochs}"
        raise BbgError(f"the row {checkpoint.parent.name!r} {came}; finish it before the rows that begin with it")


def outcome(state: Checkpoint, recipe: Recipe, split: Split, folder: Path) -> dict[str, Any]:
    """What a finished training came to, packed too: its file goes to `folder`, with float32 edges, and that of a
    detector with 8-bit ones besides, with ranges of the training images.

    `weights`: a digest of all tensors of the checkpoint, by which a training done again is seen to be the same.
    """
    network, found = trained_network(state, recipe.factory), {}
    for name, edges in (("packed", "fp32"), ("packed_int8", "int8"))[: 2 if recipe.task == "detection" else 1]:
        file = folder / f"{name}.bbg"
        pack(state, network, split, file, edges)
        found[name] = {"edges": edges, **engine_figures(load(file), split), "bytes": file.stat().st_size}
    last = {name.removeprefix("test_"): value for name, value in state.history[-1].items() if name.startswith("test_")}
    return {
        "data": state.data,
        "epochs": state.epoch,
        **{name: value for name, value in last.items() if name != "loss"},
        **found,
        "parameters": sum(p.numel() for p in network.parameters()),
        "weights": digest_of(state.model),
        "seconds": sum(epoch["seconds"] for epoch in state.history),
        "history": state.history,
    }


def pack(state: Checkpoint, network: nn.Module, split: Split, file: Path, edges: str) -> None:
    """The packed `file` of a trained network, as `bbg convert` makes it."""
    convert(
        network,
        file,
        example(state, split),
        calibration=Ranges.from_dict(state.ranges) or split.train,
        edges=edges,
        preprocess=state.preprocess,
        labels=state.classes,
        provenance=provenance(state),
        head=trained_task(state, network).head,
    )


def _commits(folder: Path, commit: str) -> list[str]:
    """The commits that a row was trained at, this one included; more than one where it went on with other code."""
    file = folder / "commits.txt"
    known = file.read_text().split() if file.exists() else []
    if commit not in known:
        write_bytes(file, "\n".join([*known, commit]).encode())
        known.append(commit)
    return known


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="a row of the list")
    parser.add_argument("--data", type=Path, help="folder of the images")
    parser.add_argument("--cache", type=Path, help="folder in which decoded images are kept for other rows")
    parser.add_argument("--runs", type=Path, required=True, help="where checkpoints and packed files are kept")
    parser.add_argument("--records", type=Path, default=RECORDS)
    parser.add_argument("--list", type=Path, default=LIST)
    parser.add_argument("--threads", type=int, default=cores(), help="threads of torch, part of the bits")
    parser.add_argument("--leg", type=float, help="stop, to be started again, after this many minutes")
    arguments = parser.parse_args()
    rows = {row.name: row for row in read(arguments.list)}
    if arguments.name not in rows:
        raise SystemExit(f"no row {arguments.name!r} in {arguments.list}")
    row, folder = rows[arguments.name], arguments.runs / arguments.name
    arguments.records.mkdir(parents=True, exist_ok=True)
    with lock(folder / "lock"):
        torch.set_num_threads(arguments.threads)
        split = open_recipe(row.recipe, arguments.data, arguments.cache)
        clock = None
        if arguments.leg is not None:
            clock = threading.Timer(60 * arguments.leg, os.kill, (os.getpid(), signal.SIGTERM))
            clock.daemon = True
            clock.start()
        work(row, split, folder, arguments.records, clock)


if __name__ == "__main__":
    main()
