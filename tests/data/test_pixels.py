"""Which pixels a set gives: by its own choice, by a recipe's keys, and what is said of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bbg.data import FileSet, ImageSet, class_counts, found, open_data, open_recipe, write_skipped
from bbg.data.sets import Skipped
from bbg.errors import BbgError
from bbg.image import Preprocess
from bbg.recipe import Recipe


def pictures(root: Path, height: int, width: int, form: str = "jpg", count: int = 6) -> Path:
    draws = np.random.default_rng(height)
    for half in ("train", "test"):
        for label, name in enumerate(("cat", "dog")):
            (root / half / name).mkdir(parents=True)
            for i in range(count):
                pixels = draws.integers(0, 200, (3, 4, 3), dtype=np.uint8) + np.uint8(50 * label)
                image = Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)
                image.save(root / half / name / f"{i}.{form}")
    return root


def recipe(**keys: Any) -> Recipe:
    return Recipe(dataset="folders", network="resnet8", **keys)


IMAGENET = Preprocess.of("imagenet")
CIFAR = Preprocess.of("cifar10")


@pytest.mark.parametrize(
    ("shape", "size", "resize"),
    [
        ((20, 28), 32, None),
        ((28, 28), 32, None),
        ((63, 90), 32, None),
        ((64, 90), 64, 74),
        ((127, 300), 64, 74),
        ((128, 128), 128, 147),
        ((200, 150), 128, 147),
        ((300, 224), 224, 256),
        ((700, 900), 224, 256),
    ],
)
def test_the_size_follows_from_the_pictures(
    shape: tuple[int, int], size: int, resize: int | None, tmp_path: Path
) -> None:
    split = open_data("folders", pictures(tmp_path, *shape, count=2))
    own = IMAGENET if resize else CIFAR
    decode = "scaled" if resize else "whole"
    assert split.preprocess == replace(own, size=(size, size), resize=resize, decode=decode)
    assert split.train.read(0)[0].shape == (size, size, 3)


KEYS: dict[str, tuple[dict[str, Any], Preprocess]] = {
    "a side": ({"size": 96}, replace(IMAGENET, size=(96, 96), resize=110, decode="scaled")),
    "a small side": ({"size": 32}, CIFAR),
    "height and width": ({"size": "96x64"}, replace(IMAGENET, size=(96, 64), resize=110, decode="scaled")),
    "a list": ({"size": [64, 96]}, replace(IMAGENET, size=(64, 96), resize=110, decode="scaled")),
    "the whole picture": (
        {"size": [64, 96], "resize": 0},
        replace(IMAGENET, size=(64, 96), resize=None, decode="scaled"),
    ),
    "another crop": ({"size": 64, "resize": 64}, replace(IMAGENET, size=(64, 64), resize=64, decode="scaled")),
    "decoded whole": ({"size": 64, "decode": "whole"}, replace(IMAGENET, size=(64, 64), resize=74)),
    "own statistics": (
        {"size": 64, "mean": [0.1, 0.2, 0.3], "std": [1, 1, 2]},
        Preprocess(64, 74, "RGB", (0.1, 0.2, 0.3), (1, 1, 2), "scaled"),
    ),
    "grey": (
        {"size": 64, "mode": "L", "mean": [0.5], "std": [0.25]},
        Preprocess(64, 74, "L", (0.5,), (0.25,), "scaled"),
    ),
}


@pytest.mark.parametrize("case", KEYS)
def test_a_recipe_asks_for_pixels(case: str, tmp_path: Path) -> None:
    keys, expected = KEYS[case]
    root = pictures(tmp_path, 200, 250)
    split = open_recipe(recipe(**keys), root)
    assert split.preprocess == split.test.preprocess == expected
    path = root / "test" / "dog" / "3.jpg"
    assert np.array_equal(split.test.read(9)[0], expected.apply(path))
    again = open_data("folders", root, preprocess=expected)
    assert again.preprocess == expected
    assert np.array_equal(again.test.read(9)[0], expected.apply(path))


@pytest.mark.parametrize("mode", [None, "L"])
def test_measured_statistics_are_those_of_the_training_images(mode: str | None, tmp_path: Path) -> None:
    split = open_recipe(recipe(size=64, mode=mode, mean="measured"), pictures(tmp_path, 100, 130))
    x = np.stack([split.train.read(i)[0] for i in range(len(split.train))]) / 255
    assert np.abs(x.mean((0, 1, 2)) - split.preprocess.mean).max() < 1e-4
    assert np.abs(x.std((0, 1, 2)) - split.preprocess.std).max() < 1e-4
    if mode == "L":
        assert split.preprocess == open_recipe(recipe(size=64, mode=mode), tmp_path).preprocess
    assert split.test.preprocess == split.preprocess


def test_sets_in_memory_follow_the_keys_too() -> None:
    digits = Recipe(dataset="digits", network="resnet8")
    plain = open_recipe(digits, None)
    assert plain.preprocess == Preprocess.of("digits")
    changed = open_recipe(digits.changed({"size": "12x16", "mode": "RGB"}), None)
    assert changed.train.read(0)[0].shape == (12, 16, 3)
    expected = (
        Image.fromarray(plain.train.read(5)[0][:, :, 0]).convert("RGB").resize((16, 12), Image.Resampling.BILINEAR)
    )
    assert np.array_equal(changed.train.read(5)[0], np.asarray(expected))
    with pytest.raises(BbgError, match="resize is 3"):
        open_recipe(digits.changed({"resize": 3}), None)


def test_constant_pictures_have_a_deviation(tmp_path: Path) -> None:
    for half in ("train", "test"):
        for name in ("a", "b"):
            (tmp_path / half / name).mkdir(parents=True)
            Image.new("RGB", (8, 8), (51, 0, 255)).save(tmp_path / half / name / "0.png")
    preprocess = open_recipe(recipe(mean="measured"), tmp_path).preprocess
    assert (preprocess.mean, preprocess.std) == ((0.2, 0.0, 1.0), (1.0, 1.0, 1.0))


@pytest.mark.parametrize(("crop", "shape", "whole"), [
    ("auto", (200, 250), True), ("auto", (40, 40), False), ("resized", (40, 40), True), ("padded", (200, 250), False),
    ("none", (200, 250), False),
])  # fmt: skip
def test_training_pictures_stay_whole_for_random_crops(
    crop: str, shape: tuple[int, int], whole: bool, tmp_path: Path
) -> None:
    split = open_recipe(recipe(crop=crop), pictures(tmp_path, *shape))
    assert isinstance(split.train, FileSet if whole else ImageSet)
    assert isinstance(split.test, ImageSet)
    if isinstance(split.train, FileSet):
        assert split.train.picture(0).shape == (*shape, 3)


# What is said of a set


def test_what_was_found_is_said(tmp_path: Path) -> None:
    root = pictures(tmp_path / "set", 200, 250)
    for i in range(8):
        (root / "train" / "cat" / f"note{i}.txt").write_text("no image")
    (root / "test" / "dog" / "empty.jpg").touch()
    split = open_data("folders", root)
    assert dict(class_counts(split.train)) == {"cat": 6, "dog": 6}
    lines = found(split)
    assert lines[:4] == [
        "12 training images, 12 test images",
        "2 classes (training + test):",
        "  cat (6 + 6), dog (6 + 6)",
        "pixels: 128 x 128 RGB, the middle of the picture, its short side scaled to 147; "
        "large JPEGs decoded at a scale",
    ]
    assert lines[4] == "skipped 9 files:"
    assert len(lines) == 11
    assert "note0.txt: is missing, damaged or no image" in lines[5]
    assert lines[-1] == "  and 4 more"
    write_skipped(split, tmp_path / "skipped.csv")
    table = (tmp_path / "skipped.csv").read_text().splitlines()
    assert table[0] == "half,file,reason"
    assert len(table) == 10
    assert table[9].startswith(f"test,{root / 'test' / 'dog' / 'empty.jpg'},")
    assert (
        found(open_data("folders", root, 32))[3] == "pixels: 32 x 32 RGB, the whole picture resized, whatever its shape"
    )


def test_nothing_skipped_is_no_file(tmp_path: Path) -> None:
    digits = open_data("digits", None)
    write_skipped(digits, tmp_path / "skipped.csv")
    assert not (tmp_path / "skipped.csv").exists()
    assert found(digits)[-1] == "pixels: 8 x 8 grey, the whole picture resized, whatever its shape"


def test_odd_names_of_skipped_files_are_written(tmp_path: Path) -> None:
    digits = open_data("digits", None)
    assert isinstance(digits.train, ImageSet)
    odd = replace(digits.train, skipped=(Skipped("a,\udce9\n.jpg", 'said "no"'),))
    write_skipped(digits._replace(train=odd), tmp_path / "s.csv")
    assert (tmp_path / "s.csv").read_bytes() == b'half,file,reason\ntraining,"a,\xe9\n.jpg","said ""no"""\n'
