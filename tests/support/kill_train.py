"""Run by test_kill.py: `python kill_train.py OUT SEED`. Trains a small network in child processes and kills them.

Prints one JSON object: where each child was killed, and what lay in the folder then. The children are forked from a
process that has imported torch but not yet used it, so that each costs its training only.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch

from bbg.data import open_data
from bbg.drafts import SUFFIX
from bbg.recipe import Recipe
from bbg.training import loop
from bbg.training import step as step_of
from bbg.training.checkpoint import Checkpoint

RECIPE = Recipe(
    dataset="digits",
    network="resnet8",
    width=4,
    act="rprelu",
    epochs=3,
    batch_size=64,
    lr=5e-3,
    crop_padding=1,
    flip=False,
    bn_batches=2,
    checkpoint_steps=4,
)


def train(out: Path, resume: bool, pipe: int, slow_save: int) -> None:
    """A training that tells of every step; at checkpoint number `slow_save` it writes half of the file and waits."""
    train_step = step_of.train_step
    save, saves = torch.save, 0

    def step(*args: Any) -> Any:
        figures = train_step(*args)
        os.write(pipe, b"s")
        return figures

    def half(value: Any, file: Any) -> None:
        nonlocal saves
        saves += 1
        save(value, file)
        if saves == slow_save:
            file.truncate(file.tell() // 2)
            file.flush()
            os.write(pipe, b"h")
            time.sleep(600)

    step_of.train_step = step
    torch.save = half
    torch.set_num_threads(1)
    loop.train(RECIPE, open_data("digits", None), out, resume=resume, progress=False)


def run(out: Path, resume: bool, kill_after: int = 0, slow_save: int = 0, delay: float = 0.0) -> dict[str, Any]:
    """Fork a training; SIGKILL it `delay` seconds after step number `kill_after`, or within checkpoint `slow_save`."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(read)
            train(out, resume, write, slow_save)
            status = 0
        finally:
            os._exit(status)
    os.close(write)
    steps = 0
    for told in iter(lambda: os.read(read, 1), b""):
        steps += told == b"s"
        if told == b"h" or steps == kill_after:
            time.sleep(delay)
            os.kill(child, signal.SIGKILL)
            break
    os.close(read)
    _, status = os.waitpid(child, 0)
    state = Checkpoint.load(out / loop.LAST)
    return {
        "killed": os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL,
        "failed": os.WIFEXITED(status) and os.WEXITSTATUS(status) != 0,
        "steps": steps,
        "at": [state.epoch, state.step],
        "half_written": any(out.glob(f".*{SUFFIX}")),
    }


def main() -> None:
    out, draw = Path(sys.argv[1]), random.Random(int(sys.argv[2]))
    found = [run(out / "undisturbed", False)]
    found.append(run(out / "killed", False, kill_after=draw.randint(5, 25), delay=draw.random() * 0.02))
    found.append(run(out / "killed", True, slow_save=draw.randint(2, 4)))
    found.append(run(out / "killed", True, kill_after=draw.randint(3, 12), delay=draw.random() * 0.02))
    found.append(run(out / "killed", True))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
