"""The reference pages of docs/reference, made from the code: the Python API, the recipes, the command line.

    python tools/reference.py            # writes the pages anew
    python tools/reference.py --check    # says which are not those of the code, exit status 1

A page holds what the code itself says: signatures, docstrings, the comments beside the keys of a recipe, the help of
the verbs. A test compares, so a change of the code that forgets the pages is seen.
"""

from __future__ import annotations

import argparse
import inspect
import re
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs" / "reference"
WIDTH = 100  # of a signature; a longer one has a line for each parameter
# The rooms whose public names are described, in the order in which a reader meets them.
ROOMS = (
    "bbg",
    "bbg.engine",
    "bbg.zoo",
    "bbg.models",
    "bbg.layers",
    "bbg.methods",
    "bbg.recipe",
    "bbg.data",
    "bbg.analysis",
)


# The Python API. ------------------------------------------------------------------------------------------------------


def api() -> str:
    """Every public name of every room, with its signature and its docstring."""
    parts = [head("The Python API", "Names of `bbg` itself need no further import; of the others, import the room.")]
    told: set[int] = set()
    for room in ROOMS:
        module = import_module(room)
        parts += [f"## {room}", first_paragraph(module)] if room != "bbg" else [f"## {room}", inspect.getdoc(module)]
        for name in public_names(module):
            value = getattr(module, name)
            if id(value) not in told and not name.startswith("__"):
                told.add(id(value))
                parts += described(f"{room}.{name}", value)
    return "\n\n".join(part for part in parts if part) + "\n"


def public_names(module: object) -> list[str]:
    """`__all__` of a module, or else what it defines itself, sorted."""
    stated = getattr(module, "__all__", None)
    found = vars(module).items()
    own = (n for n, v in found if not n.startswith("_") and getattr(v, "__module__", "") == module.__name__)  # type: ignore[attr-defined]
    return sorted(stated or own)


def described(name: str, value: Any) -> Iterator[str]:
    """The heading, signature and docstring of a public name; of a class also its own public members."""
    yield f"### {name}"
    if inspect.ismodule(value):
        yield f"The room [{name}](#{anchor(name)})."
    elif inspect.isclass(value):
        yield code(f"class {value.__name__}{signature(value)}")
        yield docstring(value)
        yield from members(value)
    elif callable(value):
        yield code(f"{name}{signature(value)}")
        yield docstring(value)
    else:
        listed = sorted(map(str, value)) if isinstance(value, dict) else [str(value)]
        yield f"A {type(value).__name__}: {', '.join(f'`{item}`' for item in listed)}."


def members(of: type) -> Iterator[str]:
    """The public methods and properties that a class defines itself; those of its bases are torch's or Python's."""
    for name, attribute in sorted(vars(of).items()):
        function = getattr(attribute, "__func__", attribute)
        if isinstance(attribute, property):
            kind = signature(attribute.fget).rpartition(" -> ")[2]
            yield f"**`{name}`**: `{kind}`"
            yield docstring(attribute)
        elif inspect.isfunction(function) and (not name.startswith("_") or name == "__call__"):
            yield f"**`{name}`**"
            yield code(f"{name}{signature(function)}")
            yield docstring(function)


def signature(value: Any) -> str:
    """The signature with annotations as they are written; "" for a class that has none, such as an exception."""
    try:
        found = inspect.signature(value)
    except ValueError:
        return ""
    found = found.replace(parameters=[p for name, p in found.parameters.items() if name not in ("self", "cls")])
    if inspect.isclass(value):
        found = found.replace(return_annotation=inspect.Signature.empty)
    text = one_line(found)
    if len(text) <= WIDTH:
        return text
    parameters, stars = [], False
    for parameter in found.parameters.values():
        if parameter.kind is parameter.VAR_POSITIONAL:
            stars = True
        elif parameter.kind is parameter.KEYWORD_ONLY and not stars:
            parameters.append("*")
            stars = True
        parameters.append(one_line(parameter))
    result = one_line(found.replace(parameters=[])).removeprefix("()")
    return "(\n" + "".join(f"    {p},\n" for p in parameters) + ")" + result


def one_line(found: inspect.Signature | inspect.Parameter) -> str:
    """A signature or a parameter of one, its annotations without quotes."""
    text = str(found)
    text = re.sub(r"ForwardRef\('([^']*)'[^)]*\)", r"\1", text)
    return re.sub(r"(: |-> )'([^']*)'", r"\1\2", text)


def docstring(value: Any) -> str:
    """The docstring; a dataclass without one of its own has none."""
    return inspect.getdoc(value) or ""


def first_paragraph(module: object) -> str:
    """What a module says of itself first."""
    return docstring(module).partition("\n\n")[0]


# The recipes. ---------------------------------------------------------------------------------------------------------


def recipes() -> str:
    """The keys with their comments, and the recipes that come with the package."""
    from bbg.recipe import FOLDER as FILES
    from bbg.recipe import Recipe, keys_of_recipes, recipe_names

    keys = [(f"`{k.key}`", f"`{k.type}`", default(k.default), k.meaning) for k in keys_of_recipes()]
    shown = ("dataset", "network", "method", "epochs", "optimizer", "lr")
    rows = [(f"`{name}`", *(str(getattr(Recipe.find(name), key)) for key in shown)) for name in recipe_names()]
    parts = [
        head(
            "Recipes",
            "A recipe is one flat TOML file: everything that a training needs. `bbg recipe --keys` prints the first "
            "table, `bbg recipe` the second, and `bbg recipe NAME -o FILE.toml` writes one to start from.",
        ),
        "## Keys",
        table(("key", "type", "default", "meaning"), keys),
        "## The recipes that come with bbg",
        table(("recipe", *shown), rows),
    ]
    for name in recipe_names():
        parts += [f"### {name}", code((FILES / f"{name}.toml").read_text(encoding="utf-8").strip(), "toml")]
    return "\n\n".join(parts) + "\n"


def default(value: Any) -> str:
    """A default as TOML writes it; nothing for a key without one."""
    if value is None:
        return ""
    return f"`{str(value).lower()}`" if isinstance(value, bool) else f"`{value!r}`".replace("'", '"')


# The command line. ----------------------------------------------------------------------------------------------------


def commands() -> str:
    """Every verb with its arguments, as `bbg VERB --help` explains them."""
    from bbg.cli import MODULES, declare
    from bbg.cli.parser import EVERY, VERBS

    declare()
    calls = {call.__name__: (call, arguments) for call, arguments in VERBS.items()}
    parts = [
        head(
            "The command line",
            "`bbg VERB --help` says the same. Bad input is one line on the standard error and exit status 2.",
        ),
        table(("verb", ""), [(f"[`{verb}`](#bbg-{verb})", docstring(calls[verb][0])) for verb in MODULES]),
        "Every verb also takes",
        table(("argument", "meaning"), [(usage(a.names, a.keywords), explained(a.keywords)) for a in EVERY]),
    ]
    for verb in MODULES:
        call, arguments = calls[verb]
        rows = [(usage(a.names, a.keywords), explained(a.keywords)) for a in arguments]
        parts += [f"## bbg {verb}", docstring(call), table(("argument", "meaning"), rows)]
    return "\n\n".join(parts) + "\n"


def usage(names: tuple[str, ...], keywords: dict[str, Any]) -> str:
    """How an argument is typed: `IMAGE ...`, `--top N`, `--resume`."""
    optional = names[0].startswith("-")
    words = keywords.get("choices")
    value = "|".join(map(str, words)) if words else keywords.get("metavar") or names[-1].lstrip("-").upper()
    if isinstance(value, tuple):
        value = " ".join(value)
    takes = keywords.get("action") in (None, "append", "extend")
    many = {"+": " ...", "*": " ...", "?": ""}.get(str(keywords.get("nargs")), "")
    if not optional:
        return f"`{f'[{value}]' if keywords.get('nargs') in ('?', '*') else value}{many}`"
    return f"`{', '.join(names)}{f' {value}{many}' if takes else ''}`"


def explained(keywords: dict[str, Any]) -> str:
    """The help of an argument with its default filled in; an argument that may be given again says so."""
    text = str(keywords.get("help") or "") % {"default": keywords.get("default"), "prog": "bbg"}
    return f"{text}; may be given again" if keywords.get("action") == "append" else text


# Markdown. ------------------------------------------------------------------------------------------------------------


def head(title: str, text: str) -> str:
    """The title of a page, where it comes from, and its first sentences."""
    return (
        f"# {title}\n\n<!-- Made from the code by tools/reference.py; change the code and run it again. -->\n\n{text}"
    )


def table(columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """A Markdown table."""
    lines = [columns, ("---",) * len(columns), *rows]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in line) + " |" for line in lines
    )


def code(text: str, language: str = "python") -> str:
    """A block of code."""
    return f"```{language}\n{text}\n```"


def anchor(title: str) -> str:
    """Where a heading is found inside its page."""
    return re.sub(r"[^a-z0-9 _-]", "", title.lower()).replace(" ", "-")


PAGES: dict[str, Callable[[], str]] = {"api.md": api, "recipes.md": recipes, "cli.md": commands}


def stale() -> list[str]:
    """The pages that are not what the code says now."""
    files = {name: FOLDER / name for name in PAGES}
    return [n for n, make in PAGES.items() if not files[n].exists() or files[n].read_text(encoding="utf-8") != make()]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing")
    if parser.parse_args().check:
        old = stale()
        sys.exit(f"not those of the code: {', '.join(old)}; run python tools/reference.py" if old else 0)
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, make in PAGES.items():
        (FOLDER / name).write_text(make(), encoding="utf-8")


if __name__ == "__main__":
    main()
