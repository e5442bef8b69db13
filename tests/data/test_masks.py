"""Images with masks: pairs by name, what is refused by the name of its file, and both cropped and mirrored alike."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.masks import CLASSES, scene, write_scenes

from bbg.data import ImageSet, Split, found, open_data, open_labelled, open_masked, read_batch
from bbg.data import masks as sets
from bbg.data.augment import permutation
from bbg.data.loader import Loader
from bbg.data.pairs import PairSet
from bbg.data.sets import Wanted, brought, has_masks, part
from bbg.data.transforms import Pictures
from bbg.errors import BbgError
from bbg.image import Preprocess, load_mask

torch.set_num_threads(1)

SIZE = (24, 32)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scenes(tmp_path_factory.mktemp("scenes"), 10, 4)


@pytest.fixture(scope="module")
def split(scenes: Path) -> Split:
    return open_data("masks", scenes, SIZE)


def of_files(scenes: Path, pictures: bool | None = True) -> PairSet:
    train = sets.masks(scenes, Wanted(SIZE, resize=34, pictures=pictures)).train
    assert isinstance(train, PairSet)
    return train


def test_pairs_are_read_by_name(split: Split) -> None:
    assert (len(split.train), len(split.test), split.classes) == (10, 4, CLASSES)
    assert isinstance(split.train, ImageSet)
    assert split.train.labels.dtype == np.uint8
    assert split.preprocess.resize is None
    order = sorted(range(10), key=str)
    for index, seed in enumerate(order):
        _, mask = scene(seed)
        assert np.array_equal(split.train.read(index)[1], split.preprocess.mask(mask))
    assert set(np.unique(split.train.labels)) == {0, 1, 2, 255}
    assert "3 classes of pixels:" in found(split)


def test_a_set_that_is_not_in_memory_is_the_same(scenes: Path, split: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sets, "MEMORY", 1000)
    files = open_data("masks", scenes, SIZE).train
    assert isinstance(files, PairSet)
    assert has_masks(files)
    for ours, theirs in zip(read_batch(files, range(10)), read_batch(split.train, range(10)), strict=True):
        assert np.array_equal(ours, theirs)
    assert np.array_equal(files.labels[3], split.train.labels[3])
    some = np.array([7, 2])
    assert np.array_equal(part(files, some).read(0)[1], part(split.train, some).read(0)[1])
    grey = Preprocess(8, mode="L", mean=(0.5,), std=(0.2,))
    assert brought(files, grey).read(0)[0].shape == (8, 8, 1)
    in_memory = brought(split.train, grey)
    assert np.asarray(in_memory.labels).shape == (10, 8, 8)
    assert files.digest() == open_data("masks", scenes, SIZE).train.digest() != part(files, some).digest()


def test_without_halves_a_fifth_is_for_testing(tmp_path: Path) -> None:
    write_scenes(tmp_path, 20, 1)
    for name in ("images", "masks"):
        (tmp_path / "train" / name).rename(tmp_path / name)
    for half in ("test", "train"):
        (tmp_path / half).rename(tmp_path / f"old-{half}")
    split = open_data("masks", tmp_path, SIZE)
    assert len(split.train) + len(split.test) == 20
    assert 1 <= len(split.test) <= 8
    tested = open_masked(tmp_path, split.preprocess)
    assert len(tested) == len(split.test)
    assert np.array_equal(tested.mask(0), split.test.read(0)[1])
    assert len(open_masked(tmp_path, split.preprocess, "all")) == 20


def test_what_has_no_other_half_is_skipped(tmp_path: Path) -> None:
    write_scenes(tmp_path, 4, 2)
    (tmp_path / "train/masks/0.png").unlink()
    (tmp_path / "train/images/1.jpg").write_bytes(b"no image")
    Image.new("L", (4, 4)).save(tmp_path / "train/masks/9.png")
    split = open_data("masks", tmp_path, SIZE)
    reasons = {Path(one.path).name: one.reason for one in split.train.skipped}
    assert reasons["0.jpg"] == "has no mask"
    assert reasons["9.png"] == "has no image"
    assert "no image" in reasons["1.jpg"]
    assert len(split.train) == 2


def damage(mask: Path, how: str) -> None:
    picture, classes = scene(0)
    if how == "size":
        Image.fromarray(classes[1:]).save(mask)
    elif how == "colour":
        Image.fromarray(picture).save(mask)
    elif how == "class":
        Image.fromarray(np.where(classes == 1, 3, classes)).save(mask)
    elif how == "deep":
        Image.fromarray(classes.astype(np.uint16)).save(mask)
    elif how == "jpeg":
        Image.fromarray(classes).save(mask, "jpeg")
    else:
        mask.write_bytes(mask.read_bytes()[: mask.stat().st_size // 2])


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("size", r"is 39 x 48 pixels, its image .*0\.jpg' 40 x 48; give them one size"),
        ("colour", "is a picture of mode RGB, not of one number for each pixel"),
        ("class", "has the number 3; allowed are 0 to 2, one for each of the 3 classes, and 255"),
        ("deep", "is a picture of mode I;16"),
        ("jpeg", "is a JPEG, which does not keep the numbers of classes"),
        ("damaged", "is missing, damaged or no image"),
    ],
)
def test_a_bad_mask_is_refused_by_its_name(
    how: str, words: str, in_memory: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_scenes(tmp_path, 2, 1)
    damage(tmp_path / "train/masks/0.png", how)
    if not in_memory:
        monkeypatch.setattr(sets, "MEMORY", 0)
    with pytest.raises(BbgError, match=rf"train/masks/0\.png: {words}"):
        open_data("masks", tmp_path, SIZE).train.read(0)
    listed = open_masked(tmp_path, Preprocess(SIZE), "train")
    with pytest.raises(BbgError, match=rf"train/masks/0\.png: {words}"):
        listed.mask(0)


def test_folders_that_are_no_set(tmp_path: Path) -> None:
    with pytest.raises(BbgError, match=r"cannot read .*classes\.txt' .*it names the classes of the masks"):
        open_data("masks", tmp_path)
    (tmp_path / "classes.txt").write_text("a\na\n")
    with pytest.raises(BbgError, match="has a name twice; allowed are 2 to 255 different names"):
        open_data("masks", tmp_path)
    (tmp_path / "classes.txt").write_text("a\nb\n")
    with pytest.raises(BbgError, match=r"no folder .*images'; a set of masks has train/images"):
        open_data("masks", tmp_path)
    for name in ("images", "masks"):
        (tmp_path / "train" / name).mkdir(parents=True)
    with pytest.raises(BbgError, match=r"no image in .* has a mask of its name"):
        open_data("masks", tmp_path)
    with pytest.raises(BbgError, match="they are for the task 'segmentation'"):
        open_labelled("masks", tmp_path, Preprocess(8))
    with pytest.raises(BbgError, match="part is 'some'"):
        open_masked(tmp_path, Preprocess(8), "some")


def test_one_pair_is_not_split(tmp_path: Path) -> None:
    write_scenes(tmp_path / "whole", 1, 1)
    (tmp_path / "whole/train").rename(tmp_path / "one")
    (tmp_path / "one/classes.txt").write_text("ground\ndisc\nsquare\n")
    with pytest.raises(BbgError, match="of one pair of an image and a mask none is left for"):
        open_data("masks", tmp_path / "one")


def test_what_is_not_done_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_scenes(tmp_path / "scenes", 2, 1)
    (tmp_path / "scenes/classes.txt").write_text("".join(f"{i}\n" for i in range(255)))
    open_data("masks", tmp_path / "scenes", SIZE, cache=tmp_path / "cache")
    assert "images with masks are not kept in a cache: leave --cache out" in caplog.text
    assert "no training mask has the class '3', '4', '5', '6', '7', '8', '9', '10' and 244 more: it" in caplog.text
    assert not (tmp_path / "cache").exists()


def test_two_masks_of_one_image_are_refused(tmp_path: Path) -> None:
    write_scenes(tmp_path, 2, 1)
    Image.new("L", (48, 40)).save(tmp_path / "train/masks/1.bmp")
    with pytest.raises(BbgError, match=r"1\.bmp' and .*1\.png' are masks of one image"):
        open_data("masks", tmp_path)


@pytest.mark.parametrize("mode", ["P", "L", "1"])
@pytest.mark.parametrize("bits", [8, 4, 2, 1])
def test_numbers_come_from_masks_of_any_depth(mode: str, bits: int, tmp_path: Path) -> None:
    numbers = (np.arange(48).reshape(6, 8) % (2 if mode == "1" else 2**bits)).astype(np.uint8)
    if mode == "1":
        stored = Image.fromarray(numbers.astype(bool))
    else:
        stored = Image.fromarray(numbers)
        if mode == "P":
            stored.putpalette(bytes(range(256)) * 3)
    options = {"bits": bits} if mode == "P" else {}
    stored.save(tmp_path / "mask.png", **options)
    assert np.array_equal(load_mask(tmp_path / "mask.png"), numbers)
    assert np.array_equal(load_mask((tmp_path / "mask.png").read_bytes()), numbers)


def colour_of(mask: torch.Tensor) -> torch.Tensor:
    """An image from which its mask can be told, `[N, 3, H, W]` in 0 to 1."""
    return torch.stack([mask == 1, mask == 2, mask == 0], 1).float()


def painted() -> ImageSet:
    masks = np.stack([np.where(scene(i)[1] == 255, 0, scene(i)[1]) for i in range(6)])
    images = (colour_of(torch.from_numpy(masks)) * 255).byte().permute(0, 2, 3, 1).numpy()
    return ImageSet(images, masks, CLASSES, Preprocess((40, 48), mean=(0, 0, 0), std=(1, 1, 1)))


@pytest.mark.parametrize("flip", [True, False])
@pytest.mark.parametrize("padding", [0, 5])
def test_masks_are_cropped_and_mirrored_with_their_images(padding: int, flip: bool) -> None:
    data = painted()
    loader = Loader(data, 3, shuffle=True, padding=padding, flip=flip)
    changed = frames = 0
    order = permutation(0, 0, 6)
    for number, (images, masks) in enumerate(loader.epoch()):
        seen = masks != 255
        assert torch.equal(colour_of(masks) * seen[:, None], images * seen[:, None])
        assert not (images * ~seen[:, None]).any()  # the frame of a crop: no colour, no class
        frames += int((~seen).sum())
        for mask, index in zip(masks, order[3 * number :], strict=False):
            changed += int(not np.array_equal(mask.numpy(), data.labels[index]))
    assert (frames > 0) == (padding > 0)
    assert (changed > 0) == (padding > 0 or flip)


def test_random_crops_take_the_same_part_of_the_mask(scenes: Path) -> None:
    """At a class's colour the mask has its number, but at edges."""
    files = of_files(scenes)
    assert files.whole(0)[0].shape == (40, 48, 3)
    loader = Loader(files, 5, shuffle=True, pictures=Pictures(scale=0.3), workers=0)
    agree, pixels = 0, 0
    mean, std = (torch.tensor(v).reshape(3, 1, 1) for v in (files.preprocess.mean, files.preprocess.std))
    for images, masks in loader.epoch():
        assert masks.shape == (5, *SIZE)
        colours = images * std + mean
        disc = (colours[:, 0] > 0.7) & (colours[:, 2] < 0.35)
        agree, pixels = agree + int((masks[disc] == 1).sum()), pixels + int(disc.sum())
    assert pixels > 50
    assert agree > 0.9 * pixels
    again = Loader(files, 2, shuffle=True, pictures=Pictures(scale=0.3), workers=2)
    ours, theirs = (torch.cat([masks for _, masks in one.epoch()]) for one in (loader, again))
    assert torch.equal(ours, theirs)  # a function of the image alone


def test_what_would_leave_the_mask_behind_is_refused() -> None:
    with pytest.raises(BbgError, match="'randaugment' turns images and not their masks"):
        Loader(painted(), 2, shuffle=True, pictures=Pictures(operations=1))
    with pytest.raises(BbgError, match="'mixup' mixes classes"):
        Loader(painted(), 2, shuffle=True, mixup=0.2)


def test_colours_leave_the_mask_as_it_is() -> None:
    data = replace(painted(), classes=CLASSES)
    loader = Loader(data, 6, shuffle=True, pictures=Pictures(colour=0.4), workers=0)
    ((_, masks),) = loader.epoch()
    assert np.array_equal(masks.numpy(), data.labels[permutation(0, 0, 6)])
