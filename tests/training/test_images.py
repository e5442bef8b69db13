"""What cannot be trained on, or not be packed afterwards, is told before the first step."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.trainings import with_classes

from bbg.data import ImageSet, Split, open_data
from bbg.errors import BbgError
from bbg.recipe import Recipe
from bbg.training.loop import train

RECIPE = Recipe(dataset="digits", network="resnet8", width=4, epochs=1)


@pytest.fixture(scope="module")
def digits() -> Split:
    return open_data("digits", None)


def names(*first: str) -> list[str]:
    return [*first, *map(str, range(len(first), 10))]


def with_labels(split: Split, change: Callable[[np.ndarray], np.ndarray]) -> Split:
    assert isinstance(split.train, ImageSet)
    return split._replace(train=replace(split.train, labels=change(split.train.labels.copy())))


def without_images(split: Split) -> Split:
    assert isinstance(split.test, ImageSet)
    return split._replace(test=replace(split.test, images=split.test.images[:0], labels=split.test.labels[:0]))


BAD: dict[str, tuple[Callable[[Split], Split], str]] = {
    "no text": (lambda s: with_classes(s, names("caf\udce9")), "the name of a class is"),
    "a control character": (lambda s: with_classes(s, names("a\tb")), "a string without control characters"),
    "no name": (lambda s: with_classes(s, names("")), "the name of a class is empty"),
    "a name twice": (lambda s: with_classes(s, names("9")), "class '9' is there twice"),
    "other classes": (lambda s: Split(s.train, with_classes(s, names("x")).test), "class '0' is in only one of"),
    "another order": (lambda s: Split(s.train, with_classes(s, names("1", "0")).test), "classes in another order"),
    "labels too large": (lambda s: with_labels(s, lambda y: y + 1), "are int64 from 1 to 10; 10 classes have integers"),
    "labels below 0": (lambda s: with_labels(s, lambda y: y - 1), "are int64 from -1 to 8"),
    "labels of floats": (lambda s: with_labels(s, lambda y: y / 2), "are float64 from 0.0 to 4.5"),
    "one class": (
        lambda s: with_labels(with_classes(s, ["all"]), lambda y: y * 0), "there is one class only, 'all'; a network"
    ),
    "no test images": (without_images, "there are no test images"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_it_is_told_before_the_first_step(case: str, digits: Split, tmp_path: Path) -> None:
    spoil, words = BAD[case]
    with pytest.raises(BbgError, match=re.escape(words)):
        train(RECIPE, spoil(digits), tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_an_empty_class_is_named(digits: Split, caplog: pytest.LogCaptureFixture) -> None:
    from bbg.training.images import check_images

    with caplog.at_level(logging.WARNING, "bbg"):
        check_images(with_labels(digits, lambda y: np.where(np.isin(y, (3, 7)), 0, y)))
    assert "no training image is of class 3, 7" in caplog.text
