"""The documents name files, commands and targets that exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from support.paths import ROOT

from bbg import __version__
from bbg.cli import declare
from bbg.cli.parser import parser

PAGES = sorted(p.relative_to(ROOT) for p in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)", (ROOT / page).read_text(encoding="utf-8")):
        if target.startswith("http"):
            continue
        name, _, anchor = target.partition("#")
        file = (ROOT / page).parent.joinpath(name) if name else ROOT / page
        assert file.exists(), target
        if anchor:
            titles = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {re.sub(r"[^a-z0-9_ -]", "", title.lower()).replace(" ", "-") for title in titles}, target


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_commands_are_understood(page: Path) -> None:
    declare()
    text = (ROOT / page).read_text(encoding="utf-8")
    for line in re.findall(r"^ *bbg [a-z].*$", text, re.MULTILINE):
        parser(__version__).parse_args(shlex.split(line, comments=True)[1:])
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    used = set(re.findall(r"^make ([a-z]+)|`make ([a-z]+)`", text, re.MULTILINE))
    assert {a or b for a, b in used} <= targets


def test_the_tour_visits_every_room() -> None:
    tour = (ROOT / "docs" / "tour.md").read_text(encoding="utf-8")
    rooms = {p.name for p in (ROOT / "src" / "bbg").iterdir() if p.is_dir() and (p / "__init__.py").exists()} - {"zoo"}
    assert rooms
    assert all(f"src/bbg/{room}/" in tour for room in rooms)
