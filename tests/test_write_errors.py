"""A full disk, or a kill, at any moment costs no file that was there (support/write_errors.py)."""

from __future__ import annotations

import shutil
import sys

import pytest
from support import write_errors

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux") or shutil.which("cc") is None, reason="needs Linux and a C compiler"
)
QUICK = ("predict", "recipe", "inspect", "zoo")


def stood(how: str, every: int, *verbs: str) -> dict[str, int]:
    """How many errors, or kills, each verb has stood."""
    done = write_errors.preloaded([how, str(every), *verbs])
    assert done.returncode == 0  # the reason is on standard error
    return {name: int(count) for name, count in map(str.split, done.stdout.splitlines())}


@pytest.mark.parametrize("how", ["full", "kill"])
def test_verbs_that_are_quick(how: str) -> None:
    found = stood(how, 2, *QUICK)
    assert found.keys() == set(QUICK)
    assert min(found.values()) > 1


@pytest.mark.slow
@pytest.mark.parametrize("how", ["full", "kill"])
def test_all_verbs_at_every_third_call(how: str) -> None:
    found = stood(how, 3)
    assert found.keys() == write_errors.CASES.keys()
    assert sum(found.values()) >= 200
