"""How pieces are given out, with workers that die on purpose, in one process and without Ray."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bbg.errors import BbgError
from bbg.log import Bar
from bbg.scoring.pieces import Piece
from bbg.scoring.ray import Options, _Run

PIECES = [Piece(number, "images", 10, (f"{number}.jpg",)) for number in range(20)]


class Workers:
    """What the run asks of Ray; `work` is called with the number of the worker and a piece, None when it starts."""

    def __init__(self, work: Callable[[int, Piece | None], Any]) -> None:
        self.work, self.made, self.asked = work, 0, list[tuple[int, Piece | None]]()

    def remote(self, told: Any = None, **options: Any) -> Any:
        if options:
            return lambda kind: self
        number, self.made = self.made, self.made + 1

        def call(piece: Piece | None = None) -> int:
            self.asked.append((number, piece))
            return len(self.asked) - 1

        method = type("Method", (), {"remote": staticmethod(call)})
        return type("Handle", (), {"ready": method, "answer": method})()

    def wait(self, references: list[int], timeout: float) -> tuple[list[int], list[int]]:
        return references[:1], references[1:]

    def get(self, reference: int) -> Any:
        return self.work(*self.asked[reference])


def run(work: Callable[[int, Piece | None], Any], count: int = 3) -> tuple[Any, Workers]:
    workers, told = Workers(work), Options(Path("o"), "", 5, 0.5, 32, None)
    with Bar("predicting", 200) as bar:
        return _Run(workers, told, iter(PIECES), bar).all(count)[0], workers


def test_every_piece_is_given_out_once() -> None:
    done, workers = run(lambda worker, piece: (10, 1) if piece else (0, 0))
    assert done == (200, 20)
    assert sorted(piece.number for _, piece in workers.asked if piece) == list(range(20))
    assert workers.made == 3


@pytest.mark.parametrize("bad", [0, 1, 2])
def test_what_a_dead_worker_had_is_given_to_others(bad: int) -> None:
    def work(worker: int, piece: Piece | None) -> tuple[int, int]:
        if worker == bad and piece is not None:
            raise RuntimeError("died")
        return (10, 0) if piece else (0, 0)

    done, workers = run(work)
    assert done == (200, 0)
    assert workers.made == 4
    assert len([worker for worker, piece in workers.asked if worker == bad and piece]) == 2


def test_a_piece_that_kills_every_worker_ends_the_run() -> None:
    def work(worker: int, piece: Piece | None) -> tuple[int, int]:
        if piece is not None and piece.number == 7:
            raise RuntimeError("out of memory\n  in some place")
        return (10, 0) if piece else (0, 0)

    with pytest.raises(BbgError, match=r"died over images such as '7\.jpg' \(out of memory\); run again"):
        run(work)


def test_workers_that_never_start_end_the_run() -> None:
    def work(worker: int, piece: Piece | None) -> tuple[int, int]:
        raise RuntimeError("no bbg there")

    with pytest.raises(BbgError, match=r"died before any image \(no bbg there\)"):
        run(work)


def test_what_a_worker_refuses_is_the_error() -> None:
    with pytest.raises(BbgError, match="the disk is full"):
        run(lambda worker, piece: "the disk is full" if piece else (0, 0))
