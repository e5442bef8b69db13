"""The verb recipe. It needs no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bbg.cli.output import show
from bbg.cli.parser import JSON, STDOUT, argument, text_file, verb
from bbg.errors import BbgError


@verb(
    argument("recipe", nargs="?", metavar="RECIPE", help="a recipe of bbg by its name, or a TOML file"),
    argument(
        "-o", "--output", type=text_file, metavar="FILE", help="write it to this file, to be changed and trained by"
    ),
    argument("--keys", action="store_true", help="explain all keys that a recipe may have"),
    JSON,
)
def recipe(recipe: str | None, output: Path | None, keys: bool, json: Path | None) -> None:
    """List the recipes, show one with all its keys, or explain the keys."""
    from bbg.recipe import Recipe, keys_of_recipes, recipe_names

    if keys:
        show({"keys": [key._asdict() for key in keys_of_recipes()]}, json)
        return
    if recipe is None:
        if output is not None:
            raise BbgError("which recipe is to be written? give its name")
        show({"recipes": [_row(name, Recipe.find(name)) for name in recipe_names()]}, json)
        return
    chosen = Recipe.find(recipe)
    text = chosen.to_toml()
    if json is not None:
        show(chosen.to_dict(), json)
    elif output in (None, STDOUT):
        print(text, end="")
    if output not in (None, STDOUT):
        from bbg.files import write_text

        write_text(output, text)


def _row(name: str, recipe: Any) -> dict[str, Any]:
    keys = ("dataset", "network", "method", "epochs", "optimizer", "lr")
    return {"recipe": name, **{key: getattr(recipe, key) for key in keys}}
