"""Maps at other sizes: those of torch, and those of a plain loop."""

from __future__ import annotations

import numpy as np
import pytest

from bbg import maps
from bbg.maps import best_classes, nearest

SIZES = [((4, 6), (4, 6)), ((4, 6), (8, 12)), ((5, 7), (13, 9)), ((1, 1), (3, 5)), ((9, 11), (4, 3))]


@pytest.mark.parametrize(("have", "want"), SIZES)
def test_the_best_class_is_that_of_torchs_bilinear_maps(
    have: tuple[int, int], want: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(maps, "STRIP", 40)  # a few rows at a time
    logits = np.random.default_rng(0).normal(size=(3, 5, *have)).astype(np.float32)
    larger = torch.nn.functional.interpolate(torch.from_numpy(logits), want, mode="bilinear", align_corners=False)
    found = best_classes(logits, want)
    assert found.dtype == np.uint8
    chosen = np.take_along_axis(larger.numpy(), found[:, None].astype(np.int64), 1)[:, 0]
    assert np.allclose(chosen, larger.numpy().max(1), atol=1e-5)  # but for ties, the same
    assert (found == larger.numpy().argmax(1)).mean() > 0.99


def test_of_equal_numbers_the_first_class_is_the_answer() -> None:
    logits = np.zeros((1, 4, 2, 2), np.float32)
    logits[:, 2:] = 1
    assert (best_classes(logits, (5, 5)) == 2).all()


@pytest.mark.parametrize(("have", "want"), [(1, 4), (4, 4), (3, 7), (10, 4), (65535, 3)])
def test_the_nearest_line_is_the_one_that_a_middle_lies_in(have: int, want: int) -> None:
    assert nearest(have, want).tolist() == [int((i + 0.5) * have / want) for i in range(want)]
