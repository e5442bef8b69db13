"""Tar shards: the same images as the folders they were made of, those of other writers, and those of nobody's."""

from __future__ import annotations

import gzip
import os
import tarfile
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from support.imagenet import CLASSES, write_imagenet
from support.pictures import encoded, picture
from support.tars import JPEG, Entry, sample, write_tar

from bbg.data import open_data, open_labelled, open_recipe
from bbg.data import shards as shards_module
from bbg.data.encoded import EncodedSet
from bbg.data.imagenet import imagenet
from bbg.data.loader import Loader
from bbg.data.order import order_of
from bbg.data.sets import Wanted, part
from bbg.data.shard_writer import bytes_of, write_shards
from bbg.data.shards import Shards, open_shards
from bbg.data.tar import Member, members
from bbg.data.transforms import Pictures
from bbg.errors import BbgError
from bbg.image import Preprocess
from bbg.recipe import Recipe

torch.set_num_threads(1)

RECIPE = Recipe("imagenet", "resnet18", size=32)


def a_set(root: Path, train: list[Entry], classes: str | None = None) -> Path:
    """A set of these members, and of two images for testing."""
    root.mkdir(exist_ok=True)
    write_tar(root / "train-000000.tar", train)
    write_tar(root / "val-000000.tar", [*sample("a", 0), *sample("b", 1)])
    if classes is not None:
        (root / "classes.txt").write_text(classes)
    return root


def train_of(root: Path, **keys: Any) -> EncodedSet:
    found = imagenet(root, Wanted((16, 16), **keys)).train
    assert isinstance(found, EncodedSet)
    return found


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = write_imagenet(tmp_path_factory.mktemp("folders") / "set")
    here = root / "train" / CLASSES[2]
    (here / "a.b c.PNG").write_bytes(encoded(picture(9, 9)))
    grey = Image.fromarray(picture(30, 40)[..., 0])
    grey.save(here / "grey.jpg")
    grey.convert("CMYK").save(here / "cmyk.jpg")
    Image.fromarray((picture(30, 40)[..., 0].astype(np.uint16) << 8) + 255).save(here / "deep.png")
    Image.fromarray(picture(1, 1)).save(here / "one.jpeg")
    Image.fromarray(picture(2, 20_000)).save(here / "wide.jpg")
    frames = [Image.fromarray(picture(20, 20, seed)) for seed in range(3)]
    frames[0].save(here / "moving.gif", save_all=True, append_images=frames[1:])
    (here / "cut.jpg").write_bytes(JPEG[:200])
    return root


@pytest.fixture(scope="module")
def sharded(folders: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("shards") / "set"
    written = write_shards(open_data("imagenet", folders), out, 32 * 1024, seed=1)
    assert written["train"].images == 32
    assert written["train"].shards == len(list(out.glob("train-*.tar"))) > 2
    assert all(path.stat().st_size <= 32 * 1024 for path in out.glob("*.tar"))
    return out


# What bbg writes


def test_folders_and_shards_give_identical_batches(folders: Path, sharded: Path) -> None:
    ours, theirs = (open_recipe(RECIPE, root) for root in (sharded, folders))
    assert ours.classes == theirs.classes
    for one, other in zip(ours, theirs, strict=True):
        assert one.digest() == other.digest(), "so that a training begun with the one goes on with the other"
    for options in ({}, {"pictures": Pictures(scale=0.3), "mixup": 0.2}):
        loaders = [Loader(s.train, 7, shuffle=True, seed=3, workers=0, **options) for s in (ours, theirs)]
        for a, b in zip(*(loader.epoch(2) for loader in loaders), strict=True):
            assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    odd = [[Path(path.replace(":", "/")).suffix, reason] for path, reason in ours.train.skipped]
    assert odd == [[Path(path).suffix, reason] for path, reason in theirs.train.skipped]
    assert len(odd) == 1, "the truncated one; all other odd images are images"


def test_images_for_evaluation_are_the_same(folders: Path, sharded: Path) -> None:
    pixels = Preprocess(16, 18)
    ours, theirs = (open_labelled("imagenet", root, pixels, "train") for root in (sharded, folders))
    assert ours.classes == theirs.classes
    assert np.array_equal(ours.labels, theirs.labels)
    for index in (0, 15, 31):
        assert np.array_equal(ours.read(index), theirs.read(index))
    cut = next(i for i, name in enumerate(theirs.names) if name.endswith("cut.jpg"))
    for images in (ours, theirs):
        with pytest.raises(BbgError, match=r"jpg: is missing, damaged or no image") as error:
            images.read(cut)
        assert str(error.value).startswith(images.names[cut])


def test_files_are_kept_as_they_are_and_shuffled_by_a_seed(folders: Path, sharded: Path, tmp_path: Path) -> None:
    data = open_data("imagenet", folders).train
    assert isinstance(data, EncodedSet)
    names: list[str] = []
    for path in sorted(sharded.glob("train-*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                file = tar.extractfile(member)
                assert file is not None
                stem, ending = os.path.splitext(member.name)
                names.append(stem)
                if ending == ".cls":
                    assert int(file.read()) == data.labels[int(stem)]
                elif ending != ".json":
                    assert file.read() == data.content(int(stem))
    assert names[::3] == names[1::3] == names[2::3] != sorted(names[::3])
    again = tmp_path / "again"
    write_shards(open_data("imagenet", sharded), again, 32 * 1024, seed=1)
    for path in sharded.glob("*.tar"):
        if path.name.startswith("val"):
            continue
        with tarfile.open(path) as one, tarfile.open(again / path.name) as other:
            assert [m.name for m in one if ".json" not in m.name] == [m.name for m in other if ".json" not in m.name]


def test_a_folder_that_holds_something_stays_as_it_is(folders: Path, tmp_path: Path) -> None:
    split = open_data("imagenet", folders)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("mine")
    with pytest.raises(BbgError, match="holds something already"):
        write_shards(split, tmp_path / "out", 2**20)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine"]
    with pytest.raises(BbgError, match="this set has pixels"):
        write_shards(open_data("digits", None), tmp_path / "digits", 2**20)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_shards_appear_whole_or_not_at_all(folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    split = open_data("imagenet", folders)
    plain, count = EncodedSet.content, 0

    def content(self: EncodedSet, index: int) -> bytes:
        nonlocal count
        count += 1
        if count == 20:
            raise BbgError("x.jpg: cannot be read")
        return plain(self, index)

    left = tmp_path / ".out.bbg-part"
    left.mkdir()
    (left / "train-000099.tar").write_bytes(b"of a killed process")
    monkeypatch.setattr(EncodedSet, "content", content)
    with pytest.raises(BbgError, match="cannot be read"):
        write_shards(split, tmp_path / "out", 2**20)
    assert not list(tmp_path.iterdir())
    left.mkdir()
    (left / "train-000099.tar").write_bytes(b"of a killed process")
    (tmp_path / "out").mkdir()
    write_shards(split, tmp_path / "out", 2**20)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "classes.txt", "train-000000.tar", "train.index.npz", "val-000000.tar", "val.index.npz",
    ]  # fmt: skip


def test_sizes_are_read_as_people_write_them() -> None:
    assert [bytes_of(text) for text in ("7", "3K", "256M", "1g")] == [7, 3072, 2**28, 2**30]
    for text in ("", "M", "1.5G", "-1", "0", "1T", "12 M"):
        with pytest.raises(ValueError, match="is no size"):
            bytes_of(text)


# The index


def test_an_index_is_kept_and_made_anew_when_a_shard_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = a_set(tmp_path / "set", [*sample("a", 0), *sample("b", 1)])
    made: list[int] = []
    plain = shards_module._made
    monkeypatch.setattr(shards_module, "_made", lambda paths: made.append(len(paths)) or plain(paths))
    assert len(train_of(root)) == 2
    assert len(made) == 2
    again = train_of(root)
    assert len(made) == 2
    assert again.read(1)[1] == 1
    shard = root / "train-000000.tar"
    write_tar(shard, [*sample("a", 0), *sample("b", 1), *sample("c", 1)])
    assert len(train_of(root)) == 3
    assert len(made) == 3
    os.utime(shard, ns=(1, 1))
    train_of(root)
    assert len(made) == 4
    index = root / "train.index.npz"
    whole = index.read_bytes()
    for damage in (whole[:100], whole[:400] + b"\xff" * 40 + whole[440:], b""):
        index.write_bytes(damage)
        assert len(train_of(root)) == 3
        assert index.read_bytes()[:100] == whole[:100]


def test_an_index_that_leads_out_of_a_shard_is_not_believed(tmp_path: Path) -> None:
    root = a_set(tmp_path / "set", [*sample("a", 0), *sample("b", 1)])
    train_of(root)
    with np.load(root / "train.index.npz") as stored:
        arrays = dict(stored)
    for row, value in ((0, 1), (0, -1), (1, 2**40), (1, -5), (2, 2**62), (3, -1), (3, 2**40)):
        columns = arrays["columns"].copy()
        columns[row, 0] = value
        np.savez(root / "train.index.npz", **{**arrays, "columns": columns})
        assert train_of(root).read(0)[1] == 0
        assert isinstance(train_of(root).store, Shards)


def test_a_folder_for_reading_only_is_indexed_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = a_set(tmp_path / "set", [*sample("a", 0), *sample("b", 1)])

    def refuse(*_: object) -> Any:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(shards_module, "whole_file", refuse)
    assert len(train_of(root)) == 2
    assert not list(root.glob("*.npz"))


def test_a_shard_that_becomes_shorter_is_told_by_name(tmp_path: Path) -> None:
    root = a_set(tmp_path / "set", [*sample("a", 0), *sample("b", 1)])
    store, _ = open_shards(root, "train")
    os.truncate(root / "train-000000.tar", 600)
    with pytest.raises(BbgError, match=r"train-000000.tar:a.jpg: cannot be read \(the shard was changed\)"):
        store.content(0)


# Shards of other writers


def test_names_are_split_as_webdataset_splits_them(tmp_path: Path) -> None:
    entries = [
        ("some.folder/n1.x.jpg", JPEG),  # has the ending "x.jpg", and is no image
        *sample("some.folder/n2", 1, "JPEG"),
        (".hidden.jpg", JPEG),
        ("noending", b""),
        *sample("n3", 0, "png", encoded(picture(8, 8))),
        ("n3.json", b"{}"),
        *sample("n4", 0, "webp", encoded(picture(8, 8), "WEBP")),
        ("n5.txt", b"a caption"),
        *sample("n" * 180, 1),
    ]
    train = train_of(a_set(tmp_path / "set", entries, "cat\ndog\n"))
    assert train.classes == ("cat", "dog")
    assert [train.name(i).partition(":")[2] for i in range(len(train))] == [
        "n3.png", "n4.webp", "n" * 180 + ".jpg", "some.folder/n2.JPEG",
    ]  # fmt: skip
    assert train.labels.tolist() == [0, 0, 1, 1]
    assert all(train.read(i)[0].shape == (16, 16, 3) for i in range(4))
    assert not train.damage
    assert {(path.rpartition("set/")[2], reason) for path, reason in train.skipped} == {
        ("train-000000.tar:some.folder/n1", "has no image"),
        ("train-000000.tar:n5", "has no image"),
    }


@pytest.mark.parametrize("name", ["imagenet1k-train-0000.tar", "train_7.tar", "set.train-00.tar"])
def test_shards_are_found_under_the_names_of_the_field(tmp_path: Path, name: str) -> None:
    root = a_set(tmp_path / "set", [*sample("a", 0), *sample("b", 1)])
    (root / "train-000000.tar").rename(root / name)
    (root / "val-000000.tar").rename(root / name.replace("train", "validation"))
    split = open_data("imagenet", root)
    assert (len(split.train), len(split.test), split.classes) == (2, 2, ("0", "1"))


@pytest.mark.parametrize(
    ("label", "words"),
    [("x", "no number"), ("-1", "no number"), ("100000", "no number"), ("", "no number"), ("1" * 30, "has no .cls")],
)
def test_a_label_that_is_no_number_is_told(tmp_path: Path, label: str, words: str) -> None:
    train = train_of(a_set(tmp_path / "set", [*sample("a", label), *sample("b", 1)]))
    assert len(train) == 1
    ((path, reason),) = train.skipped
    assert path.endswith("train-000000.tar:a")
    assert words in reason


def test_classes_that_no_line_names_are_left_out(tmp_path: Path) -> None:
    root = a_set(tmp_path / "set", [*sample("a", 2), *sample("b", 1), *sample("c", 0)], "cat\ndog\n")
    train = train_of(root)
    assert train.labels.tolist() == [1, 0]
    assert train.read(0)[1] == 1
    assert train.skipped[0].reason == "its class is none of the 2 of classes.txt (2)"
    (root / "train-000000.tar").rename(root / "elsewhere")
    assert open_labelled("imagenet", root, Preprocess(16, 18)).classes == ("cat", "dog")
    (root / "elsewhere").rename(root / "train-000000.tar")
    (root / "classes.txt").write_text("")
    with pytest.raises(BbgError, match="no image has a class that"):
        train_of(root)


def test_two_samples_of_one_name_are_two(tmp_path: Path) -> None:
    train = train_of(a_set(tmp_path / "set", [*sample("a", 1), *sample("a", 0)]))
    assert train.labels.tolist() == [1, 0]


def test_packed_and_missing_shards_are_refused(tmp_path: Path) -> None:
    root = a_set(tmp_path / "set", [*sample("a", 0), *sample("b", 1)])
    shard = root / "train-000000.tar"
    data = shard.read_bytes()
    shard.write_bytes(gzip.compress(data))
    with pytest.raises(BbgError, match=r"is compressed \(gzip\), so no image in it can be read by its offset; unpack"):
        train_of(root)
    shard.rename(root / "train-000000.tar.gz")
    with pytest.raises(BbgError, match=r"is compressed \(gz\)"):
        train_of(root)
    (root / "train-000000.tar.gz").unlink()
    with pytest.raises(BbgError, match="no shards such as 'train-000000"):
        train_of(root)
    write_tar(shard, [("a.txt", b"x")])
    with pytest.raises(BbgError, match=r"no image with a class for train \(train-000000.tar:a: has no image\)"):
        train_of(root)
    (root / "val-000000.tar").unlink()
    write_tar(shard, [*sample("a", 0), *sample("b", 1)])
    with pytest.raises(BbgError, match="no shards such as 'val-000000"):
        train_of(root)


# Damaged shards


def test_the_readable_samples_of_a_damaged_shard_stay(tmp_path: Path) -> None:
    entries = [one for i in range(6) for one in sample(f"{i}", i % 2)]
    root = a_set(tmp_path / "set", entries)
    shard = root / "train-000000.tar"
    whole = bytearray(shard.read_bytes())
    with shard.open("rb") as file:
        places = [one.offset for one in members(file) if isinstance(one, Member)]
    whole[places[4] - 512 : places[4] - 400] = b"\xaa" * 112  # the head of 2.jpg
    shard.write_bytes(whole[: places[10] + 5])  # and the end is missing from within 5.jpg on
    train = train_of(root)
    assert [train.name(i).partition(":")[2] for i in range(len(train))] == ["0.jpg", "1.jpg", "3.jpg", "4.jpg"]
    reasons = {reason for _, reason in train.skipped}
    assert f"is damaged at byte {places[4] - 512:,}: no header of a tar file" in reasons
    assert f"is damaged at byte {places[10] - 512:,}: '5.jpg' has {len(JPEG):,} bytes, and 5 are left" in reasons
    assert "has no image" in reasons, "2.cls has lost it"


def test_a_shard_that_ends_between_two_samples_is_told(tmp_path: Path) -> None:
    root = a_set(tmp_path / "set", [*sample("a", 0), *sample("b", 1)])
    shard = root / "train-000000.tar"
    with shard.open("rb") as file:
        last = [one for one in members(file) if isinstance(one, Member)][-1]
    os.truncate(shard, last.offset + 512)
    train = train_of(root)
    assert len(train) == 2
    assert "ends without an end mark" in train.skipped[0].reason


def test_links_and_odd_names_lead_nowhere(tmp_path: Path) -> None:
    outside = tmp_path / "secret.jpg"
    outside.write_bytes(JPEG)
    root = a_set(tmp_path / "set", [])
    with tarfile.open(root / "train-000000.tar", "w") as tar:
        for name, kind, to in (("a", tarfile.SYMTYPE, str(outside)), ("b", tarfile.LNKTYPE, "../secret.jpg")):
            info = tarfile.TarInfo(f"{name}.jpg")
            info.type, info.linkname = kind, to
            tar.addfile(info)
            label = tarfile.TarInfo(f"{name}.cls")
            label.size = 1
            tar.addfile(label, BytesIO(b"0"))
        for name, content in (*sample("/etc/passwd", 0), *sample("../../x", 1)):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, BytesIO(content))
    train = train_of(root)
    assert len(train) == 2, "a name is only what messages say"
    assert train.content(0) == train.content(1) == JPEG
    assert [reason for _, reason in train.skipped] == ["its image is a link"] * 2


# Reading along the shards


def test_a_sequential_training_reads_all_and_is_resumed_at_a_step(
    sharded: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(order_of, "__defaults__", (6,))
    train = open_recipe(RECIPE.changed({"reading": "sequential"}), sharded).train
    assert not np.array_equal(order_of(train, 0, 0), order_of(open_recipe(RECIPE, sharded).train, 0, 0))
    loaders = [Loader(train, 4, shuffle=True, seed=5, workers=workers) for workers in (0, 2)]
    whole = [[y for _, y in loader.epoch(1)] for loader in loaders]
    rest = [y for _, y in loaders[0].epoch(1, start=3)]
    assert len(whole[0]) == 8
    assert all(torch.equal(a, b) for a, b in zip(*whole, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(whole[0][3:], rest, strict=True))
    some = part(train, np.arange(0, 32, 2))
    assert sorted(order_of(some, 0, 0)) == list(range(16))


def test_a_sequential_reading_wants_shuffled_shards(
    folders: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(BbgError, match="has folders, not shards; write shards of them by bbg shard"):
        train_of(folders, reading="sequential")
    root = a_set(tmp_path / "set", [one for i in range(8) for one in sample(str(i), i // 4)])
    train_of(root, reading="sequential")
    assert "images of a class lie behind each other" in caplog.text
