"""What an older checkout is compared by: ratios of paired rounds, and how far old is from old."""

from __future__ import annotations

import sys

import pytest

from bench.against import AGAIN, LEAST, NEW, OLD, Command, alternate, ratios, verdict


def rounds(*times: float) -> list[list[float]]:
    """A turn per round; its first call was slower."""
    return [[2 * t, t] for t in times]


def test_a_ratio_is_that_of_the_best_times_of_one_round() -> None:
    assert ratios(rounds(1, 3), rounds(2, 2)) == [0.5, 1.5]


def test_a_slow_moment_that_hits_all_three_changes_nothing() -> None:
    times = {name: rounds(1, 1, 10, 1) for name in (OLD, NEW, AGAIN)}
    assert verdict(times)["ratio"] == verdict(times)["old_over_old"] == 1
    assert verdict(times)["holds"]


@pytest.mark.parametrize(("new", "holds"), [(0.5, True), (1 / LEAST - 1e-9, True), (1.05, False), (2, False)])
def test_the_new_side_may_not_be_slower(new: float, holds: bool) -> None:
    times = {OLD: rounds(*[1] * 20), NEW: rounds(*[new] * 20), AGAIN: rounds(*[1] * 20)}
    assert verdict(times)["holds"] == holds
    assert verdict(times)["ratio"] == pytest.approx(1 / new)


def test_what_old_differs_from_old_by_is_chance() -> None:
    again = [0.8, 1.25] * 10
    times = {OLD: rounds(*[1] * 20), NEW: rounds(*[1.1] * 20), AGAIN: rounds(*again)}
    found = verdict(times)
    assert (found["old_over_old_low"], found["old_over_old_high"]) == (0.8, 1.25)
    assert found["holds"]


def test_each_start_makes_all_three_anew() -> None:
    started = []

    class Side:
        def __init__(self, name: str) -> None:
            started.append(name)

        def turn(self, seconds: float) -> list[float]:
            return [1.0]

    times = alternate(Side, rounds=6, restarts=3)
    assert started == [OLD, NEW, OLD] * 3
    assert times == {name: [[1.0]] * 6 for name in (OLD, NEW, AGAIN)}


def test_a_command_is_run_once_a_turn() -> None:
    (seconds,) = Command([sys.executable, "-c", "import time; time.sleep(0.05)"]).turn(0)
    assert 0.05 < seconds < 30
    assert Command([sys.executable, "-c", ""], lambda: 0.25).turn(0) == [0.25]
    with pytest.raises(RuntimeError, match="ValueError: no"):
        Command([sys.executable, "-c", "raise ValueError('no')"]).turn(0)
