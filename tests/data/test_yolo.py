"""Images with boxes in the layout of YOLO, and all that can be wrong with them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.layouts import labels, write_pictures, write_yolo
from support.voc import CLASSES

from bbg.data import BoxSet
from bbg.data.sets import Wanted
from bbg.data.yaml_keys import read_keys
from bbg.data.yolo import yolo
from bbg.errors import BbgError


def opened(root: Path, **wanted: object) -> tuple[BoxSet, BoxSet]:
    train, test = yolo(root, Wanted((30, 30), **wanted))  # type: ignore[arg-type]
    assert isinstance(train, BoxSet)
    assert isinstance(test, BoxSet)
    return train, test


def one_image(root: Path, text: str | None, names: str = "names: [a, b]\n") -> Path:
    """A set with an image of 40 x 60 in either half; `text` are the labels of that for training."""
    for half in ("train", "val"):
        for folder in ("images", "labels"):
            (root / folder / half).mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((40, 60, 3), 128, np.uint8)).save(root / "images" / half / "1.png")
        if half == "val" or text is not None:
            own = text if half == "train" and text is not None else "0 0.5 0.5 0.5 0.5\n"
            (root / "labels" / half / "1.txt").write_text(own)
    (root / "data.yaml").write_text(names)
    return root


def write_half(images: Path, own_labels: Path, seeds: tuple[int, ...]) -> None:
    write_pictures(images, seeds)
    own_labels.mkdir(parents=True, exist_ok=True)
    for seed in seeds:
        (own_labels / f"{seed}.txt").write_text(labels(seed))


@pytest.mark.parametrize(
    ("images", "own_labels", "keys"),
    [
        ("images/{}", "labels/{}", None),
        ("{}/images", "{}/labels", None),
        ("{}", "{}", None),
        ("images/{}", "labels/{}", "train: images/train\nval: images/val\n"),
        ("{}/images", "{}/labels", "train: ../train/images\nval: ../val/images\ntest: ../test/images\n"),
        ("{}/images", "{}/labels", "path: /content/set\ntrain: /content/set/train/images\nval: val/images\n"),
        ("all/images/{}", "all/labels/{}", "path: all\ntrain: [images/train]\nval:\n- images/val\ntest:  # none\n"),
    ],
)
def test_where_the_files_may_lie(images: str, own_labels: str, keys: str | None, tmp_path: Path) -> None:
    for half, seeds in (("train", (0, 1, 2)), ("val", (8, 9))):
        write_half(tmp_path / images.format(half), tmp_path / own_labels.format(half), seeds)
    if keys is None:
        (tmp_path / "classes.txt").write_text("\n".join(CLASSES))
    else:
        (tmp_path / "data.yaml").write_text(f"{keys}nc: 2\nnames: {list(CLASSES)}\n")
    train, test = opened(tmp_path)
    assert train.classes == CLASSES
    assert [sorted(item.image.stem for item in half.items) for half in (train, test)] == [["0", "1", "2"], ["8", "9"]]
    told = [one.reason for half in (train, test) for one in half.skipped]
    assert told == ["is named in the .yaml file, and is not there"] * ("../test" in (keys or ""))


def test_lists_of_images(tmp_path: Path) -> None:
    write_half(tmp_path / "images", tmp_path / "labels", (0, 1, 2))
    (tmp_path / "train.txt").write_text("./images/0.png\nimages/1.png\n\nimages/absent.png\nimages/0.png\n")
    (tmp_path / "val.txt").write_text("/home/somebody/set/images/2.png\n")
    train, test = opened(tmp_path)
    assert [[item.image.stem for item in half.items] for half in (train, test)] == [["0", "1"], ["2"]]
    assert [one.reason for one in train.skipped] == ["lists 'images/absent.png', and there is no such image"]
    with pytest.raises(BbgError, match=r"train.txt: lists 'images/absent.png'"):
        opened(tmp_path, strict=True)


@pytest.mark.parametrize("parts", [("images", "labels"), ("images/train", "labels/train"), (".", ".")])
def test_of_a_single_part_some_are_for_testing(parts: tuple[str, str], tmp_path: Path) -> None:
    write_half(tmp_path / parts[0], tmp_path / parts[1], tuple(range(10)))
    (tmp_path / parts[1] / "classes.txt").write_text("\n".join(CLASSES))
    train, test = opened(tmp_path, strict=True)
    names = [{item.image.stem for item in half.items} for half in (train, test)]
    assert names[0] | names[1] == set(map(str, range(10)))
    assert not names[0] & names[1]
    assert names[1]
    assert train.classes == CLASSES


def test_classes_without_names_are_numbers(tmp_path: Path) -> None:
    root = one_image(tmp_path, "10 0.5 0.5 0.5 0.5\n2 0.5 0.5 0.5 0.5\n", "")
    assert opened(root)[0].classes == ("2", "10", "0")
    assert opened(root)[0].counts() == [1, 1, 0]


def test_names_may_have_gaps_and_other_forms(tmp_path: Path) -> None:
    root = one_image(tmp_path, "90.0 0.5 0.5 0.5 0.5\n", "names: {90: 'a: b', 0: \"c\"}")
    train, _ = opened(root, strict=True)
    assert train.classes == ("c", "a: b")
    assert train.counts() == [0, 1]
    (root / "data.yaml").write_text(f"names: {{{'9' * 5000}: a}}")
    with pytest.raises(BbgError, match="has no classes"):
        opened(root)
    (root / "data.yaml").write_text("names: [a, a]")
    with pytest.raises(BbgError, match="has a name twice"):
        opened(root)


@pytest.mark.parametrize("text", ["", "\n\n", None])
def test_images_without_boxes_are_images(text: str | None, tmp_path: Path) -> None:
    train, _ = opened(one_image(tmp_path, text), strict=True)
    assert train.labels[0, :, 0].tolist() == [-1]


def test_an_outline_is_its_bounding_box(tmp_path: Path) -> None:
    train, _ = opened(one_image(tmp_path, "1 0.5 0.25 0.75 0.5 0.5 0.75 0.25 0.5\n1 0 0 1 0 1 .5\n"), strict=True)
    assert train.items[0].truth.boxes.tolist() == [[15, 10, 45, 30], [0, 0, 60, 20]]
    assert train.items[0].truth.classes.tolist() == [1, 1]


LINE = "has no class with four numbers, or with the corners of an outline"
BAD = {
    "outside": ("0 1.5 0.5 0.2 0.2", "outside of the image"),
    "inverted": ("0 0.5 0.5 -0.2 0.2", "inverted"),
    "no area": ("0 0.5 0.5 0 0.2", "without an area"),
    "small": ("0 0.5 0.5 0.001 0.2", "smaller than a pixel"),
    "nan": ("0 nan 0.5 0.2 0.2", "has a side that is no number"),
    "few": ("0 0.5 0.5 0.2", LINE),
    "a score": ("0 0.5 0.5 0.2 0.2 0.9", LINE),
    "words": ("cat 0.5 0.5 0.2 0.2", LINE),
    "no class": ("0.5 0.5 0.5 0.2 0.2", LINE),
    "no number": ("nan 0.5 0.5 0.2 0.2", LINE),
    "infinite": ("inf 0.5 0.5 0.2 0.2", LINE),
    "class": ("2 0.5 0.5 0.2 0.2", "the class 2 is none of the list"),
    "below": ("-1 0.5 0.5 0.2 0.2", "the class -1 is none of the list"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_line_is_told_and_left_out(case: str, tmp_path: Path) -> None:
    line, why = BAD[case]
    root = one_image(tmp_path, f"{line}\n1 0.5 0.5 0.5 0.5\n{line}\n")
    train, _ = opened(root)
    assert [tuple(one) for one in train.skipped] == [
        (str(root / "images" / "train" / "1.png"), f"2 boxes left out: {why}")
    ]
    assert train.items[0].truth.boxes.tolist() == [[15, 10, 45, 30]]
    with pytest.raises(BbgError, match="left out"):
        opened(root, strict=True)


def test_bad_files_are_told_and_left_out(tmp_path: Path) -> None:
    root = write_yolo(tmp_path, 4, 2)
    (root / "labels" / "train" / "0.txt").write_bytes(b"\xff\xfe")
    (root / "labels" / "train" / "1.txt").write_bytes(b" " * 5_000_000)
    (root / "images" / "train" / "2.png").write_bytes(b"nothing")
    (root / "labels" / "train" / "alone.txt").write_text("")
    (root / "labels" / "train" / "classes.txt").write_text("a")
    train, _ = opened(root)
    reasons = {Path(one.path).name: one.reason for one in train.skipped}
    assert [item.image.stem for item in train.items] == ["3"]
    assert sorted(reasons) == ["0.png", "1.png", "2.png", "alone.txt"]
    assert "is no text in UTF-8" in reasons["0.png"]
    assert "at most 4,194,304 are read" in reasons["1.png"]
    assert reasons["alone.txt"] == "has no image"


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("names: [a, 'b, c', \"d\\u0065\"]", {"names": ["a", "b, c", "de"]}),
        ("names:\n- a\n-  b  # no c\n", {"names": ["a", "b"]}),
        ("names:\n  0: a\n  1: it's\n", {"names": {"0": "a", "1": "it's"}}),
        ("names: ['a',\n  'b',\n]\nnc: 2", {"names": ["a", "b"], "nc": "2"}),
        ("names: {0: a, 1: 'b: c'}", {"names": {"0": "a", "1": "b: c"}}),
        ("# all\ntrain: ../a#b  # where\n\n---\nval:\n", {"train": "../a#b", "val": ""}),
        ("'a': \"it''s\"\nb: 'it''s'\nc: ~", {"a": "it''s", "b": "it's", "c": ""}),
        ("download: |\n  import os\n  os.system('x')\nnames: [a]", {"download": {"a": "b"}, "names": ["a"]}),
    ],
)
def test_keys_of_small_yaml_files(text: str, wanted: dict[str, object]) -> None:
    found = read_keys(text)
    assert {key: value for key, value in found.items() if key != "download"} == {
        key: value for key, value in wanted.items() if key != "download"
    }


def test_keys_are_those_of_a_yaml_library() -> None:
    yaml = pytest.importorskip("yaml")
    text = "path: ../x # base\ntrain: [a/b, 'c d']\nval: \"v\"\nnc: 3\nnames:\n  0: person\n  1: 'it''s'\n  2: a b\n"
    found, wanted = read_keys(text), yaml.safe_load(text)
    wanted["names"] = {str(number): name for number, name in wanted["names"].items()}
    assert found == {**wanted, "nc": "3"}


@pytest.mark.parametrize("text", ["names: [" * 50_000, "a: " + "['" * 100_000, "\n" * 500_000, "[\n" * 100_000])
def test_hostile_keys_take_no_time(text: str) -> None:
    read_keys(text)
