"""The check that the sanitizers run for hours, in short and on the usual build."""

from __future__ import annotations

import os

import pytest
from support import guarded

from bbg.engine import kernel_sets


@pytest.mark.parametrize("first", range(0, 60, 15))
def test_answers_depend_on_images_alone(first: int) -> None:
    before = dict(os.environ)
    assert sum(guarded.run(15, first).values()) > 15
    assert dict(os.environ) == before


def test_a_wrong_answer_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Noise of a thousandth of the largest number, as another garbage might give it, or one kernel set alone."""

    def noisy(spoilt: dict[str, str]) -> None:
        true = guarded.Engine.run

        def run(engine: guarded.Engine, images: object) -> guarded.Answers:
            answers = true(engine, images)  # type: ignore[arg-type]
            if all(os.environ[name] == value for name, value in spoilt.items()):
                return {name: array + 1e-3 * abs(array).max() for name, array in answers.items()}
            return answers

        monkeypatch.setattr(guarded.Engine, "run", run)

    noisy({"BBG_GARBAGE": "127"})
    with pytest.raises(AssertionError):
        guarded.run(3)
    monkeypatch.undo()
    noisy({"BBG_ISA": next(each.name for each in kernel_sets() if each.supported)})
    with pytest.raises(AssertionError):
        guarded.run(20)


def test_every_pair_of_kinds_is_asked_for() -> None:
    pairs = guarded.possible()
    assert ("byte_conv", "max_pool") in pairs
    assert ("max_pool_bits", "conv") not in pairs
