"""Which models there are, and where they lie."""

from __future__ import annotations

import os
from pathlib import Path

from bbg.errors import BbgError, allowed
from bbg.reading import TEXT, contents

FOLDER = Path(__file__).parent  # of those that come with bbg


def added() -> Path:
    """The folder of the models that were added; it need not exist."""
    if chosen := os.environ.get("BBG_ZOO"):
        return Path(chosen)
    data = os.environ.get("XDG_DATA_HOME", "")
    home = os.path.expanduser("~")  # "~" itself where there is none, where Path.home() raises
    return (Path(data) if os.path.isabs(data) else Path(home, ".local", "share")) / "bbg" / "zoo"


def _files() -> dict[str, Path]:
    """The packed file of each name; no added one takes the place of one that comes with bbg."""
    try:
        return {file.stem: file for folder in (added(), FOLDER) for file in folder.glob("*.bbg") if file.is_file()}
    except OSError as error:
        came = f"the folder of the added models, {str(added())!r}, cannot be read ({error.strerror})"
        raise BbgError(f"{came}; set BBG_ZOO to another") from error


def names() -> list[str]:
    """The models of the zoo, sorted."""
    return sorted(_files())


def path(name: str) -> Path:
    """The packed file of the model `name`; BbgError for an unknown name."""
    files = _files()
    if name not in files:
        raise BbgError(f"unknown model {name!r}; {allowed(name, sorted(files), 'the zoo has')}")
    return files[name]


def sample() -> Path:
    """A picture for the models of the zoo: a ship, drawn for this package."""
    return FOLDER / "ship.jpg"


def resolve(model: str | os.PathLike[str]) -> Path:
    """The packed file that `model` means: that of the zoo's model of this name, or else the file of this path.

    Text without a folder or an ending is looked for in the zoo first, so that no file of the current folder takes the
    place of a model; `./NAME`, and a `Path`, are a path. A path that does not exist is returned as it is, so that
    reading it says why. BbgError for such a name that is neither.
    """
    found = Path(model)
    if not isinstance(model, str) or found.name != model or found.suffix:
        return found
    files = _files()
    if model in files:
        return files[model]
    if not os.path.exists(found):
        raise BbgError(
            f"no file and no model of the zoo is called {model!r}; {allowed(model, sorted(files), 'the zoo has')}"
        )
    return found


def card(name: str) -> str:
    """The card of the model `name`, in Markdown; BbgError for an unknown name."""
    file = path(name).with_suffix(".md")
    if not file.is_file():
        return f"# {name}\n\nThis model was added without a card; `bbg inspect {name}` says what the file holds.\n"
    return contents(file, TEXT).decode(errors="replace")
