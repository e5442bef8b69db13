"""The verb check: what `bbg.check` returns, or all causes of a refusal, one on a line."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from bbg.cli import main

NETWORKS = """
import torch
from torch import nn


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3)

    def forward(self, x):
        return torch.cumsum(self.conv(x), 1)


def bad(num_classes, in_channels=3):
    pad = nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect")
    return nn.Sequential(nn.Conv2d(in_channels, 8, 3), Block(), Block(), pad, nn.Flatten(), nn.Softmin(1))


def good(num_classes=7, in_channels=3):
    layers = [nn.Conv2d(in_channels, 8, 3), nn.Softplus(), nn.Conv2d(8, 8, 3), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, num_classes))


def plain():
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU())
"""


@pytest.fixture(autouse=True)
def networks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "checked_networks.py").write_text(NETWORKS)
    monkeypatch.delitem(sys.modules, "checked_networks", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)


def test_what_becomes_of_a_network(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "found.json"
    main(["check", "checked_networks:good", "--shape", "3,32,32", "--json", str(file)])
    told = capsys.readouterr().out
    assert "it converts, from images [3, 32, 32] to [7]" in told
    assert "3 kept, 1 replaced, 1 binary, 1 added" in told
    found = json.loads(file.read_text())
    assert [row["action"] for row in found["rows"]] == ["kept", "replaced", "binary", "added", "kept", "kept"]
    assert found["outputs"] == {"": [7]}


def test_the_factory_gets_what_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    main(["check", "checked_networks:good", "--shape", "1,32,32", "--classes", "3"])
    assert "from images [1, 32, 32] to [3]" in capsys.readouterr().out


def test_a_network_that_nothing_becomes_binary_of_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    main(["check", "checked_networks:plain", "--shape", "3,32,32"])
    assert "bbg.binarize would refuse it: nothing is left to binarize" in capsys.readouterr().out


def test_all_causes_one_on_a_line_and_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["check", "checked_networks:bad", "--shape", "3,32,32"])
    assert end.value.code == 2
    printed = capsys.readouterr()
    head, *causes = printed.err.splitlines()
    line = 1 + NETWORKS.splitlines().index("        return torch.cumsum(self.conv(x), 1)")
    assert head == "bbg: 3 causes"
    assert causes[0].startswith(f"  1. 1.cumsum (Block) at checked_networks.py:{line} and 1 more: ")
    assert causes[1].startswith("  2. 3 (Conv2d): padding_mode is 'reflect'")
    assert causes[2].startswith("  3. 5 (Softmin): ")
    assert not printed.out


@pytest.mark.parametrize("shape", ["3x3", "3,0,4", "3,4", "a,b,c", ""])
def test_a_shape_that_is_none(shape: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["check", "checked_networks:good", "--shape", shape])
    assert end.value.code == 2
    assert "give channels, height and width, as 3,224,224" in capsys.readouterr().err


def test_a_factory_that_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["check", "checked_networks:nothing"])
    assert end.value.code == 2
    assert "cannot import factory 'checked_networks:nothing'" in capsys.readouterr().err
