"""A head's figures are those of a plain loop over the images."""

from __future__ import annotations

import numpy as np
import pytest

from bbg.errors import BbgError
from bbg.heads import Classification


def test_a_classification_decides_for_the_first_of_the_largest_scores() -> None:
    logits = np.random.default_rng(0).integers(-3, 4, (200, 7)).astype(np.float32)  # with many ties
    labels = np.random.default_rng(1).integers(0, 7, 200)
    best = [max(range(7), key=lambda i, row=row: (row[i], -i)) for row in logits]  # type: ignore[misc]
    head = Classification()
    assert head.decide(logits).tolist() == best
    assert head.decide(logits.reshape(200, 7, 1, 1)).tolist() == best
    assert [p[0].label for p in head.predict(logits, None, 1)] == [str(i) for i in best]
    right = sum(int(i == label) for i, label in zip(best, labels, strict=True))
    assert head.score(logits, labels) == {"accuracy": right / 200}


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_scores_that_are_not_finite_have_no_best_class(bad: float) -> None:
    logits = np.zeros((3, 4), np.float32)
    logits[1, 2] = bad
    head = Classification()
    for use in (
        lambda: head.predict(logits, None, 2),
        lambda: head.decide(logits),
        lambda: head.scores(logits),
        lambda: head.score(logits, np.zeros(3, np.int64)),
    ):
        with pytest.raises(BbgError, match="scores of 1 of 3 images are not finite"):
            use()


@pytest.mark.parametrize(
    "labels",
    [[0, 4], [0, -1], [0, 1, 2], [0.0, 1.0], ["0", "1"], [[0, 1]], [[0], [0, 1]], 0, None],
    ids=str,
)
def test_labels_are_integers_of_the_classes(labels: object) -> None:
    with pytest.raises(BbgError, match=r"labels are .*; give integers"):
        Classification().score(np.zeros((2, 4), np.float32), labels)  # type: ignore[arg-type]


def test_a_network_without_classes_has_no_label() -> None:
    with pytest.raises(BbgError, match="give integers"):
        Classification().score(np.zeros((2, 0), np.float32), np.zeros(2, np.int64))
