"""The folder of a run: what a training leaves in it, and who may write there.

recipe.toml   the recipe as it ran, with all keys: `bbg train recipe.toml` trains it again
run.json      the data (digest, counts), and of each session: versions, machine, when it began and how it ended
last.ckpt     the training at its last checkpoint; a folder without one holds no run yet, and may be used
best.ckpt     where the recipe says `keep_best`: at its best epoch
float_self.pt where it is its own teacher (`bbg.training.teacher`): the float weights, a state dict
history.csv   curves.png   tensorboard/
skipped.csv   the files of the data that are left out or damaged, with the reasons, where there are some
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from bbg._version import __version__
from bbg.cpu import name_of_cpu
from bbg.data.damage import damage_of
from bbg.data.report import named_lines, write_skipped
from bbg.data.sets import Split
from bbg.errors import BbgError
from bbg.files import locked, refuse_overlap, write_json, write_text
from bbg.log import LOGGER
from bbg.reading import TEXT, contents
from bbg.training.checkpoint import Checkpoint
from bbg.training.device import described
from bbg.training.plots import write_history
from bbg.training.processes import ALONE, Processes

LAST, BEST, RECIPE, FACTS = "last.ckpt", "best.ckpt", "recipe.toml", "run.json"
SKIPPED, FLOAT_SELF = "skipped.csv", "float_self.pt"
OTHERS = ("history.csv", "curves.png", "tensorboard", SKIPPED, FLOAT_SELF)
FILES = (LAST, BEST, RECIPE, FACTS, *OTHERS)
MARK = "# The recipe of this run, as it was trained.\n"  # a recipe.toml without it is the user's own
LIBRARIES = ("torch", "torchvision", "lightning-fabric", "numpy", "pillow")
RUNS = Path("runs")


def new_folder(name: str, parent: Path = RUNS) -> Path:
    """A folder for a new run: `parent/name`, or the first of `parent/name-2`, `-3`, ... that is not there. It is made.

    So two trainings that start at the same time get two folders.
    """
    number = 1
    while True:
        folder = parent / (name if number == 1 else f"{name}-{number}")
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            number += 1
        except OSError as e:
            raise BbgError(f"cannot make folder {str(folder)!r}: {e.strerror}; give a writable --out folder") from e


def newest_folder(name: str, parent: Path = RUNS) -> Path:
    """Of the folders that `new_folder` makes, the one with the newest checkpoint; BbgError where none has one."""
    ours = re.compile(rf"{re.escape(name)}(-\d+)?")
    runs = [file for file in parent.glob(f"*/{LAST}") if ours.fullmatch(file.parent.name)]
    if not runs:
        raise BbgError(f"nothing to resume: no {str(parent / name / LAST)!r}; start without --resume, or say --out")
    return max(runs, key=lambda file: file.stat().st_mtime_ns).parent


def refuse_used(folder: Path) -> None:
    """Raise BbgError where `folder` holds a run, or files under the names of a run that none has written."""
    if os.path.lexists(folder / LAST):
        hint = "go on with --resume, start anew with --overwrite, or give another --out"
        raise BbgError(f"{str(folder)!r} holds a run already; {hint}")
    _refuse_foreign(folder)


def refuse_own(folder: Path, read: Iterable[tuple[str, str | Path | None]]) -> None:
    """Raise BbgError where a new run in `folder` would write over one of the files `read` that it starts from."""
    written = [("a file of the run", folder / name) for name in FILES]
    refuse_overlap(written, ((name, Path(path)) for name, path in read if path is not None))


def _refuse_foreign(folder: Path) -> None:
    path = folder / RECIPE
    try:
        with open(path, encoding="utf-8") as file:
            ours = file.readline() == MARK
    except (FileNotFoundError, NotADirectoryError):
        ours = os.path.lexists(folder / LAST)  # runs of older versions have no recipe in their folder
        path = next((folder / name for name in (BEST, FACTS, *OTHERS) if os.path.lexists(folder / name)), path)
        if not os.path.lexists(path):
            return
    except (OSError, ValueError):
        ours = False
    if not ours:
        raise BbgError(f"{str(path)!r} was not written by a run, and would be lost; give another --out")


@contextmanager
def session(
    folder: Path | None, state: Checkpoint, split: Split, device: torch.device, overwrite: bool, processes: int = 1
) -> Iterator[None]:
    """A training that begins at `state` and writes into `folder` (None: nothing is written).

    Recipe and facts are written before the first step. A run that ends without a checkpoint, whatever the reason,
    takes its files away again, and the folder where nothing else is in it.
    """
    if folder is None:
        yield
        return
    _refuse_foreign(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise BbgError(f"cannot make folder {str(folder)!r}: {e.strerror}; give a writable --out folder") from e
    with locked(folder):
        yield from _session(folder, state, split, device, overwrite, processes)


def _session(
    folder: Path, state: Checkpoint, split: Split, device: torch.device, overwrite: bool, processes: int
) -> Iterator[None]:
    """`session` in a folder that is there and held."""
    new = overwrite or not (folder / LAST).exists()
    facts = _facts(folder, new, state, split, device, processes)
    if new:
        _remove(folder)
    _write(folder, state, facts)
    write_skipped(split, folder / SKIPPED)
    end = "finished"
    try:
        yield
    except BaseException as error:
        end = "stopped" if isinstance(error, KeyboardInterrupt) else " ".join(f"{error}".split()) or repr(error)
        raise
    finally:
        if (folder / LAST).exists():
            facts["sessions"][-1] |= {"ended": _now(), "end": end, "to": _place(state)}
            _write(folder, state, facts)
        else:
            _remove(folder)
            if not any(folder.iterdir()):
                folder.rmdir()


def keep(folder: Path | None, state: Checkpoint, best: bool = False) -> None:
    """Write `state` to the folder as its last or its best checkpoint, with the history behind a whole epoch."""
    if folder is not None:
        state.save(folder / (BEST if best else LAST))
        LOGGER.debug("kept %s: epoch %d, step %d", folder / (BEST if best else LAST), state.epoch, state.step)
        if state.step == 0 and not best:
            write_history(state.history, folder)


def tell_damaged(folder: Path | None, split: Split, processes: Processes = ALONE) -> None:
    """Say which images turned out damaged since it was said last, and write them down beside those left out before.

    They are those that any of the processes met, each once. All processes call this; the first one says it.
    """
    halves = {name: damage_of(data) for name, data in (("training", split.train), ("test", split.test))}
    met = processes.gather({name: damage.since(damage.told) for name, damage in halves.items()})
    damaged = False
    for name, damage in halves.items():
        for rows in met:
            damage.add(rows[name])
        new, damage.told = damage.since(damage.told), len(damage)
        if not new:
            continue
        damaged = True
        if processes.first:
            lines = "\n".join(named_lines(new))
            LOGGER.warning(
                "%d %s images could not be read, and others of their class stood in for them:\n%s",
                len(new), name, lines,
            )  # fmt: skip
    if damaged and folder is not None:
        write_skipped(split, folder / SKIPPED)


def identity(split: Split) -> dict[str, Any]:
    """What tells these images from others: how many there are, and a digest of them, for both halves."""
    halves = {"training": split.train, "test": split.test}
    return {name: {"images": len(data), "digest": data.digest()} for name, data in halves.items()}


def _facts(
    folder: Path, new: bool, state: Checkpoint, split: Split, device: torch.device, processes: int
) -> dict[str, Any]:
    """What run.json holds while this session runs."""
    skipped = {"training": len(split.train.skipped), "test": len(split.test.skipped)}
    data = {half: {**facts, "skipped": skipped[half]} for half, facts in state.data.items()}
    here = {
        "began": _now(),
        "ended": None,
        "end": None,
        "from": _place(state),
        "to": None,
        "bbg": __version__,
        "python": platform.python_version(),
        **{library: _version(library) for library in LIBRARIES},
        "cpu": name_of_cpu(),
        "threads": torch.get_num_threads(),
        "device": described(device),
        "processes": processes,
    }
    before = [] if new else _sessions(folder)
    return {"dataset": state.recipe.dataset, "classes": state.classes, "data": data, "sessions": [*before, here]}


def _sessions(folder: Path) -> list[Any]:
    try:
        found = json.loads(contents(folder / FACTS, TEXT))["sessions"]
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return []  # it is for reading only: a run does not depend on it
    return found if isinstance(found, list) else []


def _write(folder: Path, state: Checkpoint, facts: dict[str, Any]) -> None:
    write_text(folder / RECIPE, MARK + state.recipe.to_toml())
    write_json(facts, folder / FACTS)


def _remove(folder: Path) -> None:
    for name in FILES:
        path = folder / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _place(state: Checkpoint) -> dict[str, int]:
    return {"epoch": state.epoch, "step": state.step}


def _version(library: str) -> str | None:
    try:
        return version(library)
    except PackageNotFoundError:
        return None


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
