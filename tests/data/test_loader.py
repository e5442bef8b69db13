"""Batches: the same pixels for any batch size and any number of workers; crops and mirrors; evaluation in order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from bbg.data import FileSet, ImageSet, folders, open_data, read_batch
from bbg.data.augment import Crops, crop_flip, draw, draw_crops, integers, permutation
from bbg.data.loader import Loader
from bbg.errors import BbgError
from bbg.image import Preprocess

torch.set_num_threads(1)

COLOUR = Preprocess(6, mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3))


def numbered(n: int, size: int = 6, channels: int = 3) -> ImageSet:
    """Image i carries the label i, so that batches tell what they are made of."""
    pixels = np.random.default_rng(0).integers(1, 256, (n, size, size, channels), dtype=np.uint8)
    return ImageSet(pixels, np.arange(n), ("number",), COLOUR)


def filed(data: ImageSet, folder: Path) -> FileSet:
    """The same images as files."""
    paths = [folder / f"{i}.png" for i in range(len(data))]
    for path, image in zip(paths, data.images, strict=True):
        Image.fromarray(image).save(path)
    return FileSet(paths, data.labels, data.classes, data.preprocess)


def epoch(loader: Loader, number: int = 0, start: int = 0) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return list(loader.epoch(number, start))


def training(data: Any = None, batch_size: int = 8, **options: Any) -> Loader:
    data = numbered(53) if data is None else data
    return Loader(data, batch_size, shuffle=True, seed=5, padding=1, flip=True, **options)


# Draws


def test_draws_are_the_numbers_of_splitmix64() -> None:
    """The first outputs of SplitMix64 from the state 0, as its reference implementation prints them."""

    def splitmix64(state: int) -> int:
        state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        state = (state ^ (state >> 27)) * 0x94D049BB133111EB % 2**64
        return state ^ (state >> 31)

    assert splitmix64(0x9E3779B97F4A7C15) == 0xE220A8397B1DCDAF
    for seed, number, index, purpose in [(0, 0, 0, 0), (2**62 - 1, 7, 2**40, 3), (5, 1, 12, 2)]:
        expected = 0
        for word in (seed, number, purpose, index):
            expected = splitmix64((expected + 0x9E3779B97F4A7C15 + word) % 2**64)
        assert int(draw(seed, number, np.array([index]), purpose)[0]) == expected


def test_every_argument_of_a_draw_matters_and_draws_are_even() -> None:
    index = np.arange(20_000)
    base = draw(1, 2, index, 3)
    for other in (draw(2, 2, index, 3), draw(1, 3, index, 3), draw(1, 2, index, 4), draw(1, 2, index + 1, 3)):
        assert not (base == other).any()
    for count in (2, 3, 9):
        shares = np.bincount(integers(base, count), minlength=count) / len(index)
        assert len(shares) == count
        assert np.abs(shares * count - 1).max() < 0.06, "five standard deviations of the least share"


def test_an_order_has_every_image_once() -> None:
    for n in (1, 2, 53, 1000):
        assert sorted(permutation(3, 4, n)) == list(range(n))
    assert not np.array_equal(permutation(3, 4, 53), permutation(3, 5, 53))


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("padding", [0, 1, 4])
@pytest.mark.parametrize("shape", [(50, 3, 8, 8), (20, 1, 5, 7)])
def test_crop_flip_is_one_crop_and_mirror_per_image(shape: tuple[int, ...], padding: int, flip: bool) -> None:
    images = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    n, c, h, w = shape
    out = crop_flip(images, padding, draw_crops(1, 0, np.arange(n), padding, flip))
    assert out.shape == images.shape
    seen = set()
    for i in range(n):
        frame = torch.zeros(c, h + 2 * padding, w + 2 * padding)
        frame[:, padding : padding + h, padding : padding + w] = images[i]
        matches = [
            (y, x, mirrored)
            for y in range(2 * padding + 1)
            for x in range(2 * padding + 1)
            for mirrored in (False, True)
            if torch.equal(out[i], frame[:, y : y + h, x : x + w].flip([2] if mirrored else []))
        ]
        assert len(matches) == 1
        seen.add(matches[0])
    assert {m[2] for m in seen} == ({False, True} if flip else {False})
    if padding:
        assert len({m[:2] for m in seen}) > 5
    for axis in (0, 1):
        assert padding == 4 or {m[axis] for m in seen} == set(range(2 * padding + 1))


def test_a_slice_of_crops_is_that_of_its_images() -> None:
    whole = draw_crops(1, 2, np.arange(20), 3, True)
    part = draw_crops(1, 2, np.arange(5, 9), 3, True)
    assert isinstance(part, Crops)
    assert all(torch.equal(a, b) for a, b in zip(whole.slice(5, 9), part, strict=True))


# Epochs


def pixels_by_sample(loader: Loader, number: int) -> dict[int, bytes]:
    """What each sample of an epoch looks like."""
    return {
        int(label): image.contiguous().numpy().tobytes()
        for images, labels in loader.epoch(number)
        for image, label in zip(images, labels, strict=True)
    }


def test_a_sample_gets_the_same_pixels_for_any_batch_size_and_number_of_workers(tmp_path: Path) -> None:
    data = numbered(200)
    files = filed(data, tmp_path)
    for number in (0, 3):
        expected = pixels_by_sample(training(data, 100), number)
        assert len(expected) == 200
        batched = pixels_by_sample(training(data, 32), number)
        assert len(batched) == 192
        assert batched.items() <= expected.items()
        for size in (32, 100):
            for workers in (0, 1, 3):
                found = pixels_by_sample(training(files, size, workers=workers), number)
                assert found == (batched if size == 32 else expected), f"{workers} workers, batches of {size}"


@pytest.mark.parametrize("workers", [0, 2])
def test_files_come_in_the_order_of_the_set_in_memory(workers: int, tmp_path: Path) -> None:
    data = numbered(53)
    files = filed(data, tmp_path)
    for loaders in ((training(data), training(files, workers=workers)), (Loader(data, 8), Loader(files, 8))):
        for (x, labels), (x0, labels0) in zip(epoch(loaders[1], 1, 2), epoch(loaders[0], 1, 2), strict=True):
            assert torch.equal(labels, labels0)
            assert torch.equal(x, x0)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_file_that_is_damaged_later_ends_in_one_sentence(workers: int, tmp_path: Path) -> None:
    files = filed(numbered(20), tmp_path)
    (tmp_path / "7.png").write_text("no image")
    with pytest.raises(BbgError, match=r"7.png: is missing, damaged or no image") as caught:
        epoch(training(files, workers=workers))
    assert "\n" not in str(caught.value)


def test_an_epoch_entered_anywhere_goes_on_as_if_undisturbed() -> None:
    for number in (0, 3):
        expected = epoch(training(), number)
        assert len(expected) == training().steps == 6
        for start in range(7):
            rest = epoch(training(), number, start)
            assert len(rest) == 6 - start
            for (x, labels), (x0, labels0) in zip(rest, expected[start:], strict=True):
                assert torch.equal(x, x0)
                assert torch.equal(labels, labels0)


def test_epochs_and_seeds_differ_and_no_image_comes_twice() -> None:
    orders = []
    for seed, number in ((5, 0), (5, 1), (6, 0)):
        loader = Loader(numbered(53), 8, shuffle=True, seed=seed)
        labels = torch.cat([labels for _, labels in loader.epoch(number)]).tolist()
        assert len(labels) == len(set(labels)) == 48
        orders.append(labels)
    assert orders[0] != orders[1] != orders[2] != orders[0]


@pytest.mark.parametrize("files", [False, True])
def test_the_global_generators_are_neither_read_nor_moved(files: bool, tmp_path: Path) -> None:
    data: Any = filed(numbered(53), tmp_path) if files else numbered(53)
    torch.manual_seed(0)
    np.random.seed(0)
    state = torch.get_rng_state()
    one = epoch(training(data, workers=1))
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(1)
    assert all(torch.equal(a[0], b[0]) for a, b in zip(one, epoch(training(data, workers=1)), strict=True))


@pytest.mark.parametrize("batch_size", [1, 7, 8, 53, 100])
def test_evaluation_sees_every_image_once_in_order_and_as_the_engine_does(batch_size: int) -> None:
    data = numbered(53)
    loader = Loader(data, batch_size)
    found = epoch(loader)
    assert len(found) == loader.steps
    assert torch.cat([labels for _, labels in found]).tolist() == list(range(53))
    assert torch.equal(torch.cat([x for x, _ in found]), torch.from_numpy(COLOUR.normalize(data.images)))


def test_the_frame_of_the_crop_is_the_mean_colour() -> None:
    data = ImageSet(np.full((40, 6, 6, 3), 255, np.uint8), np.zeros(40, np.int64), ("white",), COLOUR)
    x, _ = next(Loader(data, 40, shuffle=True, padding=2).epoch())
    assert set(x[:, 0].unique().tolist()) == {0.0, x[:, 0].max().item()}


def test_a_set_smaller_than_the_batch_is_one_batch() -> None:
    loader = Loader(numbered(5), 64, shuffle=True)
    assert [len(labels) for _, labels in loader.epoch()] == [5]
    assert loader.steps == 1


# Sets that do not fit into memory


def test_folders_beyond_the_memory_are_read_when_they_are_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    for half, count in (("train", 5), ("test", 2)):
        for name in ("cat", "dog"):
            (tmp_path / half / name).mkdir(parents=True)
            (tmp_path / half / name / "notes.txt").write_text("no image")
            for i in range(count):
                Image.fromarray(rng.integers(0, 256, (9, 7, 3), np.uint8)).save(tmp_path / half / name / f"{i}.png")
    inside = open_data("folders", tmp_path, 8)
    monkeypatch.setattr(folders, "MEMORY", 10 * 8 * 8 * 3)
    outside = open_data("folders", tmp_path, 8)
    assert isinstance(inside.train, ImageSet)
    assert isinstance(outside.train, FileSet)
    assert isinstance(outside.test, ImageSet), "the smaller half fits"
    assert outside.classes == inside.classes == ("cat", "dog")
    assert len(outside.train.skipped) == len(inside.train.skipped) == 2
    for a, b in zip(read_batch(inside.train, range(10)), read_batch(outside.train, range(10)), strict=True):
        assert np.array_equal(a, b)
    before = outside.train.digest()
    assert open_data("folders", tmp_path, 8).train.digest() == before
    content = bytearray(outside.train.paths[4].read_bytes())
    content[-20] ^= 1
    outside.train.paths[4].write_bytes(content)  # of the same size, as all pictures are that are not compressed
    assert outside.train.digest() != before
    content[-20] ^= 1
    outside.train.paths[4].write_bytes(content)
    Image.fromarray(rng.integers(0, 256, (30, 30, 3), np.uint8)).save(tmp_path / "train" / "cat" / "3.png")
    assert open_data("folders", tmp_path, 8).train.digest() != before
