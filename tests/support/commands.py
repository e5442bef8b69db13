"""Command lines as a user types them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bbg.cli import main
from support.paths import ROOT

RECIPE = str(ROOT / "src" / "bbg" / "recipes" / "digits_resnet8.toml")


QUICK = ["--epochs", "1", "--set", "width=4", "--set", "bn_batches=0"]


def run(*arguments: object) -> int:
    """The exit status of `bbg arguments`."""
    try:
        main([str(a) for a in arguments])
    except SystemExit as done:
        return int(done.code or 0)
    return 0


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(folder: Path, capsys: Any, words: str, *arguments: object, status: int = 2) -> None:
    """Assert that `bbg arguments` ends with `status` and one line holding `words`, and leaves `folder` as it was."""
    before = contents(folder)
    capsys.readouterr()
    assert run(*arguments) == status
    error = capsys.readouterr().err
    assert error.startswith("bbg: ")
    assert error.count("\n") == 1
    assert words in error
    assert contents(folder) == before
