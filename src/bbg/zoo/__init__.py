"""The zoo: packed models inside the package, each `<name>.bbg` beside its card `<name>.md`, and a picture."""

from __future__ import annotations

import os
from pathlib import Path

from bbg.errors import BbgError, allowed

FOLDER = Path(__file__).parent


def names() -> list[str]:
    """The models of the zoo, sorted."""
    return sorted(file.stem for file in FOLDER.glob("*.bbg"))


def path(name: str) -> Path:
    """The packed file of the model `name`; BbgError for an unknown name."""
    if name not in names():
        raise BbgError(f"unknown model {name!r}; {allowed(name, names(), 'the zoo has')}")
    return FOLDER / f"{name}.bbg"


def sample() -> Path:
    """A picture for the models of the zoo: a ship, drawn for this package."""
    return FOLDER / "ship.jpg"


def resolve(model: str | os.PathLike[str]) -> Path:
    """The packed file that `model` means: a path, or else the name of a model of the zoo.

    A path that does not exist is returned as it is, so that reading it says why. BbgError for a bare name (without a
    folder or an ending) that is neither.
    """
    found = Path(model)
    if found.exists() or found.name != str(model) or found.suffix:
        return found
    if str(model) not in names():
        has = allowed(model, names(), "the zoo has")
        raise BbgError(f"no file and no model of the zoo is called {str(model)!r}; {has}")
    return path(str(model))


def card(name: str) -> str:
    """The card of the model `name`, in Markdown; BbgError for an unknown name."""
    return path(name).with_suffix(".md").read_text(encoding="utf-8")
