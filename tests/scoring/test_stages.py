"""The clock of stages counts what threads do, beside each other, and what fails."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from bbg.scoring import Stages


def test_the_time_of_all_threads_is_added_up() -> None:
    stages = Stages()

    def work(_: int) -> None:
        with stages("sleeping"):
            time.sleep(0.02)
        with stages("working"):
            end = time.thread_time() + 0.01
            while time.thread_time() < end:
                pass

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(8)))
    assert stages.seconds["sleeping"] >= 8 * 0.02 > stages.processor["sleeping"]
    assert stages.seconds["working"] >= stages.processor["working"] >= 8 * 0.01
    assert stages.told(8).split(" ")[::2][:2] == ["sleeping", "ms"]


def test_what_fails_counts_too() -> None:
    stages = Stages()
    with pytest.raises(ValueError, match="no"), stages("decoding"):
        raise ValueError("no")
    assert list(stages.seconds) == list(stages.processor) == ["decoding"]
    assert Stages().told(0) == ""
