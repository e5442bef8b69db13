"""The code in Markdown pages, run as it is printed, in a folder with small data.

Statements of the shell and blocks of Python run in the order of the page; all Python of a page shares one namespace.
What differs from a reader's terminal is stated here: the data are small (`furnish`), and trainings and measurements are
short (`SHORT`).
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

import bbg
from cases.images import photographs
from support.paths import ROOT

# What is added to the command lines of these verbs.
SHORT = {
    "train": ["--set", "epochs=1", "--set", "compile=false", "--set", "width=4"],
    "compare": ["--set", "epochs=1", "--set", "compile=false", "--set", "width=4", "--seeds", "1"],
    "bench": ["--seconds", "0.05"],
}
# The same for a recipe that Python reads.
CHANGES = {"epochs": 1, "compile": False, "activation_epochs": 0}
CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


class Block(NamedTuple):
    """A block of code on a page: its language, its text, and the line where that begins."""

    page: Path
    line: int
    language: str
    text: str


def blocks(page: Path) -> list[Block]:
    """All blocks of code on `page`, in order."""
    text = page.read_text(encoding="utf-8")
    found = re.finditer(r"^ *```(\S*)[^\n]*\n(.*?)^ *```$", text, re.MULTILINE | re.DOTALL)
    return [Block(page, text.count("\n", 0, m.start(2)) + 1, m[1], m[2]) for m in found]


def statements(shell: str) -> list[str]:
    """What a shell runs one after the other: lines, with those that go on, and files written in place."""
    found, lines = [], shell.splitlines()
    while lines:
        statement = lines.pop(0)
        here = re.search(r"<<\s*'?(\w+)'?", statement)
        while lines and (statement.endswith("\\") or (here and statement.rpartition("\n")[2] != here[1])):
            statement += "\n" + lines.pop(0)
        if statement.strip() and not statement.lstrip().startswith("#"):
            found.append(statement)
    return found


def furnish(folder: Path) -> None:
    """The things that the pages speak of: CIFAR-10 in `DIR`, `photos`, `photo.jpg` and `net.bbg`, all of them small."""
    write_classes(folder / "DIR", dict.fromkeys(CLASSES, 4), side=32)
    write_classes(folder / "photos", {"cat": 16, "dog": 16}, side=40)
    (folder / "photo.jpg").write_bytes(bbg.zoo.sample().read_bytes())
    (folder / "net.bbg").write_bytes(bbg.zoo.path("resnet20-cifar10").read_bytes())


def write_classes(root: Path, counts: Mapping[str, int], side: int) -> None:
    """`root/{train,test}/<class>/<n>.jpg`: that many pictures of each class in either half, of a scene a class."""
    for part, tilt in (("train", 0), ("test", 2)):
        for seed, (name, count) in enumerate(counts.items()):
            folder = root / part / name
            folder.mkdir(parents=True)
            pictures = photographs(side, 8, seed // 2)[4 * (seed % 2) :][:4]
            for i in range(count):
                Image.fromarray(pictures[i % 4]).rotate(3 * (i // 4) + tilt).save(folder / f"{i}.jpg")


class Session:
    """Runs the blocks of one page in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.namespace: dict[str, Any] = {"__name__": "__main__"}

    def python(self, block: Block) -> None:
        """The block, in the namespace of those before it."""
        code = "\n" * (block.line - 1) + block.text  # so that a traceback names the line of the page
        exec(compile(code, str(block.page), "exec"), self.namespace)

    def shell(self, statement: str) -> None:
        """One statement. A plain `bbg` runs in this process, since importing torch anew takes seconds each time."""
        words = shlex.split(statement, comments=True)
        if words[0] == "bbg" and not re.search(r"[|<>&;*$]", re.sub(r"'[^']*'|#.*", "", statement)):
            from support.commands import run

            assert run(*words[1:], *short(words[1:])) == 0, statement
            return
        bin_folder = self.folder / ".bin"
        if not bin_folder.exists():
            shim(bin_folder)
        path = os.pathsep.join([str(bin_folder), str(Path(sys.executable).parent), os.environ["PATH"]])
        environment = {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            ["sh", "-e", "-c", statement], capture_output=True, text=True, env=environment, timeout=300, check=False
        )
        assert done.returncode == 0, f"{statement}\n{done.stdout}{done.stderr}"
        print(done.stdout)


def short(words: list[str]) -> list[str]:
    """What is added to the command line `words` of bbg."""
    return SHORT.get(words[0], []) if words else []


def shim(folder: Path, command: str = f"{shlex.quote(sys.executable)} -m bbg") -> None:
    """A command `bbg` in `folder`, which adds what `SHORT` says and runs `command`."""
    folder.mkdir()
    cases = "".join(f'{verb}) set -- "$@" {" ".join(more)};;\n' for verb, more in SHORT.items())
    (folder / "bbg").write_text(f'#!/bin/sh\ncase "$1" in\n{cases}esac\nexec {command} "$@"\n')
    (folder / "bbg").chmod(0o755)


def pages() -> list[Path]:
    """The pages whose code is run: the README and the guides."""
    return [ROOT / "README.md", *sorted((ROOT / "docs" / "guides").glob("*.md"))]
