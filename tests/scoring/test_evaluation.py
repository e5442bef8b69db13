"""An evaluation counts what a plain loop over all images counts, and keeps little of each image."""

from __future__ import annotations

import tracemalloc
from collections import Counter

import numpy as np
import pytest

from bbg.data import Labelled
from bbg.errors import BbgError
from bbg.scoring import Evaluation, ImageScore, image_scores

CLASSES = tuple("abcdefg")
RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 6, 200)
LOGITS = RNG.integers(-3, 4, (200, 7)).astype(np.float32)
BAD = (3, 150)


def read(i: int) -> np.ndarray:
    """An image whose pixels are its number."""
    if i in BAD:
        raise BbgError(f"image {i}: is damaged")
    return np.full((1, 1, 1), i, np.uint8)


IMAGES = Labelled([f"image {i}" for i in range(200)], LABELS, CLASSES, read)


def run(pixels: np.ndarray) -> np.ndarray:
    return LOGITS[pixels[:, 0, 0, 0]]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_scores_that_are_not_finite_are_no_answers(value: float) -> None:
    """A network whose weights are NaN was 100 % right: no score is larger than the label's."""
    scores = np.where(np.arange(7) == 3, value, LOGITS).astype(np.float32)
    with pytest.raises(BbgError, match="finite"):
        list(image_scores(IMAGES, lambda pixels: scores[pixels[:, 0, 0, 0]]))


@pytest.mark.parametrize("batch", [1, 7, 32, 500])
def test_figures_are_those_of_a_loop(batch: int) -> None:
    evaluation = Evaluation(CLASSES, keep=10)
    for score in image_scores(IMAGES, run, batch):
        evaluation.add(score)
    good = [i for i in range(200) if i not in BAD]
    shares = np.exp(LOGITS.astype(float))
    shares /= shares.sum(1, keepdims=True)
    ranked = {i: sorted(range(7), key=lambda c, i=i: (-LOGITS[i, c], c)) for i in good}  # type: ignore[misc]
    answers = {i: ranked[i][0] for i in good}
    report = evaluation.as_dict()
    assert report["test_images"] == len(evaluation) == 198
    assert report["skipped"] == 2
    assert report["skipped_files"][0] == {"file": "image 3", "why": "is damaged"}
    assert report["accuracy"] == np.mean([answers[i] == LABELS[i] for i in good])
    assert report["top_5"] == np.mean([LABELS[i] in ranked[i][:5] for i in good])
    pairs = Counter((int(LABELS[i]), answers[i]) for i in good)
    assert np.array(report["confusion_matrix"]).tolist() == [[pairs[t, a] for a in range(7)] for t in range(7)]
    wrong = {(r["truth"], r["answer"]): r["images"] for r in report["confused"]}
    assert wrong == {(CLASSES[t], CLASSES[a]): n for (t, a), n in pairs.items() if t != a}
    assert [r["images"] for r in report["confused"]] == sorted(wrong.values(), reverse=True)
    assert report["classes_without_images"] == ["g"]
    assert [row["recall"] for row in report["per_class"]][-1] is None
    own = {i: shares[i, LABELS[i]] for i in good}
    worst = sorted(good, key=lambda i: (round(own[i], 12), i))[:10]
    assert [row["image"] for row in report["worst"]] == [f"image {i}" for i in worst]
    assert [row["truth_score"] for row in report["worst"]] == pytest.approx([own[i] for i in worst])
    assert sum(row["images"] for row in report["calibration"]) == 198


def scored(truth: int, answer: int) -> ImageScore:
    return ImageScore(0, "image", truth, answer, 0.5, 0.25, 1 if truth == answer else 2)


def test_of_thousands_of_classes_the_matrix_has_those_that_are_confused_most() -> None:
    evaluation = Evaluation([f"class {i}" for i in range(5000)])
    for i in range(5000):
        evaluation.add(scored(i, i))
    for _ in range(3):
        evaluation.add(scored(7, 4000))
    counts, names = evaluation.matrix(5)
    assert len(names) == 5
    assert names[-1] == "4,996 others"
    assert {"class 7", "class 4000"} <= set(names)
    assert counts.sum() == 5003
    assert counts[names.index("class 7"), names.index("class 4000")] == 3
    report = evaluation.as_dict()
    assert report["confusion_matrix"] is None
    assert report["confused"] == [{"truth": "class 7", "answer": "class 4000", "images": 3}]


def test_an_image_leaves_a_few_numbers_behind() -> None:
    evaluation = Evaluation(CLASSES)
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    for i in range(50_000):
        evaluation.add(ImageScore(i, f"a/long/path/of/a/file/{i}.jpg", i % 7, i % 5, 0.9, 0.1, 1 + i % 7))
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (after - before) / 50_000 < 50, "bytes of an image"


def test_five_classes_have_no_top_5() -> None:
    evaluation = Evaluation(CLASSES[:5])
    evaluation.add(scored(1, 1))
    assert evaluation.as_dict()["top_5"] is None


def test_another_number_of_classes_is_refused() -> None:
    with pytest.raises(BbgError, match=r"the network has 7 classes.*the images have 3, 'a', 'b', 'c'"):
        list(image_scores(Labelled(IMAGES.names, LABELS % 3, CLASSES[:3], read), run))


def test_labels_follow_the_names_of_classes() -> None:
    theirs = ("c", "a", "b", "d")
    found = Labelled(["x", "y", "z"], np.array([0, 1, 1]), ("a", "c"), read).by(theirs)
    assert found.labels.tolist() == [1, 0, 0]
    assert found.classes == theirs
    with pytest.raises(BbgError, match="the class 'c', which the model does not know; its classes are 'a', 'b'"):
        Labelled(["x"], np.array([0]), ("c",), read).by(("a", "b"))


def test_no_readable_image_is_an_error() -> None:
    evaluation = Evaluation(CLASSES)
    with pytest.raises(BbgError, match="none of the images could be read"):
        evaluation.as_dict()
    evaluation.add(ImageScore(0, "x.jpg", 0, error="x.jpg: is damaged"))
    with pytest.raises(BbgError, match=r"none of the images could be read \(x.jpg: is damaged\)"):
        evaluation.as_dict()
