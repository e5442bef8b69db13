"""Sets of ImageNet's size in class folders: listed without a look, decoded one by one, whatever is damaged."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from support.imagenet import CLASSES, write_imagenet
from support.pictures import picture

from bbg.data import found, open_data, open_labelled, open_recipe, write_skipped
from bbg.data.damage import Damage, damage_of
from bbg.data.encoded import EncodedSet
from bbg.data.loader import Loader
from bbg.data.sets import part
from bbg.data.transforms import Pictures
from bbg.errors import BbgError
from bbg.image import Preprocess
from bbg.recipe import Recipe

torch.set_num_threads(1)

RECIPE = Recipe("imagenet", "resnet18", size=32)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_imagenet(tmp_path / "set")


def opened(root: Path, **keys: Any) -> tuple[EncodedSet, EncodedSet]:
    train, test = open_recipe(RECIPE.changed(keys), root)
    assert isinstance(train, EncodedSet)
    assert isinstance(test, EncodedSet)
    return train, test


def test_images_are_those_that_the_reader_of_folders_finds(root: Path) -> None:
    train, test = opened(root)
    pixels = Preprocess(32, 37, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    plain = open_data("folders", root, preprocess=pixels)
    for ours, theirs in zip((train, test), plain, strict=True):
        assert ours.preprocess == pixels
        assert ours.classes == theirs.classes == CLASSES
        assert np.array_equal(ours.labels, theirs.labels)
        for index in range(len(theirs)):
            assert np.array_equal(ours.read(index)[0], theirs.read(index)[0])
            assert ours.read(index)[1] == theirs.labels[index]


def test_pixels_are_those_of_imagenet_unless_a_recipe_says_otherwise(root: Path) -> None:
    assert open_data("imagenet", root).preprocess == Preprocess.of("imagenet")
    grey = open_recipe(RECIPE.changed({"size": 64, "mode": "L"}), root)
    assert (grey.preprocess.size, grey.preprocess.resize) == ((64, 64), 73)
    assert grey.train.read(3)[0].shape == (64, 64, 1)
    whole = open_recipe(RECIPE.changed({"resize": 0}), root)
    assert whole.preprocess.resize is None


def test_no_file_is_opened_or_asked_for_its_size_at_the_start(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loops over 1.28 million files are those that call the system for a name of a file."""
    touched: list[str] = []

    def watched(name: str) -> None:
        plain = getattr(os, name)

        def call(path: Any, *args: Any, **keys: Any) -> Any:
            touched.extend([str(path)] if str(path).endswith(".JPEG") else [])
            return plain(path, *args, **keys)

        monkeypatch.setattr(os, name, call)

    for name in ("stat", "lstat", "open"):
        watched(name)
    train, _ = open_recipe(RECIPE, root)
    found(open_recipe(RECIPE, root))
    assert not touched
    train.read(0)
    assert touched


def test_files_below_are_found_and_others_are_told(root: Path, tmp_path: Path) -> None:
    here = root / "train" / CLASSES[1]
    (here / "inner").mkdir()
    (here / f"{CLASSES[1]}_0000.JPEG").rename(here / "inner" / "moved.png")
    (here / "notes.txt").write_text("no image")
    (here / ".hidden.jpg").write_text("no image")
    (root / "train" / "lost.jpg").write_bytes(b"")
    split = open_recipe(RECIPE, root)
    assert len(split.train) == 24
    train = split.train
    assert isinstance(train, EncodedSet)
    assert train.name(6).endswith("inner/moved.png")
    assert train.read(6)[1] == 1
    assert {(Path(path).name, reason) for path, reason in train.skipped} == {
        ("notes.txt", "its name does not end as that of an image"),
        ("lost.jpg", "lies in no class folder"),
    }
    write_skipped(split, tmp_path / "skipped.csv")
    assert len((tmp_path / "skipped.csv").read_text().splitlines()) == 3


def test_classes_are_called_as_the_mapping_of_imagenet_has_them(root: Path) -> None:
    lines = ["n01440764 tench, Tinca tinca", "n02012849 crane", "n03126707 crane", "n99999999 absent"]
    (root / "LOC_synset_mapping.txt").write_text("\n".join(lines) + "\n")
    named = ("tench, Tinca tinca", "crane (n02012849)", "crane (n03126707)", "n07920052")
    assert open_data("imagenet", root).classes == named
    images = open_labelled("imagenet", root, Preprocess(16, 18))
    assert images.classes == named, "so that a network is scored under the names that it was trained with"
    assert images.labels.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    (root / "LOC_synset_mapping.txt").unlink()
    (root / "classes.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(BbgError, match="it is no text in UTF-8"):
        open_data("imagenet", root)


def test_parts_for_evaluation(root: Path) -> None:
    pixels = Preprocess(16, 18)
    assert [len(open_labelled("imagenet", root, pixels, part)) for part in ("test", "train", "all")] == [8, 24, 32]
    images = open_labelled("imagenet", root, pixels, "all")
    assert images.read(24).shape == (16, 16, 3)
    assert np.array_equal(images.read(24), pixels.apply(images.names[24]))
    (root / "train").rename(root.with_name("elsewhere"))
    assert open_labelled("imagenet", root, pixels).labels.tolist() == [0, 0, 1, 1, 2, 2, 3, 3], "val alone is enough"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda root: (root / "val").rename(root / "tests"), "no folder .*val"),
        (lambda root: (root / "train").rename(root / "training"), "no folder .*train"),
        (lambda root: (root / "val" / CLASSES[2]).rename(root / "val" / "n1"), "'n03126707' is in only one split"),
        (lambda root: [p.unlink() for p in (root / "train" / CLASSES[0]).iterdir()], "n01440764' has no image"),
    ],
)
def test_other_layouts_are_refused(root: Path, change: Any, words: str) -> None:
    change(root)
    with pytest.raises(BbgError, match=words):
        open_data("imagenet", root)


# Damaged images


def damaged(root: Path) -> tuple[Path, Path]:
    first, second = (root / "train" / CLASSES[1] / f"{CLASSES[1]}_{i:04d}.JPEG" for i in (2, 3))
    first.write_bytes(first.read_bytes()[:300])
    second.write_bytes(b"")
    return first, second


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("pictures", [None, Pictures(scale=0.5)])
def test_the_next_image_of_its_class_stands_in_for_a_damaged_one(
    root: Path, workers: int, pictures: Pictures | None
) -> None:
    first, second = damaged(root)
    train, _ = opened(root)
    loader = Loader(train, 5, shuffle=True, seed=3, pictures=pictures, workers=workers)
    for _ in range(2):
        labels = torch.cat([y for _, y in loader.epoch(1)])
        assert len(labels) == 20
    reader, _ = opened(root)
    for index in (8, 9):
        assert np.array_equal(reader.read(index)[0], reader.read(10)[0]), "the one behind both of them"
    names = {path for path, _ in reader.skipped}
    assert names == {str(first), str(second)}
    told = {path for path, _ in train.skipped}
    assert told == {str(path) for i, path in ((8, first), (9, second)) if i in set(order(train, 3, 1)[:20])}
    assert all("damaged" in reason for _, reason in train.skipped)


def order(data: EncodedSet, seed: int, epoch: int) -> list[int]:
    from bbg.data.order import order_of

    found: list[int] = order_of(data, seed, epoch).tolist()
    return found


def test_a_damaged_image_is_an_error_where_that_is_asked_for(root: Path) -> None:
    first, _ = damaged(root)
    train, _ = opened(root, strict=True)
    with pytest.raises(BbgError, match=first.name):
        train.read(8)
    with pytest.raises(BbgError, match="damaged"):
        list(Loader(train, 5, shuffle=True, workers=1).epoch())


def test_a_class_without_a_readable_image_is_an_error(root: Path) -> None:
    for path in (root / "train" / CLASSES[2]).iterdir():
        path.write_bytes(b"no image")
    train, _ = opened(root)
    with pytest.raises(BbgError, match=r"5 others of its class, which would stand in, cannot be read either"):
        train.read(14)


def test_odd_images_are_images(root: Path) -> None:
    """Only a picture whose short side cannot be scaled is none, and only where it is scaled."""
    here = root / "train" / CLASSES[0]
    grey = Image.fromarray(picture(30, 40)[..., 0])
    grey.save(here / "a_grey.jpg")
    grey.convert("CMYK").save(here / "b_cmyk.jpg")
    Image.fromarray((picture(30, 40)[..., 0].astype(np.uint16) << 8) + 255).save(here / "c_deep.png")
    Image.fromarray(picture(1, 1)).save(here / "d_one.jpg")
    frames = [Image.fromarray(picture(20, 20, seed)) for seed in range(3)]
    frames[0].save(here / "e_moving.gif", save_all=True, append_images=frames[1:])
    Image.fromarray(picture(9, 9)).save(here / "f_named_otherwise.jpg", "PNG")
    Image.fromarray(picture(2, 20_000)).save(here / "g_wide.jpg")
    train, _ = opened(root, size=224)
    crops = Pictures(scale=0.2)
    for index in range(7):
        assert crops.read(train, index, 0, 0).shape == (224, 224, 3)
    assert not train.damage.reasons
    for index in range(7):
        assert train.read(index)[0].shape == (224, 224, 3)
    ((path, reason),) = train.skipped
    assert path.endswith("g_wide.jpg")
    assert "pixels; allowed are at most" in reason


def test_a_part_notes_for_the_whole(root: Path) -> None:
    damaged(root)
    train, _ = opened(root)
    some = part(train, np.array([0, 8, 10]))
    assert isinstance(some, EncodedSet)
    assert np.array_equal(some.read(1)[0], train.read(10)[0])
    assert len(train.skipped) == 1
    assert damage_of(some) is damage_of(train)


def test_damage_is_noted_once() -> None:
    damage = Damage()
    damage.add([("a", "x"), ("b", "y"), ("a", "z")])
    assert damage.since() == [("a", "x"), ("b", "y")]
    assert damage.since(1) == [("b", "y")]
    assert len(damage_of(object())) == 0


def test_the_digest_tells_sets_apart(root: Path) -> None:
    train, test = opened(root)
    before = train.digest()
    assert before == opened(root)[0].digest() != test.digest()
    damaged(root)
    assert opened(root)[0].digest() != before
