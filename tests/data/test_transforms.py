"""Each training picture by itself: what is drawn for it depends on nothing but seed, epoch and its number."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from bbg.data import FileSet, ImageSet
from bbg.data.augment import PICTURE, draw, mix, permutation, shares
from bbg.data.loader import Loader
from bbg.data.transforms import Pictures
from bbg.errors import BbgError
from bbg.image import Preprocess

torch.set_num_threads(1)

v2 = pytest.importorskip("torchvision.transforms.v2")

COLOUR = Preprocess((8, 12), 14, mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3))
GREY = Preprocess((8, 12), 14, "L", (0.4,), (0.2,))
EVERYTHING = Pictures(scale=0.3, operations=2, magnitude=12, colour=0.4)
CLASSES = ("a", "b", "c")


def photographs(folder: Path, count: int, preprocess: Preprocess = COLOUR) -> FileSet:
    """Pictures of many sizes, as files."""
    draws = np.random.default_rng(0)
    paths = [folder / f"{i}.png" for i in range(count)]
    for path in paths:
        coarse = draws.integers(0, 256, (4, 5, 3), dtype=np.uint8)
        size = tuple(draws.integers(16, 40, 2).tolist())
        Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(path)
    return FileSet(paths, np.arange(count) % 3, CLASSES, preprocess)


def in_memory(files: FileSet) -> ImageSet:
    return ImageSet(
        np.stack([files.read(i)[0] for i in range(len(files))]), files.labels, files.classes, files.preprocess
    )


def by_sample(loader: Loader, epoch: int) -> dict[int, bytes]:
    """Pixels and target of each image of an epoch, by its number."""
    order = permutation(loader.seed, epoch, len(loader.data))
    images, targets = (torch.cat(list(part)) for part in zip(*loader.epoch(epoch), strict=True))
    return {
        int(index): image.contiguous().numpy().tobytes() + target.numpy().tobytes()
        for index, image, target in zip(order, images, targets, strict=False)
    }


AUGMENTATIONS: dict[str, dict[str, Any]] = {
    "crops": {"pictures": Pictures(scale=0.3), "flip": True},
    "colours": {"pictures": Pictures(colour=0.4)},
    "RandAugment": {"pictures": Pictures(operations=2), "padding": 1},
    "Mixup": {"mixup": 0.4},
    "everything": {"pictures": EVERYTHING, "padding": 2, "flip": True, "mixup": 0.2},
}


@pytest.mark.parametrize(
    ("case", "memory", "preprocess"),
    [(case, memory, COLOUR) for case in AUGMENTATIONS for memory in (False, True)] + [("everything", False, GREY)],
)
def test_a_sample_is_the_same_for_any_batch_size_and_number_of_workers(
    case: str, memory: bool, preprocess: Preprocess, tmp_path: Path
) -> None:
    files = photographs(tmp_path, 40, preprocess)
    data = in_memory(files) if memory else files

    def loader(batch: int, workers: int, seed: int = 3) -> Loader:
        return Loader(data, batch, shuffle=True, seed=seed, workers=workers, **AUGMENTATIONS[case])

    expected = by_sample(loader(40, 0), 1)
    assert len(set(expected.values())) == 40
    for batch, workers in ((7, 0), (8, 2)):
        found = by_sample(loader(batch, workers), 1)
        assert len(found) == 40 // batch * batch
        assert found.items() <= expected.items()
    for other in (by_sample(loader(40, 0), 2), by_sample(loader(40, 0, seed=4), 1)):
        assert len(expected.items() & other.items()) < 10  # RandAugment leaves some pictures as they are
    whole = [x for x, _ in loader(7, 0).epoch(1)]
    for start in (0, 2, 4):  # resumed at any step
        rest = [x for x, _ in loader(7, 0).epoch(1, start)]
        assert all(torch.equal(a, b) for a, b in zip(rest, whole[start:], strict=True))


def test_the_callers_generators_are_neither_read_nor_moved(tmp_path: Path) -> None:
    data = photographs(tmp_path, 4)
    results = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        results.append(EVERYTHING.read(data, 2, 5, 6))
        assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(*results)


def test_a_crop_is_torchvisions_out_of_the_whole_picture(tmp_path: Path) -> None:
    data, crop = photographs(tmp_path, 20), v2.RandomResizedCrop(COLOUR.size, (0.3, 1.0))
    for index in range(20):
        picture = Image.open(data.paths[index])
        torch.manual_seed(int(draw(0, 0, np.array([index]), PICTURE)[0] >> np.uint64(1)))
        box = crop.make_params([picture])
        top, left, height, width = (box[k] for k in ("top", "left", "height", "width"))
        assert 0.25 < height * width / (picture.width * picture.height) <= 1
        part = picture.crop((left, top, left + width, top + height))
        expected = np.asarray(part.resize(COLOUR.size[::-1], Image.Resampling.BILINEAR))
        assert np.array_equal(Pictures(scale=0.3).read(data, index, 0, 0), expected)


def test_nothing_asked_for_is_the_pixels_of_evaluation(tmp_path: Path) -> None:
    data = photographs(tmp_path, 5)
    assert not Pictures()
    for index in range(5):
        assert np.array_equal(Pictures().read(data, index, 0, 0), COLOUR.apply(data.paths[index]))


def test_mixup_is_a_mixture_of_an_image_and_the_next(tmp_path: Path) -> None:
    data = in_memory(photographs(tmp_path, 30))
    plain = Loader(data, 30, shuffle=True, seed=7)
    mixed = Loader(data, 30, shuffle=True, seed=7, mixup=0.5)
    (x, y), (m, shares_of_classes) = next(plain.epoch(2)), next(mixed.epoch(2))
    order = permutation(7, 2, 30)
    share = shares(7, 2, order, 0.5).numpy()
    assert ((share >= 0) & (share <= 1)).all()
    assert share.std() > 0.2
    for i in range(30):
        j = (i + 1) % 30
        expected = share[i] * x[i].numpy() + (1 - share[i]) * x[j].numpy()
        assert np.abs(m[i].numpy() - expected).max() < 1e-5
        target = share[i] * np.eye(3)[y[i]] + (1 - share[i]) * np.eye(3)[y[j]]
        assert np.abs(shares_of_classes[i].numpy() - target).max() < 1e-6
    assert shares_of_classes.dtype == torch.float32


def test_shares_are_drawn_from_beta() -> None:
    for alpha in (0.2, 1.0, 4.0):
        drawn = shares(0, 0, np.arange(4000), alpha).numpy()
        assert abs(drawn.mean() - 0.5) < 0.03
        assert abs(drawn.var() - 1 / (4 * (2 * alpha + 1))) < 0.01


def test_mix_keeps_the_sum_of_the_shares() -> None:
    x, y = mix(torch.rand(4, 1, 2, 2), torch.tensor([0, 2, 1, 1]), torch.tensor([0.25, 1.0, 0.5]), 3)
    assert x.shape == (3, 1, 2, 2)
    assert y.tolist() == [[0.25, 0, 0.75], [0, 0, 1], [0, 1, 0]]


def test_evaluation_is_never_augmented(tmp_path: Path) -> None:
    data = photographs(tmp_path, 6)
    loader = Loader(data, 4, pictures=EVERYTHING, mixup=0.3, workers=0)
    found = torch.cat([x for x, _ in loader.epoch()])
    expected = COLOUR.normalize(np.stack([COLOUR.apply(path) for path in data.paths]))
    assert torch.equal(found, torch.from_numpy(expected))


def test_mixup_of_what_is_no_class_is_refused() -> None:
    boxes = ImageSet(np.zeros((4, 8, 8, 3), np.uint8), np.zeros((4, 5)), CLASSES, COLOUR)
    with pytest.raises(BbgError, match="'mixup' mixes classes; leave it out"):
        Loader(boxes, 2, shuffle=True, mixup=0.2)
