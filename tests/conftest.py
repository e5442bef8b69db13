"""What all tests share: which folders need torch, the kernel sets of this machine, and the quick tests."""

from __future__ import annotations

import os
from importlib.util import find_spec

import pytest
from support.kernel_runs import SETS
from support.paths import ROOT

TORCH = (
    "analysis",
    "binarization",
    "conversion",
    "data",
    "methods",
    "models",
    "tracing",
    "training",
    "test_comparison.py",
    "test_layers.py",
)
collect_ignore = [] if find_spec("torch") else list(TORCH)

# What `make quick` runs, on the best kernel set only: files and folders whose tests take milliseconds each.
QUICK = (
    "conversion/test_passes.py",
    "graph",
    "house/test_docs.py",
    "house/test_house.py",
    "house/test_packaging.py",
    "image",
    "methods",
    "test_layers.py",
    "test_recipe.py",
)


@pytest.fixture(autouse=True, scope="session")
def no_added_models(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The zoo is as it comes, whatever lies in this user's own."""
    os.environ["BBG_ZOO"] = str(tmp_path_factory.mktemp("zoo"))


@pytest.fixture(params=SETS)
def isa(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each kernel set of this machine, which new engines are held to."""
    monkeypatch.setenv("BBG_ISA", request.param)
    return str(request.param)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the quick tests."""
    folders = tuple(str(ROOT / "tests" / name) for name in QUICK)
    for item in items:
        parameters = getattr(item, "callspec", None)
        best = parameters is None or parameters.params.get("isa", SETS[0]) == SETS[0]
        if best and str(item.path).startswith(folders) and item.get_closest_marker("slow") is None:
            item.add_marker(pytest.mark.quick)
