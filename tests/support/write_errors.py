"""A full disk, or a kill, at every moment: no verb loses a file that was there, nor leaves half of one.

    python -m support.write_errors full 1          # each call of every verb that writes, creates, syncs or renames
    python -m support.write_errors kill 7 predict  # every seventh, of this verb

A verb runs in a forked process, and its call number N fails, or the process is killed then (write_errors.c). What it
does not write is as it was; what it writes is as it was, or whole. When it runs once more, on a disk that has room
again, it ends as if nothing had been, and no draft is left. Where the disk is full, it also ends with a sentence, and
leaves no draft at once.
"""

from __future__ import annotations

import ctypes
import faulthandler
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import tomllib
import traceback
from collections.abc import Iterable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image

from bbg import cli
from bbg.drafts import SUFFIX
from bbg.graph import file as packed
from bbg.recipe import Recipe
from bbg.training.checkpoint import Checkpoint
from bbg.training.folder import LAST
from bbg.training.torch_files import read_torch

SOURCE = Path(__file__).with_suffix(".c")
FULL = "WRITE_ERRORS_FOLDER"
TINY = """\
dataset = "digits"
network = "resnet8"
width = 2
batch_size = 512
epochs = 2
checkpoint_steps = 2
"""


@dataclass(frozen=True)
class Case:
    """`words` of the command line, where W is the folder. `writes`: names below it that may change."""

    words: str
    writes: tuple[str, ...]


CASES = {
    "predict": Case("predict W/photo.png --model W/net.bbg --json W/a.json --csv W/a.csv", ("a.json", "a.csv")),
    "convert": Case("convert W/run/last.ckpt -o W/net.bbg --json W/a.json", ("net.bbg", "a.json")),
    "eval": Case("eval W/net.bbg --json W/a.json --csv W/a.csv --out W/drawn", ("a.json", "a.csv", "drawn")),
    "bench": Case("bench W/net.bbg --seconds 0.01 --json W/a.json", ("a.json",)),
    "inspect": Case("inspect --checkpoint W/run/last.ckpt --histograms W/a.png --json W/a.json", ("a.png", "a.json")),
    "recipe": Case("recipe digits_resnet8 -o W/tiny.toml --json W/a.json", ("tiny.toml", "a.json")),
    "zoo": Case("zoo add W/net.bbg --name kept --json W/a.json", ("zoo", "a.json")),
    "train": Case("train W/tiny.toml --out W/new --json W/a.json", ("new", "a.json")),
    "overwrite": Case("train W/tiny.toml --out W/run --overwrite", ("run",)),
    "resume": Case("train W/tiny.toml --out W/run --resume --epochs 3", ("run",)),
    "compare": Case("compare W/tiny.toml --methods bbg,float --epochs 1 --out W/pair", ("pair",)),
}


def run(words: list[str], folder: Path, at: int, kill: bool = False) -> tuple[int, str, int]:
    """Exit status and output of `bbg` with these words in a forked process, and how many calls were counted.

    A killed process has the status -9, and no output.
    """
    reads, writes = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reads)
        text = io.StringIO()
        status = 0
        faulthandler.dump_traceback_later(60, exit=True)
        shim = ctypes.CDLL(None)
        shim.arm(os.fsencode(f"{folder}/"), at, int(kill))
        try:
            with redirect_stdout(text), redirect_stderr(text):
                cli.main(words)
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else 1
        except BaseException:
            status = 99
            text.write(traceback.format_exc())
        counted = shim.count()
        shim.arm(b"", 0, 0)
        with os.fdopen(writes, "w") as pipe:
            json.dump([status, text.getvalue(), counted], pipe)
        os._exit(0)
    os.close(writes)
    with os.fdopen(reads) as pipe:
        answer = pipe.read()
    ended = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(ended):
        return -os.WTERMSIG(ended), "", 0
    status, said, counted = json.loads(answer)
    return status, said, counted


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def sound(file: Path) -> None:
    """Raise an error where the file is not whole."""
    text = file.read_text() if file.suffix in (".json", ".toml") else ""
    if file.suffix == ".json":
        for document in text.splitlines() if text.startswith('{"image"') else [text]:
            json.loads(document)
    elif file.suffix == ".toml":
        Recipe.from_dict(tomllib.loads(text))
    elif file.suffix == ".ckpt":
        Checkpoint.load(file)
    elif file.suffix == ".bbg":
        packed.read(file)
    elif file.suffix == ".png":
        Image.open(file).load()


def check(name: str, template: Path, work: Path, every: int, kill: bool) -> int:
    """Let the verb fail at every `every`-th of its calls, or kill it there; return how often that was."""
    case = CASES[name]
    words = case.words.replace("W/", f"{work}/").split()

    def anew() -> None:
        shutil.rmtree(work, ignore_errors=True)
        shutil.copytree(template, work)

    anew()
    before = contents(work)
    status, said, total = run(words, work, 0)
    assert status == 0, said
    wanted = contents(work)
    errors = 0
    for at in range(1, total + 1, every):
        anew()
        status, said, _ = run(words, work, at, kill)
        place = f"{name}, call {at} of {total}: exit status {status}: {said}"
        found = contents(work)
        if kill:
            assert status in (0, -signal.SIGKILL), place
        else:
            assert status in (0, 2), place
            assert status == 0 or "bbg: " in said, place
            assert "Traceback" not in said, place
            assert not drafts(found), place
        for file, data in before.items():
            if not file.startswith(case.writes):
                assert found.get(file) == data, f"{file} is not what it was; {place}"
            elif file in wanted and name != "overwrite":
                assert file in found, f"{file} is gone; {place}"
        for file, data in found.items():
            if file.startswith(case.writes) and data != before.get(file):
                try:
                    sound(work / file)
                except Exception as error:
                    raise AssertionError(f"{file} is no whole file ({len(data)} bytes): {error}; {place}") from error
        status, said, _ = run([*words, *again(name, work)], work, 0)
        assert status == 0, f"once more: {said}; {place}"
        now = contents(work)
        assert not drafts(now), place
        for file, data in wanted.items():
            if file.endswith((".bbg", ".toml")):
                assert now.get(file) == data, f"{file} differs from the undisturbed one; {place}"
        same_weights(now, wanted, place)
        errors += 1
    return errors


def drafts(files: Iterable[str]) -> list[str]:
    return [file for file in files if file.endswith(SUFFIX)]


def again(name: str, work: Path) -> list[str]:
    """How a verb is asked to go on with what it began, or to replace it."""
    if name != "train" or not (work / "new").exists():
        return []
    return ["--resume" if (work / "new" / LAST).exists() else "--overwrite"]


def same_weights(now: dict[str, bytes], wanted: dict[str, bytes], place: str) -> None:
    for file, data in wanted.items():
        if file.endswith(".ckpt"):
            ours, theirs = read_torch(now[file])["model"], read_torch(data)["model"]
            assert all(torch.equal(ours[key], theirs[key]) for key in theirs), f"other weights in {file}; {place}"


def prepare(template: Path) -> None:
    """A recipe, a finished run, a packed file, a picture, and outputs of earlier commands."""
    template.mkdir()
    (template / "tiny.toml").write_text(TINY)
    Image.new("L", (8, 8), 128).save(template / "photo.png")
    # In this process: what is imported now is there in all children.
    for words in ("train W/tiny.toml --out W/run", "convert W/run/last.ckpt -o W/net.bbg"):
        cli.main([*words.replace("W/", f"{template}/").split(), "--quiet"])
    for name in ("a.csv", "a.json", "a.png"):
        (template / name).write_text("{}")


def main(arguments: list[str]) -> None:
    how, every, *names = arguments
    folder = Path(os.environ[FULL])
    os.environ["BBG_ZOO"] = str(folder / "work" / "zoo")
    torch.set_num_threads(1)
    prepare(folder / "template")
    for name in names or CASES:
        print(name, check(name, folder / "template", folder / "work", int(every), how == "kill"), flush=True)


def preloaded(arguments: list[str]) -> subprocess.CompletedProcess[str]:
    """Run this program with the library preloaded, in a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(os.path.realpath(folder))
        library = place / "write_errors.so"
        subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, SOURCE, "-ldl"], check=True)
        path = os.pathsep.join(filter(None, sys.path))
        environment = {**os.environ, "PYTHONPATH": path, "LD_PRELOAD": str(library), FULL: str(place)}
        command = [sys.executable, "-m", "support.write_errors", *arguments]
        return subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=False)


if __name__ == "__main__":
    if FULL in os.environ:
        main(sys.argv[1:])
    else:
        done = preloaded(sys.argv[1:])
        print(done.stdout, end="")
        sys.exit(done.returncode)
