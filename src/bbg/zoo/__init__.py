"""The zoo: packed models inside the package, each `<name>.bbg` beside its card `<name>.md`."""

from __future__ import annotations

import difflib
import os
from pathlib import Path

from bbg.errors import BbgError

FOLDER = Path(__file__).parent


def names() -> list[str]:
    """The models of the zoo, sorted."""
    return sorted(file.stem for file in FOLDER.glob("*.bbg"))


def path(name: str) -> Path:
    """The packed file of the model `name`; BbgError for an unknown name."""
    if name not in names():
        raise BbgError(f"unknown model {name!r}; the zoo has {_known(name)}")
    return FOLDER / f"{name}.bbg"


def card(name: str) -> str:
    """The card of the model `name`, in Markdown; BbgError for an unknown name."""
    return path(name).with_suffix(".md").read_text(encoding="utf-8")


def resolve(model: str | os.PathLike[str]) -> Path:
    """The packed file that `model` means: a path that exists, else a name of the zoo. BbgError where it is neither."""
    file, name = Path(model), os.fspath(model)
    if file.exists():
        return file
    if name not in names():
        raise BbgError(f"no file and no model of the zoo is called {name!r}; the zoo has {_known(name)}")
    return path(name)


def _known(name: str) -> str:
    """The names of the zoo, and the one that is closest to `name`."""
    close = difflib.get_close_matches(name, names(), 1, 0)
    return (", ".join(names()) or "none") + (f"; did you mean {close[0]!r}?" if close else "")
