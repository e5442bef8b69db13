"""One look for all plots: labels stand apart, epochs are whole numbers, and a caller's settings stay as they were."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from bbg import style

mpl = pytest.importorskip("matplotlib")


@pytest.mark.parametrize("seed", range(20))
def test_labels_stand_apart_and_near_their_own_place(seed: int) -> None:
    rng = np.random.default_rng(seed)
    heights = rng.random(8).tolist()
    placed = style.apart(heights, 0.1)
    order = sorted(range(8), key=heights.__getitem__)
    assert sorted(range(8), key=placed.__getitem__) == order, "in the order of the lines"
    assert all(b - a >= 0.1 - 1e-9 for a, b in pairwise(sorted(placed)))
    assert np.mean(placed) == pytest.approx(np.mean(heights)), "as a whole nobody is moved"
    far = [float(i) for i in range(8)]
    assert style.apart(far, 0.1) == far, "what is apart stays"


def test_epochs_are_whole_numbers_and_shares_per_cent() -> None:
    with style.applied():
        figure = style.figure(4, 3)
        axis = style.axis(figure.subplots(), title="accuracy", x="epoch")
        axis.plot([1, 2, 3], [0.5, 0.55, 0.625])
        style.whole_numbers(axis)
        style.percent(axis)
        first = style.png(figure)
        assert [float(tick) for tick in axis.get_xticks()] == [float(int(tick)) for tick in axis.get_xticks()]
        assert axis.yaxis.get_major_formatter()(0.625, None) == "62.5 %"
        assert axis.yaxis.get_major_formatter()(0.57, None) == "57 %"
        assert first == style.png(figure), "the same figure is the same file"
        assert style.svg(figure).startswith(b"<?xml")


def test_the_settings_of_the_caller_come_back() -> None:
    before = dict(mpl.rcParams)
    with style.applied():
        assert not mpl.rcParams["axes.spines.top"]
    assert dict(mpl.rcParams) == before


def drawn(title: str) -> bytes:
    with style.applied():
        figure = style.figure(3, 2)
        style.axis(figure.subplots(), title=title)
        figure.suptitle(title)
        return style.png(figure)


def test_the_settings_of_the_user_count_for_nothing() -> None:
    """A file matplotlibrc, in the folder or at home, may ask for LaTeX, which is not there."""
    before = drawn("name")
    with mpl.rc_context({"text.usetex": True, "font.size": 30, "axes.facecolor": "red"}):
        assert drawn("name") == before


@pytest.mark.parametrize("name", ["$x_$", "$5 and $6", r"\frac$\frac$", style.text("caf\udce9")])
def test_a_name_is_drawn_as_it_is(name: str) -> None:
    assert drawn(name) != drawn("")


def luminance(colour: str) -> float:
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


@pytest.mark.parametrize("colour", [style.GREEN, style.ORANGE, style.VIOLET, style.INK, *style.SHADES])
def test_lines_and_words_are_seen_on_white(colour: str) -> None:
    assert 1.05 / (luminance(colour) + 0.05) >= 2.9, "the contrast that large text and graphics need is 3"


def test_a_title_names_what_was_trained() -> None:
    recipe = {"network": "resnet20", "width": 32, "method": "bbg", "dataset": "cifar10"}
    assert style.run_title(recipe, "CIFAR-10 (JPEG)") == "resnet20 w32 · bbg · CIFAR-10 (JPEG)"
    assert style.run_title({"network": None, "factory": "a:b", "method": "xnor"}) == "a:b · xnor"
