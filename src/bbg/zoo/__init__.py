"""The zoo: packed models inside the package, each `<name>.bbg` beside its card `<name>.md`."""

from __future__ import annotations

import difflib
from pathlib import Path

from bbg.errors import BbgError

FOLDER = Path(__file__).parent


def names() -> list[str]:
    """The models of the zoo, sorted."""
    return sorted(file.stem for file in FOLDER.glob("*.bbg"))


def path(name: str) -> Path:
    """The packed file of the model `name`; BbgError for an unknown name."""
    if name not in names():
        close = difflib.get_close_matches(name, names(), 1, 0)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise BbgError(f"unknown model {name!r}; the zoo has {', '.join(names()) or 'none'}{hint}")
    return FOLDER / f"{name}.bbg"


def card(name: str) -> str:
    """The card of the model `name`, in Markdown; BbgError for an unknown name."""
    return path(name).with_suffix(".md").read_text(encoding="utf-8")
