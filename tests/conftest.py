from __future__ import annotations

from importlib.util import find_spec

import pytest
from support.kernel_runs import SETS

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


@pytest.fixture(params=SETS)
def isa(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each kernel set of this machine, which new engines are held to."""
    monkeypatch.setenv("BBG_ISA", request.param)
    return str(request.param)
