"""Decoded once: the cache gives what decoding gives, and is never believed where its sources or its bytes changed."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bbg.cpu import cores
from bbg.data import FileSet, ImageSet, Split, folders, open_data, read_batch
from bbg.data.cache import cached, decoded
from bbg.data.sets import Part, Wanted, part, picture_of
from bbg.errors import BbgError
from bbg.image import Preprocess

PHOTOS = Preprocess(16, 20, mean=(0.5,) * 3, std=(0.2,) * 3, decode="scaled")


def photos(root: Path, count: int = 4) -> Path:
    draws = np.random.default_rng(1)
    for half in ("train", "test"):
        for name in ("cat", "dog"):
            (root / half / name).mkdir(parents=True)
            for i in range(count):
                size = tuple(draws.integers(70, 140, 2).tolist())
                image = Image.fromarray(draws.integers(0, 256, (4, 5, 3), dtype=np.uint8)).resize(size)
                image.save(root / half / name / f"{i}.jpg")
    (root / "train" / "cat" / "broken.jpg").write_text("no image")
    return root


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that were decoded, in the order of decoding."""
    files: list[str] = []
    whole = Preprocess._decoded

    def note(self: Preprocess, source: Any) -> Any:
        files.append(str(source))
        return whole(self, source)

    monkeypatch.setattr(Preprocess, "_decoded", note)
    return files


def opened(root: Path, cache: Path | None, outside: bool = False, pictures: bool = False) -> Split:
    folders.MEMORY = 0 if outside else 2 * 2**30
    return folders.folders(root, replace(Wanted.of(PHOTOS), cache=cache, pictures=pictures))


@pytest.fixture(autouse=True)
def memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders, "MEMORY", folders.MEMORY)


def everything(split: Split) -> list[bytes]:
    return [half.read(i)[0].tobytes() for half in split for i in range(len(half))]


KINDS = {"in memory": (False, False), "outside": (True, False), "pictures": (False, True)}


@pytest.mark.parametrize("kind", KINDS)
def test_a_cache_gives_the_same_and_decodes_once(kind: str, tmp_path: Path, counted: list[str]) -> None:
    root, (outside, pictures) = photos(tmp_path / "photos"), KINDS[kind]
    plain = opened(root, None)
    expected = everything(plain)
    counted.clear()
    first = opened(root, tmp_path / "cache", outside, pictures)
    assert len(counted) == len(set(counted)) == 17
    counted.clear()
    for split in (first, opened(root, tmp_path / "cache", outside, pictures)):
        assert isinstance(split.train, FileSet if outside or pictures else ImageSet)
        assert split.train.labels.tolist() == plain.train.labels.tolist()
        assert [Path(one.path).name for one in split.train.skipped] == ["broken.jpg"]
        assert "no image" in split.train.skipped[0].reason or "identify" in split.train.skipped[0].reason
        if pictures:
            assert isinstance(split.train, FileSet)
            found, paths = [split.train.picture(i) for i in range(8)], split.train.paths
            counted.clear()
            assert all(np.array_equal(x, PHOTOS.picture(path)) for x, path in zip(found, paths, strict=True))
            assert len(counted) == 8
            counted.clear()
            assert [split.test.read(i)[0].tobytes() for i in range(8)] == expected[8:16]
        else:
            assert everything(split) == expected
        assert not counted
    assert {p.suffix for p in (tmp_path / "cache").iterdir()} == {".npy", ".npz"}
    assert np.load(next((tmp_path / "cache").glob("*.npy")), mmap_mode="r").dtype == np.uint8


def stored(cache: Path) -> list[Path]:
    return sorted(cache.glob("train-*"))


STALE: dict[str, Callable[[Path, Path], object]] = {
    "another picture": lambda root, cache: Image.new("RGB", (90, 80), (9, 9, 9)).save(root / "train/cat/1.jpg"),
    "one of the same size and time": lambda root, cache: swap(root / "train/cat/1.jpg"),
    "one more": lambda root, cache: Image.new("RGB", (90, 80), (9, 9, 9)).save(root / "train/cat/9.jpg"),
    "one less": lambda root, cache: (root / "train/cat/1.jpg").unlink(),
    "another name": lambda root, cache: (root / "train/cat/1.jpg").rename(root / "train/cat/8.jpg"),
    "pixels cut off": lambda root, cache: os.truncate(stored(cache)[0], 500),
    "no pixels": lambda root, cache: stored(cache)[0].unlink(),
    "no index": lambda root, cache: stored(cache)[1].unlink(),
    "a damaged index": lambda root, cache: damage(stored(cache)[1], 300),
    "an empty index": lambda root, cache: stored(cache)[1].write_bytes(b""),
}


def damage(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 0xFF
    path.write_bytes(data)


def swap(path: Path) -> None:
    """Other contents of the same length, with the old time."""
    seen = path.stat()
    data = bytearray(path.read_bytes())
    data[-20] ^= 0x10
    path.write_bytes(data)
    os.utime(path, ns=(seen.st_atime_ns, seen.st_mtime_ns))


@pytest.mark.parametrize("case", STALE)
def test_a_stale_or_damaged_cache_is_made_anew(case: str, tmp_path: Path, counted: list[str]) -> None:
    root, cache = photos(tmp_path / "photos"), tmp_path / "cache"
    opened(root, cache, outside=True)
    STALE[case](root, cache)
    counted.clear()
    split = opened(root, cache, outside=True)
    assert counted, "it was believed"
    assert not any("/test/" in file for file in counted), "the other half was sound"
    assert everything(split) == everything(opened(root, None))
    assert len(list(cache.iterdir())) == 4, "it takes the place of the old one"


def test_one_damaged_image_is_decoded_again(tmp_path: Path, counted: list[str]) -> None:
    root, cache = photos(tmp_path / "photos"), tmp_path / "cache"
    split = opened(root, cache, outside=True)
    expected = everything(opened(root, None))
    damage(stored(cache)[0], 128 + 5)
    counted.clear()
    assert everything(split) == expected
    assert [Path(file).name for file in counted] == ["0.jpg"]
    again = opened(root, cache)
    assert everything(again) == expected


def test_other_preprocessing_has_another_cache(tmp_path: Path) -> None:
    root, cache = photos(tmp_path / "photos"), tmp_path / "cache"
    for size in (16, 24, 16):
        split = open_data("folders", root, size, cache=cache)
        assert split.train.read(0)[0].shape == (size, size, 3)
        assert np.array_equal(
            read_batch(split.train, range(8))[0], read_batch(open_data("folders", root, size).train, range(8))[0]
        )
    assert len(list(cache.iterdir())) == 8


def test_a_cache_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BbgError, match=r"cannot keep decoded images in '.*file'.*; give another --cache DIR"):
        cached(tmp_path / "file", "train", {}, [], lambda path: np.zeros((1, 1, 1), np.uint8))


def test_decoding_is_in_order_and_only_a_little_ahead() -> None:
    """Else a set of large photographs would be in memory as a whole."""
    started: list[int] = []

    def decode(path: Path) -> np.ndarray:
        started.append(int(path.name))
        if path.name == "7":
            raise BbgError("broken")
        return np.full((1, 1, 1), int(path.name), np.uint8)

    for number, image in enumerate(decoded([Path(str(i)) for i in range(100)], decode)):
        assert str(image) == "broken" if number == 7 else image == number
        assert len(started) <= number + 4 * cores() + 2
    assert sorted(started) == list(range(100))


def test_a_part_of_a_set_has_its_own_images(tmp_path: Path, counted: list[str]) -> None:
    root, chosen = photos(tmp_path / "photos"), np.array([6, 1, 3])
    pixels, pictures = (opened(root, tmp_path / "cache", True, whole).train for whole in (False, True))
    counted.clear()
    for i, index in enumerate(chosen.tolist()):
        assert np.array_equal(part(pixels, chosen).read(i)[0], pixels.read(index)[0])
        for some in (part(pictures, chosen), Part(pictures, chosen)):
            assert np.array_equal(picture_of(some, i), picture_of(pictures, index))
            assert some.labels[i] == pictures.labels[index]
    assert not counted, "all of them come from the caches"
