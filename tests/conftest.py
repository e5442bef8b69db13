from __future__ import annotations

import pytest
from support.kernel_runs import SETS


@pytest.fixture(params=SETS)
def isa(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each kernel set of this machine, which new engines are held to."""
    monkeypatch.setenv("BBG_ISA", request.param)
    return str(request.param)
