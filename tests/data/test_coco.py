"""Images with boxes in the layout of COCO, and all that can be wrong with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.layouts import coco_file, write_coco, write_pictures

from bbg.data import BoxSet
from bbg.data.coco import coco
from bbg.data.sets import Wanted
from bbg.errors import BbgError

CATEGORIES = [{"id": 2, "name": "a"}]


def opened(root: Path, **wanted: object) -> tuple[BoxSet, BoxSet]:
    train, test = coco(root, Wanted((30, 30), **wanted))  # type: ignore[arg-type]
    assert isinstance(train, BoxSet)
    assert isinstance(test, BoxSet)
    return train, test


def one_image(root: Path, *rows: dict[str, Any], **more: Any) -> Path:
    """A set with an image of 40 x 60 in either half; `rows` are the annotations of that for training."""
    images = [{"id": 1, "file_name": "1.png"}]
    for half in ("train", "val"):
        (root / half).mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((40, 60, 3), 128, np.uint8)).save(root / half / "1.png")
        own = [{"image_id": 1, "category_id": 2, "bbox": [10, 10, 20, 10]}, *(rows if half == "train" else ())]
        data = {"images": images, "annotations": own, "categories": CATEGORIES, **(more if half == "train" else {})}
        (root / f"{half}.json").write_text(json.dumps(data))
    return root


@pytest.mark.parametrize(
    ("files", "pictures"),
    [
        (("annotations/instances_train2017.json", "annotations/instances_val2017.json"), ("train2017", "val2017")),
        (
            ("annotations/instances_train2014.json", "annotations/instances_val2014.json"),
            ("images/train2014", "images/val2014"),
        ),
        (("train/_annotations.coco.json", "valid/_annotations.coco.json"), ("train", "valid")),
        (("train.json", "val.json"), ("images", "images")),
        (("train.json", "val.json"), (".", ".")),
        (("my_train_set.json", "my_validation_set.json"), ("train", "validation")),
        (("annotations/train.json", "annotations/test.json"), ("images/train", "images/test")),
    ],
)
def test_where_the_files_may_lie(files: tuple[str, str], pictures: tuple[str, str], tmp_path: Path) -> None:
    for file, folder, seeds in zip(files, pictures, ((0, 1, 2), (8, 9)), strict=True):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text(json.dumps(coco_file(seeds)))
        write_pictures(tmp_path / folder, seeds)
    (tmp_path / "notes.json").write_text("{}")
    train, test = opened(tmp_path, strict=True)
    assert [sorted(item.image.stem for item in half.items) for half in (train, test)] == [["0", "1", "2"], ["8", "9"]]


def test_a_test_file_is_for_testing(tmp_path: Path) -> None:
    for part, seeds in (("train", (0, 1)), ("valid", (2,)), ("test", (3,))):
        write_pictures(tmp_path / part, seeds)
        (tmp_path / part / "_annotations.coco.json").write_text(json.dumps(coco_file(seeds)))
    assert [len(half) for half in opened(tmp_path)] == [2, 1]
    assert opened(tmp_path)[1].items[0].image.stem == "3"


def test_of_a_single_file_some_are_for_testing(tmp_path: Path) -> None:
    write_pictures(tmp_path / "images", range(10))
    (tmp_path / "found.json").write_text(json.dumps(coco_file(range(10))))
    names = [{item.image.stem for item in half.items} for half in opened(tmp_path)]
    assert names[0] | names[1] == set(map(str, range(10)))
    assert not names[0] & names[1]
    assert names[1]


def test_two_files_for_one_part_are_refused(tmp_path: Path) -> None:
    write_coco(tmp_path, 2, 2)
    (tmp_path / "annotations" / "instances_train2014.json").write_text(json.dumps(coco_file((0,))))
    with pytest.raises(BbgError, match=r"'annotations/instances_train2014.json' and .* are both for train"):
        opened(tmp_path)


def test_ids_may_have_gaps_and_crowds_are_difficult(tmp_path: Path) -> None:
    crowd = {"image_id": 1, "category_id": 90, "bbox": [0, 0, 30, 40], "iscrowd": 1, "segmentation": {"counts": [9]}}
    categories = [{"id": 90, "name": "z"}, {"id": 2, "name": "a"}, {"id": 17, "name": "never"}]
    train, test = opened(one_image(tmp_path, crowd, categories=categories))
    assert train.classes == test.classes == ("a", "never", "z")
    assert train.labels[0, :, [0, 5]].tolist() == [[0, 2], [0, 1]]
    assert train.labels[0, 1, 1:5].tolist() == [0, 0, 0.5, 1]


def test_a_category_that_only_names_a_group_is_none(tmp_path: Path) -> None:
    group = [{"id": 0, "name": "cells", "supercategory": "none"}, {"id": 2, "name": "a", "supercategory": "cells"}]
    assert opened(one_image(tmp_path / "tool", categories=group))[0].classes == ("a",)
    own = [{"id": 1, "name": "person", "supercategory": "person"}, {"id": 2, "name": "a", "supercategory": "person"}]
    assert opened(one_image(tmp_path / "official", categories=own))[0].classes == ("person", "a")


def test_images_without_boxes_are_images(tmp_path: Path) -> None:
    train, _ = opened(one_image(tmp_path, annotations=[]), strict=True)
    assert train.labels[0, :, 0].tolist() == [-1]


BAD = {
    "outside": ({"bbox": [61, 1, 20, 20]}, "outside of the image"),
    "inverted": ({"bbox": [30, 1, -20, 20]}, "inverted"),
    "no area": ({"bbox": [5, 1, 0, 20]}, "without an area"),
    "small": ({"bbox": [5, 1, 0.2, 20]}, "smaller than a pixel"),
    "words": ({"bbox": ["5", 1, 1, 20]}, "has no four numbers"),
    "three": ({"bbox": [5, 1, 1]}, "has no four numbers"),
    "none": ({}, "has no four numbers"),
    "huge": ({"bbox": [10**400, 1, 5, 20]}, "has no four numbers"),
    "nan": ({"bbox": [float("nan"), 1, 5, 20]}, "has a side that is no number"),
    "category": ({"bbox": [1, 1, 5, 20], "category_id": 3}, "the category 3 is none of the list"),
    "no category": ({"bbox": [1, 1, 5, 20], "category_id": [2]}, "the category '' is none of the list"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_box_is_told_and_left_out(case: str, tmp_path: Path) -> None:
    row, why = BAD[case]
    root = one_image(tmp_path, {"image_id": 1, "category_id": 2, **row})
    train, _ = opened(root)
    assert [tuple(one) for one in train.skipped] == [(str(root / "train" / "1.png"), f"1 box left out: {why}")]
    assert train.items[0].truth.boxes.tolist() == [[10, 10, 30, 20]]
    with pytest.raises(BbgError, match=f"1.png: 1 box left out: {why}"):
        opened(root, strict=True)


WRONG = {
    "absent": ([{"id": 2, "file_name": "2.png"}], "is listed, and no such image lies in train"),
    "out": ([{"id": 2, "file_name": "../val/1.png"}], "the name of the image leads out of the set"),
    "absolute": ([{"id": 2, "file_name": "/etc/hosts"}], "the name of the image leads out of the set"),
    "no name": ([{"id": 2, "file_name": 3}], "an image without a file name is listed"),
    "long": ([{"id": 2, "file_name": "x" * 5000}], "is listed, and no such image lies in"),
    "twice": ([{"id": 1, "file_name": "1.png"}], "the id 1 is given to two images"),
    "damaged": ([{"id": 2, "file_name": "bad.png"}], "damaged or no image"),
    "size": ([{"id": 2, "file_name": "1.png", "width": 40, "height": 60}], "is 60 x 40 pixels, its annotation is for"),
    "no id": ([{"file_name": "1.png"}], "1 of its images have no 'id'"),
    "no object": ([7, None], "2 of its images have no 'id'"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_bad_image_is_told_and_left_out(case: str, tmp_path: Path) -> None:
    rows, why = WRONG[case]
    root = one_image(tmp_path, images=[{"id": 1, "file_name": "1.png"}, *rows])  # type: ignore[misc]
    if case == "damaged":
        (root / "train" / "bad.png").write_bytes(b"nothing")
    train, _ = opened(root)
    assert len(train) == 1
    assert len(train.skipped) == 1
    assert why in train.skipped[0].reason
    with pytest.raises(BbgError, match=why):
        opened(root, strict=True)


def test_annotations_and_images_without_each_other_are_told(tmp_path: Path) -> None:
    root = one_image(tmp_path, {"image_id": 5, "category_id": 2, "bbox": [1, 1, 5, 5]}, {"category_id": 2})
    write_pictures(root / "train", (4,))
    assert sorted(one.reason for one in opened(root)[0].skipped) == [
        "1 annotations are of an image that it does not list",
        "1 of its annotations have no 'image_id'",
        "is not listed in train.json",
    ]


HOSTILE = {
    "no JSON": ("{", "is no JSON"),
    "no text": ("\udcff", "is no JSON"),
    "depth": ("[" * 200_000, "is nested too deep"),
    "a number": ('{"images": [' + "9" * 10_000 + "]}", "is no JSON"),
    "a list": ("[]", "is no file of COCO"),
    "other keys": ('{"a": 1}', "is no file of COCO"),
    "images": ('{"images": 3, "categories": 4, "annotations": {}}', "has no images with annotations for training"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_files_that_are_none_are_refused(case: str, tmp_path: Path) -> None:
    text, why = HOSTILE[case]
    root = one_image(tmp_path)
    (root / "train.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(BbgError, match=why):
        opened(root)
