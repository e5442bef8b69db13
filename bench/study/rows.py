"""The list of trainings, bench/study.toml: in order of worth, one line each.

    [common] [recipes.adam]           # keys of a recipe: those that all rows share, and those that some share
    rows = [ { name = "resnet20-bbg-8e-s0", recipe = "adam", epochs = 8, seed = 0, tier = "A", method = "bbg" } ]

A row names its recipe, epochs, seed and tier, and any further key of a recipe. `start` names another row, whose weights
it begins with; `teacher` one whose outputs it learns (distillation). Its name is that of its record and of its folder;
a row whose record is there is done.
"""

from __future__ import annotations

import json
import re
import tomllib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bbg.errors import BbgError
from bbg.recipe import Recipe
from bench.record import RESULTS, ROOT

LIST = ROOT / "bench" / "study.toml"
RECORDS = RESULTS / "study"

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")


@dataclass(frozen=True)
class Row:
    """One training of the list."""

    name: str
    tier: str
    recipe: Recipe
    start: str | None = None
    teacher: str | None = None

    @property
    def needs(self) -> list[str]:
        """The rows that must be finished before this one."""
        return [name for name in (self.start, self.teacher) if name is not None]


def read(file: Path = LIST) -> list[Row]:
    """The rows of the list in `file`, in its order; BbgError for a row that is not one, or a name that comes twice."""
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
        lines = content["rows"]
    except (OSError, ValueError, KeyError) as error:
        raise BbgError(f"{file.name}: is no list of rows ({error})") from error
    common, recipes = content.get("common", {}), content.get("recipes", {})
    rows = [_row(dict(line), {name: {**common, **keys} for name, keys in recipes.items()}) for line in lines]
    names = [row.name for row in rows]
    for name in names:
        if names.count(name) > 1:
            raise BbgError(f"{file.name}: two rows are called {name!r}; names are those of records, each once")
    for i, row in enumerate(rows):
        for does, other in (("starts from", row.start), ("learns from", row.teacher)):
            if other is not None and other not in names[:i]:
                raise BbgError(f"{file.name}: row {row.name!r} {does} {other!r}; that is no row above it")
    factories = {row.name: row.recipe.factory for row in rows}

    def taught(row: Row) -> Row:
        factory = factories.get(row.teacher or "")
        return row if factory is None else replace(row, recipe=row.recipe.changed({"teacher_factory": factory}))

    return [taught(row) for row in rows]


def _row(line: dict[str, Any], recipes: dict[str, Any]) -> Row:
    missing = [key for key in ("name", "recipe", "epochs", "seed", "tier") if key not in line]
    if missing:
        raise BbgError(f"row {line.get('name', line)!r} has no {missing[0]!r}; every row has one")
    name, tier, recipe = (str(line.pop(key)) for key in ("name", "tier", "recipe"))
    if not _NAME.fullmatch(name):
        raise BbgError(f"row {name!r}: a name is of a-z, 0-9, dot, hyphen and underscore")
    if recipe not in recipes:
        raise BbgError(f"row {name!r} has recipe {recipe!r}; the list has {', '.join(recipes) or 'none'}")
    start, teacher = line.pop("start", None), line.pop("teacher", None)
    return Row(name, tier, Recipe.from_dict({**recipes[recipe], **line}), start, teacher)


def record(row: Row, records: Path) -> dict[str, Any] | None:
    """What is written of `row`, finished or not; None before its first leg has ended."""
    file = records / f"{row.name}.json"
    if not file.exists():
        return None
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found


def finished(row: Row, records: Path) -> bool:
    """Whether `row` is done."""
    found = record(row, records)
    return found is not None and bool(found["finished"])
