"""The verb completion. It needs shtab, which makes the script out of the parser."""

from __future__ import annotations

from typing import Any

from bbg.cli.parser import argument, verb
from bbg.errors import not_installed

SHELLS = ("bash", "zsh")


@verb(argument("shell", choices=SHELLS, help='eval "$(bbg completion bash)" in ~/.bashrc turns it on'))
def completion(shell: str) -> None:
    """Print a script that lets the shell complete verbs, options, recipes and files."""
    print(script(shell))


def script(shell: str) -> str:
    """The script for `shell`, one of SHELLS; BbgError without shtab."""
    try:
        import shtab
    except ImportError as error:
        raise not_installed("completion", "shtab") from error
    from bbg.cli import declare
    from bbg.cli.parser import parser
    from bbg.recipe import recipe_names

    declare()
    names = " ".join(recipe_names())
    words, files, folders = f"-W '{names}'", "-f -X '!*.toml'", "-d"
    asked = "; ".join(f'compgen {what} -- "$1"' for what in (words, files, folders))
    preamble = {
        "bash": f"_bbg_recipes() {{ {asked}; }}",
        "zsh": f"_bbg_recipes() {{ _alternative 'names:recipe:({names})' 'files:file:_files -g \"*.toml\"' }}",
    }
    recipes: dict[str, Any] = dict.fromkeys(preamble, "_bbg_recipes")
    kinds = {"DIR": shtab.DIRECTORY, "RECIPE": recipes}
    kinds |= dict.fromkeys(("CKPT", "FILE", "FILE.png", "IMAGE", "MODEL"), shtab.FILE)
    top = parser("")
    (verbs,) = (action.choices for action in top._actions if isinstance(action.choices, dict))
    for below in verbs.values():
        for action in below._actions:
            if action.metavar in kinds:
                action.complete = kinds[action.metavar]
    return str(shtab.complete(top, shell, preamble=preamble[shell]))
