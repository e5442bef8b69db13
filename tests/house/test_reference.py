"""The reference pages are those of the code, and leave nothing out."""

from __future__ import annotations

import contextlib
import re
import tomllib
from dataclasses import fields
from typing import Any

import pytest

pytest.importorskip("torch")

import bbg
from bbg.cli import MODULES, main
from bbg.cli.parser import EVERY
from bbg.recipe import Recipe, recipe_names
from tools import reference


def test_the_pages_are_those_of_the_code() -> None:
    old = reference.stale()
    assert not old, f"{old} of docs/reference are not what the code says; run python tools/reference.py"


def page(name: str) -> str:
    return (reference.FOLDER / name).read_text(encoding="utf-8")


def test_every_public_name_is_described() -> None:
    """With more than its signature, where it is a function or a class."""
    sections = dict(re.findall(r"^### (\S+)\n(.*?)(?=^##|\Z)", page("api.md"), re.MULTILINE | re.DOTALL))
    for name in set(bbg.__all__) - {"__version__"}:
        assert f"bbg.{name}" in sections
    for name, text in sections.items():
        assert re.sub(r"```.*?```", "", text, flags=re.DOTALL).strip(), f"{name} has no docstring"


def test_every_recipe_and_every_key_stands_there() -> None:
    text = page("recipes.md")
    for key in fields(Recipe):
        (meaning,) = re.findall(rf"^\| `{key.name}` \|.*\| (.*) \|$", text, re.MULTILINE)
        assert len(meaning) > 3, key.name
    blocks = dict(re.findall(r"^### (\w+)\n\n```toml\n(.*?)```", text, re.MULTILINE | re.DOTALL))
    assert list(blocks) == recipe_names()
    for name, block in blocks.items():
        assert Recipe.from_dict(tomllib.loads(block)) == Recipe.find(name)


@pytest.mark.parametrize("verb", MODULES)
def test_a_verb_is_explained_as_its_help_does(verb: str, capsys: Any) -> None:
    (section,) = re.findall(rf"^## bbg {verb}\n(.*?)(?=^## |\Z)", page("cli.md"), re.MULTILINE | re.DOTALL)
    with contextlib.suppress(SystemExit):
        main([verb, "--help"])
    printed = " ".join(capsys.readouterr().out.split())
    options = set(re.findall(r"--[a-z][a-z-]*", re.sub(r"short for --set", "", printed)))
    listed = set(re.findall(r"--[a-z][a-z-]*", " ".join(re.findall(r"^\| `([^`]*)`", section, re.MULTILINE))))
    shared = {name for each in EVERY for name in each.names}
    assert options - {"--help"} - shared <= set(re.findall(r"--[a-z][a-z-]*", section))
    assert shared <= set(re.findall(r"--?[a-z][a-z-]*", page("cli.md").partition("\n## ")[0]))
    assert listed <= options
    for meaning in re.findall(r"^\| `[^`]*` \| (.*?)(?:; may be given again)? \|$", section, re.MULTILINE):
        assert meaning.replace("-", "").replace(" ", "") in printed.replace("-", "").replace(" ", "")
