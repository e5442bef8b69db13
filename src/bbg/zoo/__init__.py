"""The zoo: packed models inside the package, each `<name>.bbg` beside its card `<name>.md`."""

from __future__ import annotations

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
        raise BbgError(f"unknown model {name!r}; {_known(name)}")
    return FOLDER / f"{name}.bbg"


def resolve(model: str | os.PathLike[str]) -> Path:
    """The packed file that `model` means: a path, or else the name of a model of the zoo.

    A path that does not exist is returned as it is, so that reading it says why. BbgError for a bare name (without a
    folder or an ending) that is neither.
    """
    found = Path(model)
    if found.exists() or found.name != str(model) or found.suffix:
        return found
    if str(model) not in names():
        raise BbgError(f"no file and no model of the zoo is called {str(model)!r}; {_known(str(model))}")
    return path(str(model))


def card(name: str) -> str:
    """The card of the model `name`, in Markdown; BbgError for an unknown name."""
    return path(name).with_suffix(".md").read_text(encoding="utf-8")


def _known(name: str) -> str:
    """What the zoo has, and which of it is spelled most like `name`."""
    import difflib  # only an error needs it

    close = difflib.get_close_matches(name, names(), 1, 0)
    return f"the zoo has {', '.join(names()) or 'none'}" + (f"; did you mean {close[0]!r}?" if close else "")
