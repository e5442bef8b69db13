"""The frontier: which points count, what is read off between them, and who is no slower and no less accurate."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
from bench import frontier


def point(network: str, cost: float, accuracy: float, precision: str = "packed", runtime: str = "bbg") -> Any:
    return {
        "network": network,
        "runtime": runtime,
        "precision": precision,
        "min_us": cost,
        "bytes": 1000 * cost,
        "accuracy": accuracy,
    }


OURS = [point("xs", 40, 0.80), point("s", 80, 0.84), point("wasted", 90, 0.83), point("m", 200, 0.86)]
EIGHT = point("resnet8", 70, 0.815, "8 bits")
PEERS = [
    point("resnet8", 100, 0.82, "int8", "LiteRT"),
    point("resnet8", 120, 0.82, "int8", "OpenVINO"),
    point("resnet20", 300, 0.83, "int8", "LiteRT"),
    point("resnet18", 400, 0.87, "float32", "LiteRT"),
]
RESULT = {"frontier": [*OURS, EIGHT, *PEERS], "absent": []}


def test_a_point_that_another_one_beats_is_not_on_the_frontier() -> None:
    assert [p["network"] for p in frontier.best(OURS, "min_us")] == ["xs", "s", "m"]
    assert frontier.best(PEERS, "min_us") == [PEERS[0], PEERS[2], PEERS[3]]
    equal = [point("slow", 2, 0.5), point("fast", 1, 0.5)]
    assert [p["network"] for p in frontier.best(equal, "min_us")] == ["fast"]


@pytest.mark.parametrize(
    ("accuracy", "cost"),
    [(0.80, 40), (0.84, 80), (0.82, math.sqrt(40 * 80)), (0.50, 40), (0.855, 80 * (200 / 80) ** 0.75), (0.861, None)],
)
def test_costs_between_points_are_read_off_on_a_logarithmic_line(accuracy: float, cost: float | None) -> None:
    found = frontier.read_off(OURS, accuracy, "min_us")
    assert found == (None if cost is None else pytest.approx(cost, rel=1e-9))


def test_verdicts() -> None:
    """The 8-bit networks of our engine are neither ours nor the peers'."""
    small, middle, large = frontier.verdicts(RESULT, "min_us")
    assert (small["ours"], small["points"]) == ("s", pytest.approx(2.0))
    assert small["ratio"] == pytest.approx(100 / math.sqrt(40 * 80))
    assert (middle["ours"], middle["points"]) == ("m", pytest.approx(3.0))
    assert (large["ours"], large["points"], large["ratio"]) == ("m", pytest.approx(-1.0), None)
    nothing = frontier.verdicts({"frontier": PEERS}, "bytes")
    assert [(row["ours"], row["points"], row["ratio"]) for row in nothing] == [("", None, None)] * 3


def test_the_page_shows_every_point_and_both_frontiers(tmp_path: Path) -> None:
    text = frontier.render(RESULT)
    assert all(f"| {row['network']} |" in text for row in OURS)
    assert "| resnet8, LiteRT int8 | 100 | 82.00 % | s | +2.00 |" in text
    assert text.count("The peers' frontier by") == 2
    pytest.importorskip("matplotlib")
    frontier.draw(RESULT, tmp_path)
    assert (tmp_path / frontier.PLOT).read_text().count("accuracy, %") == 1
