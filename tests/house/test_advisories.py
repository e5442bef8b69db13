"""The lowest versions of what bbg needs have no known weakness on the paths that it uses."""

from __future__ import annotations

import re
import tomllib
from typing import Any

import pytest
from support.paths import ROOT

LIST: dict[str, Any] = tomllib.loads((ROOT / "tests" / "house" / "advisories.toml").read_text(encoding="utf-8"))


def floors(project: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """The lowest version of each package that the project names."""
    named = [*project["dependencies"], *(line for lines in project["optional-dependencies"].values() for line in lines)]
    found = (re.fullmatch(r"([A-Za-z0-9_.-]+?)(?:>=|==)([0-9.]+)", line) for line in named)
    return {match[1].lower(): version(match[2]) for match in found if match}


def version(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(".")))


def below(lowest: tuple[int, ...], fixed: tuple[int, ...]) -> bool:
    """Whether a version is older than another; missing parts are 0."""
    length = max(len(lowest), len(fixed))
    padded = [(*each, *[0] * (length - len(each))) for each in (lowest, fixed)]
    return padded[0] < padded[1]


PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.mark.parametrize("advisory", LIST["advisory"], ids=lambda advisory: advisory["id"])
def test_no_lowest_version_has_a_known_weakness(advisory: dict[str, str]) -> None:
    lowest = floors(PROJECT)[advisory["package"]]
    assert not below(lowest, version(advisory["fixed"])), f"{advisory['package']}: {advisory['what']}"


def test_an_old_floor_would_be_found() -> None:
    assert below((2, 5, 9), (2, 6))
    assert below((13,), (13, 0, 1))
    assert not below((13,), (13, 0, 0))
    assert {"torch", "pillow", "numpy", "safetensors", "rich"} <= floors(PROJECT).keys()
