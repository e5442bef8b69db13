"""The verb train."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from bbg.cli.output import tell
from bbg.cli.parser import (
    CACHE,
    CHANGES,
    DATA,
    DEVICE,
    FACTORY,
    JSON,
    RECIPE,
    argument,
    changes_of,
    count,
    new_folder,
    verb,
)
from bbg.log import LOGGER

if TYPE_CHECKING:
    from bbg.data import Split
    from bbg.recipe import Recipe
    from bbg.training.launch import Plan
    from bbg.training.processes import Processes


def rank(text: str) -> int:
    """The number of a machine, from 0."""
    if not text.isdecimal() or len(text) > 9:
        raise argparse.ArgumentTypeError(f"{text!r} is no integer from 0")
    return int(text)


class Start(NamedTuple):
    """How a training starts; `out` None: in a new folder."""

    out: Path | None
    init: Path | None
    resume: bool
    overwrite: bool


@verb(
    RECIPE,
    DATA,
    FACTORY,
    CHANGES,
    argument("--epochs", type=int, metavar="N", help="short for --set epochs=N"),
    argument("--seed", type=int, metavar="N", help="short for --set seed=N"),
    argument("--init", type=Path, metavar="FILE", help="start from the weights of this checkpoint or state dict"),
    argument("--resume", action="store_true", help="go on with the run in --out; default: the newest runs/<recipe>*"),
    argument("--overwrite", action="store_true", help="put the new run in the place of the one in --out"),
    argument("--out", type=new_folder, metavar="DIR", help="folder of the run; default: a new one, runs/<recipe>[-N]"),
    DEVICE,
    argument("--processes", type=count, metavar="N", help="share every batch between N processes; of GPUs, one each"),
    argument("--nodes", type=count, metavar="M", help="machines that train together, with N processes each"),
    argument("--node-rank", type=rank, metavar="R", help="which of them this one is, from 0"),
    argument("--master", metavar="HOST:PORT", help="address of machine 0, with a port that is free there"),
    CACHE,
    JSON,
)
def train(
    recipe: str,
    data: Path | None,
    factory: str | None,
    changes: list[str],
    epochs: int | None,
    seed: int | None,
    init: Path | None,
    resume: bool,
    overwrite: bool,
    out: Path | None,
    device: str | None,
    processes: int | None,
    nodes: int | None,
    node_rank: int | None,
    master: str | None,
    cache: Path | None,
    json: Path | None,
) -> None:
    """Train a network by a recipe."""
    from bbg.recipe import Recipe

    chosen = Recipe.find(recipe).changed(changes_of(changes, epochs=epochs, seed=seed, factory=factory))
    start, name = Start(out, init, resume, overwrite), Path(recipe).stem
    from bbg.training.launch import launch, plan_of
    from bbg.training.processes import joined

    plan = plan_of(processes, nodes, node_rank, master)
    if plan is not None:
        _check(chosen, start, name, device, json, plan)
        options = {"--data": data, "--factory": factory, "--epochs": epochs, "--seed": seed, "--device": device}
        options |= {"--init": init, "--out": out, "--cache": cache, "--json": json}
        flags = {"--resume": resume, "--overwrite": overwrite, **_flags_of_messages()}
        given = [f"{key}={value}" for key, value in options.items() if value is not None]
        given += [key for key, value in flags.items() if value]
        status = launch(["train", *given, *(f"--set={change}" for change in changes), "--", recipe], plan)
        raise SystemExit(status)
    with joined() as group:
        _train(chosen, start, name, data, device, cache, json, group)


def _train(
    chosen: Recipe,
    given: Start,
    name: str,
    data: Path | None,
    device: str | None,
    cache: Path | None,
    json: Path | None,
    group: Processes,
) -> None:
    """The training itself, of which this process is one of `group`."""
    from bbg.data import found
    from bbg.training.folder import BEST, LAST
    from bbg.training.folder import new_folder as new_run
    from bbg.training.loop import train as train_by

    start = group.decided(lambda: _again(group) or _check(chosen, given, name, device, json))
    split = _opened(chosen, data, cache, group)
    for line in found(split):
        LOGGER.info(line)
    for key, value in chosen.to_dict().items():
        if value is not None:
            LOGGER.info("%s = %s", key, value)
    folder = group.decided(lambda: start.out or new_run(name))
    LOGGER.info("the run is kept in %s", folder)
    how: dict[str, Any] = {"init": start.init, "resume": start.resume, "overwrite": start.overwrite}
    state = train_by(chosen, split, folder, **how, device=device, processes=group)
    report = {
        "checkpoint": str(folder / LAST),
        "epochs": state.epoch,
        "test_images": len(split.test),
        **{name: value for name, value in state.history[-1].items() if name.startswith("test_")},
    }
    if chosen.keep_best:
        report["best_checkpoint"] = str(folder / BEST)
    if group.first:
        tell(report, json)


def _again(group: Processes) -> Start | None:
    """How processes that were started again go on; None where they are the first."""
    from bbg.training.folder import LAST

    folder = group.begun()
    if folder is None:
        return None
    there = (folder / LAST).exists()
    LOGGER.info("started again%s", f", from {folder / LAST}" if there else "")
    return Start(folder, None, there, not there)


def _check(
    chosen: Recipe, start: Start, name: str, device: str | None, json: Path | None, plan: Plan | None = None
) -> Start:
    """`start` with its folder, as far as it has one yet; BbgError for what can be told before any image is read."""
    from bbg.training.check import check_parts, check_recipe, check_start
    from bbg.training.device import check_kind, choose_device
    from bbg.training.folder import newest_folder, refuse_own, refuse_used
    from bbg.training.processes import Processes

    check_recipe(chosen)
    kind = choose_device(device)
    if plan is not None:
        check_kind(kind, device, plan.processes)
        check_parts(chosen.batch_size, Processes(0, plan.total))
    out, init, resume, overwrite = start
    check_start(chosen, out, init, resume, overwrite)
    if resume and out is None:
        out = newest_folder(name)
    elif out is not None and not (resume or overwrite):
        refuse_used(out)
    if out is not None:
        refuse_own(out, [("--json", json)])
    return start._replace(out=out)


def _opened(chosen: Recipe, data: Path | None, cache: Path | None, group: Processes) -> Split:
    """The images. Where a cache is filled, one process of each machine does it."""
    from bbg.data import open_recipe

    if cache is None:
        return open_recipe(chosen, data, cache)
    if group.local_rank == 0:
        split = open_recipe(chosen, data, cache)
        group.wait()
        return split
    group.wait()
    return open_recipe(chosen, data, cache)


def _flags_of_messages() -> dict[str, bool]:
    return {"-q": not LOGGER.isEnabledFor(logging.INFO), "-v": LOGGER.isEnabledFor(logging.DEBUG)}
