"""Images with boxes in the layout of Pascal VOC, and all that can be wrong with them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.voc import CLASSES, annotation, scene, write_image, write_list, write_voc

from bbg.data import BoxSet, Skipped, found, open_boxed, open_data
from bbg.data.annotation import read_annotation
from bbg.data.sets import Wanted, part
from bbg.data.voc import voc
from bbg.errors import BbgError
from bbg.image import Preprocess

GREY = np.full((40, 60, 3), 128, np.uint8)


def opened(root: Path, **wanted: object) -> tuple[BoxSet, BoxSet]:
    train, test = voc(root, Wanted((30, 30), **wanted))  # type: ignore[arg-type]
    assert isinstance(train, BoxSet)
    assert isinstance(test, BoxSet)
    return train, test


def one_image(root: Path, text: str, picture: np.ndarray = GREY) -> Path:
    """A set whose training image is `text`; the test image has a box of the class "a"."""
    write_image(root, "odd", picture, text)
    write_image(root, "good", GREY, annotation([("a", 1, 1, 30, 20)]))
    write_list(root, "train", ["odd", "good"])
    write_list(root, "val", ["good"])
    return root


def test_the_pixels_of_a_box_are_those_of_its_colour(tmp_path: Path) -> None:
    """What VOC counts from 1, with the last pixel, are the pixels `left` to `right` of an array."""
    split = open_data("voc", write_voc(tmp_path / "VOCdevkit" / "VOC2012", 6, 3), (24, 32))
    assert split.classes == CLASSES
    assert (len(split.train), len(split.test)) == (6, 3)
    assert split.preprocess.resize is None
    for seed, item in enumerate(split.train.items):  # type: ignore[attr-defined]
        picture, objects = scene(int(item.image.stem))
        assert item.size == picture.shape[:2]
        assert len(item.truth.classes) == len(objects)
        for number, (left, top, right, bottom) in zip(item.truth.classes, item.truth.boxes.astype(int), strict=True):
            inside = picture[top:bottom, left:right].astype(int)
            assert (inside[..., 2 * (1 - number)] > 200).all()
        image, target = split.train.read(seed)
        assert image.shape == (24, 32, 3)
        np.testing.assert_allclose(target[: len(objects), 1:5] * (64, 48, 64, 48), item.truth.boxes, atol=1e-4)
        assert (target[len(objects) :, 0] == -1).all()
    assert "2 classes of boxes (training + test):" in found(split)
    few = part(split.train, np.array([4, 1]))
    assert np.array_equal(few.read(0)[1][:1, :1], split.train.read(4)[1][:1, :1])
    assert few.digest() != split.train.digest() == open_data("voc", tmp_path, (24, 32)).train.digest()


@pytest.mark.parametrize(
    ("lists", "train", "test"),
    [
        (("train", "val"), "1", "2"),
        (("train", "val", "test"), "1", "3"),
        (("train", "val", "trainval", "test"), "12", "3"),
    ],
)
def test_the_lists_say_what_is_for_what(lists: tuple[str, ...], train: str, test: str, tmp_path: Path) -> None:
    names = {"train": ["1"], "val": ["2"], "trainval": ["1", "2", "1"], "test": ["3  1"]}
    for name in "123":
        write_image(tmp_path, name, GREY, annotation([("a", 1, 1, 30, 20)]))
    for one in lists:
        write_list(tmp_path, one, names[one])
    halves = opened(tmp_path)
    assert ["".join(item.image.stem for item in half.items) for half in halves] == [train, test]


def test_without_lists_some_are_kept_for_testing(tmp_path: Path) -> None:
    for name in range(10):
        write_image(tmp_path, str(name), GREY, annotation([("a", 1, 1, 30, 20)]))
    train, test = opened(tmp_path)
    names = [{item.image.stem for item in half.items} for half in (train, test)]
    assert names[0] | names[1] == set(map(str, range(10)))
    assert not names[0] & names[1]
    assert names[1]


def test_several_sets_are_joined(tmp_path: Path) -> None:
    for year in ("VOC2007", "VOC2012"):
        write_voc(tmp_path / year, 3, 2)
    assert [len(half) for half in opened(tmp_path)] == [6, 4]


def test_difficult_and_empty_images_are_kept(tmp_path: Path) -> None:
    write_image(tmp_path, "1", GREY, annotation([("a", 1, 1, 30, 20), ("a", 31, 21, 60, 40)], difficult=[1]))
    write_image(tmp_path, "2", GREY, annotation([]))
    write_list(tmp_path, "train", ["1", "2"])
    write_list(tmp_path, "val", ["2"])
    train, test = opened(tmp_path)
    assert train.labels[:, :, 5].tolist() == [[0, 1], [0, 0]]
    assert train.labels[0, 1, 1:5].tolist() == [0.5, 0.5, 1, 1]
    assert train.labels[1, :, 0].tolist() == [-1, -1]
    assert test.labels.shape == (1, 1, 6)
    assert not train.skipped


BAD = {
    "outside": ([("a", 61, 1, 90, 20)], "1 box left out: outside of the image"),
    "below": ([("a", 1, 90, 20, 120)], "1 box left out: outside of the image"),
    "inverted": ([("a", 30, 1, 10, 20), ("a", 1, 20, 10, 10)], "2 boxes left out: inverted"),
    "no area": ([("a", 5, 1, 5, 20)], "1 box left out: without an area"),
    "no number": ([("a", "x", 1, 5, 20)], "1 box left out: has no four numbers"),
    "nan": ([("a", "nan", 1, 5, 20)], "1 box left out: has a side that is no number"),
    "infinite": ([("a", 1, 1, "1e999", 20)], "1 box left out: has a side that is no number"),
    "no class": ([("", 1, 1, 5, 20)], "1 box left out: has no class"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_box_is_told_and_left_out(case: str, tmp_path: Path) -> None:
    objects, why = BAD[case]
    root = one_image(tmp_path, annotation([*objects, ("a", 11, 11, 30, 20)]))  # type: ignore[list-item]
    (tmp_path / "classes.txt").write_text("a\n")
    train, _ = opened(root)
    assert train.skipped == (Skipped(str(tmp_path / "JPEGImages" / "odd.jpg"), why),)
    assert train.items[0].truth.boxes.tolist() == [[10, 10, 30, 20]]
    with pytest.raises(BbgError, match=f"odd.jpg: {why}"):
        opened(root, strict=True)


def test_a_class_that_is_not_listed_is_left_out(tmp_path: Path) -> None:
    root = one_image(tmp_path, annotation([("b", 1, 1, 30, 20)]))
    assert opened(root)[0].classes == ("a", "b")
    (tmp_path / "classes.txt").write_text("c\na\n")
    train, _ = opened(root)
    assert train.classes == ("c", "a")
    assert train.skipped[0].reason == "1 box left out: the class 'b' is none of the list"
    assert train.counts() == [0, 1]
    (tmp_path / "classes.txt").write_text("a\na\n")
    with pytest.raises(BbgError, match="has a name twice"):
        opened(root)


def test_a_box_that_is_partly_outside_is_cut(tmp_path: Path) -> None:
    train, _ = opened(one_image(tmp_path, annotation([("a", 0, -5, 20.5, 99)])))
    assert train.items[0].truth.boxes.tolist() == [[0, 0, 20.5, 40]]
    assert not train.skipped


BOMB = """<!DOCTYPE annotation [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><annotation><object><name>&b;</name></object>
</annotation>"""
HOSTILE = {
    "a bomb": (BOMB, "has a document type"),
    "a file": (
        '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/hosts">]><annotation>&x;</annotation>',
        "type",
    ),
    "depth": ("<annotation>" + "<a>" * 100_000, "deeper than 16"),
    "another document": ("<html></html>", "is no annotation: its first element is 'html'"),
    "an end": ("<annotation><object>", "is no sound XML"),
    "no text": ("", "is no sound XML"),
    "an unknown encoding": ('<?xml version="1.0" encoding="klingon"?><annotation/>', "is no sound XML"),
    "size": ("<annotation>" + " " * 5_000_000 + "</annotation>", "at most 4,194,304 are read"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_annotations_are_refused(case: str, tmp_path: Path) -> None:
    text, why = HOSTILE[case]
    root = one_image(tmp_path, text)
    train, _ = opened(root)
    assert [item.image.stem for item in train.items] == ["good"]
    assert len(train.skipped) == 1
    assert why in train.skipped[0].reason
    with pytest.raises(BbgError, match=r"odd.xml: "):
        opened(root, strict=True)


def test_parts_of_objects_are_left_aside(tmp_path: Path) -> None:
    part_of = "<part><name>head</name><bndbox><xmin>3</xmin><ymin>3</ymin><xmax>4</xmax><ymax>4</ymax></bndbox></part>"
    text = annotation([("a", 1, 1, 30, 20)])
    for place in ("<name>", "</object>"):
        file = tmp_path / "1.xml"
        file.write_text(text.replace(place, part_of + place))
        (one,) = read_annotation(file)
        assert (one.name, one.sides, one.problem) == ("a", (1, 1, 30, 20), "")


def test_what_is_listed_and_missing_is_told(tmp_path: Path) -> None:
    root = one_image(tmp_path, annotation([]))
    (root / "JPEGImages" / "alone.jpg").write_bytes(b"no image")
    (root / "JPEGImages" / "damaged.jpg").write_bytes(b"no image")
    (root / "Annotations" / "damaged.xml").write_text(annotation([]))
    write_list(root, "train", ["good", "absent", "alone", "damaged", "../../good"])
    train, _ = opened(root)
    reasons = {Path(path).name: why for path, why in train.skipped}
    assert len(train) == 1
    assert "no image 'absent' lies in JPEGImages" in reasons["absent"]
    assert reasons["alone.jpg"] == "has no annotation in Annotations"
    assert "no image" in reasons["damaged.xml"]
    assert len(reasons) == 4
    with pytest.raises(BbgError, match="absent"):
        opened(root, strict=True)


@pytest.mark.parametrize("size", [(1, 1), (20, 1), (1, 900)])
def test_pictures_of_any_size(size: tuple[int, int], tmp_path: Path) -> None:
    picture = np.zeros((*size, 3), np.uint8)
    train, _ = opened(one_image(tmp_path, annotation([("a", 1, 1, 30, 20)]), picture))
    assert train.read(0)[0].shape == (30, 30, 3)
    assert train.labels[0, 0, 1:3].tolist() == [0, 0]


def test_sets_without_images_or_boxes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BbgError, match="no folders 'Annotations' and 'JPEGImages' in"):
        opened(tmp_path)
    write_image(tmp_path, "1", GREY, annotation([]))
    write_list(tmp_path, "train", ["1"])
    write_list(tmp_path, "val", ["1"])
    with pytest.raises(BbgError, match=r"no image of .* has a box"):
        opened(tmp_path)
    (tmp_path / "classes.txt").write_text("a")
    assert opened(tmp_path)[0].classes == ("a",)
    write_list(tmp_path, "val", ["2"])
    with pytest.raises(BbgError, match=r"has no images with annotations for testing .*no image '2' lies in"):
        opened(tmp_path)


def test_evaluation_takes_the_classes_of_the_network(tmp_path: Path) -> None:
    write_voc(tmp_path, 4, 3)
    preprocess = Preprocess(32)
    images = open_boxed(tmp_path, preprocess, classes=("green", "red", "blue"))
    assert len(images) == 3
    assert set(np.concatenate([item.truth.classes for item in images.items]).tolist()) <= {1, 2}
    assert len(open_boxed(tmp_path, preprocess, "all")) == 7
    with pytest.raises(BbgError, match="the boxes have the class 'blue', the network has 'red'"):
        open_boxed(tmp_path, preprocess, "all", ("red",))


@pytest.mark.parametrize(("size", "resize"), [((32, 32), None), ((20, 30), 33), ((16, 16), 16)])
def test_placed_and_located_are_inverse(size: tuple[int, int], resize: int | None) -> None:
    preprocess, boxes = Preprocess(size, resize), np.array([[3, 4, 50, 60], [0, 0, 100, 80.5]])
    np.testing.assert_allclose(preprocess.located(preprocess.placed(boxes, (90, 120)), (90, 120)), boxes)
    cropped = preprocess.placed(np.array([[0, 0, 120, 90]]), (90, 120))
    assert (cropped[0, :2] <= 0).all()
    assert (cropped[0, 2:] >= 1).all()
