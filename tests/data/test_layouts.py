"""What holds of images with boxes whatever the layout they come in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.layouts import WRITERS
from support.voc import CLASSES

from bbg.data import DATASETS, BoxSet, layout_of, open_boxed, open_data
from bbg.data.layout import Annotated, chosen, is_shared, judged
from bbg.data.sets import Wanted
from bbg.errors import BbgError
from bbg.image import Preprocess

LAYOUTS = [name for name, entry in DATASETS.items() if entry.layout is not None]


def halves(name: str, root: Path, **wanted: object) -> tuple[BoxSet, BoxSet]:
    train, test = DATASETS[name].open(root, Wanted((30, 30), **wanted))  # type: ignore[arg-type]
    assert isinstance(train, BoxSet)
    assert isinstance(test, BoxSet)
    return train, test


@pytest.mark.parametrize("name", ["coco", "yolo"])
def test_all_layouts_say_the_same(name: str, tmp_path: Path) -> None:
    """The same pictures and boxes, written in two layouts, are the same targets."""
    both = [open_data(one, WRITERS[one](tmp_path / one, 7, 3), (24, 32)) for one in ("voc", name)]
    for wanted, found in zip(*both, strict=True):
        assert found.classes == wanted.classes == CLASSES
        assert not found.skipped
        by_name = {item.image.stem: item for item in wanted.items}  # type: ignore[attr-defined]
        assert sorted(by_name) == sorted(item.image.stem for item in found.items)  # type: ignore[attr-defined]
        for item in found.items:  # type: ignore[attr-defined]
            other = by_name[item.image.stem]
            assert item.size == other.size
            assert item.truth.classes.tolist() == other.truth.classes.tolist()
            np.testing.assert_allclose(item.truth.boxes, other.truth.boxes, atol=1e-3)
            assert not item.truth.difficult.any()


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_layout_is_known_by_its_looks(name: str, tmp_path: Path) -> None:
    WRITERS[name](tmp_path, 3, 2)
    assert layout_of(tmp_path) is DATASETS[name].layout
    images = open_boxed(tmp_path, Preprocess(32), "all", ("red", "blue"))
    assert len(images) == 5
    with pytest.raises(BbgError, match=r"the boxes have the class .*, the network has 'green'"):
        open_boxed(tmp_path, Preprocess(32), "all", ("green",))
    other = next(one for one in LAYOUTS if one != name)
    with pytest.raises(BbgError, match=f"looks like '{name}', not '{other}'; say --set dataset={name}"):
        open_data(other, tmp_path)


def test_a_folder_in_no_layout_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BbgError, match="no images with boxes in a layout that is known"):
        open_boxed(tmp_path, Preprocess(32))
    with pytest.raises(BbgError, match=r"'cifar10' have no boxes; allowed are voc, yolo, coco"):
        open_boxed(tmp_path, Preprocess(32), dataset="cifar10")
    for name in LAYOUTS:
        with pytest.raises(BbgError, match=r"give|add|name"):
            halves(name, tmp_path)


@pytest.mark.parametrize(
    ("parts", "train", "test", "shared"),
    [
        ({"train", "val"}, "train", "val", False),
        ({"train", "val", "test"}, "train", "test", False),
        ({"train", "val", "test", "trainval"}, "trainval", "test", False),
        ({"train", "trainval", "val"}, "train", "val", False),
        ({"train"}, "train", "train", True),
        ({"trainval"}, "trainval", "trainval", True),
        ({"val"}, None, "val", False),
        (set(), None, None, True),
    ],
)
def test_which_part_is_for_what(parts: set[str], train: str | None, test: str | None, shared: bool) -> None:
    assert (chosen(parts, "train"), chosen(parts, "test"), is_shared(parts)) == (train, test, shared)


@pytest.mark.parametrize(
    ("sides", "first", "wanted"),
    [
        ((1, 1, 10, 10), 1, (0, 0, 10, 10)),
        ((1, 1, 10, 10), 0, (1, 1, 10, 10)),
        ((-5, 2, 99, 99), 0, (0, 2, 60, 40)),
        ((60, 1, 90, 20), 0, "outside of the image"),
        ((3, 3, 3.5, 20), 0, "smaller than a pixel"),
        ((3, 3, 4, 4), 0, (3, 3, 4, 4)),
        ((3, 3, 3, 20), 0, "without an area"),
        ((9, 3, 3, 20), 0, "inverted"),
        ((9, 3, float("nan"), 20), 0, "has a side that is no number"),
    ],
)
def test_one_place_judges_boxes(sides: tuple[float, ...], first: int, wanted: object) -> None:
    found, problem = judged(Annotated("a", sides, first=first), (40, 60), ("a",))  # type: ignore[arg-type]
    assert (problem or found) == wanted
