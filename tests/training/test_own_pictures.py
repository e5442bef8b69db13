"""From a folder of photographs to a packed file: grey, not square, cropped, coloured, mixed and decoded at a scale."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.commands import run
from support.trainings import Stop, after, bits, stop

import bbg
from bbg.data import FileSet, open_data, open_recipe
from bbg.errors import BbgError
from bbg.image import Preprocess
from bbg.recipe import Recipe
from bbg.training.checkpoint import Checkpoint
from bbg.training.loop import LAST, train, training_loader

torch.set_num_threads(1)

RECIPE = Recipe(
    dataset="folders",
    network="resnet8",
    width=4,
    size="24x32",
    resize=36,
    mode="L",
    decode="scaled",
    crop="resized",
    colour=0.3,
    randaugment=1,
    mixup=0.3,
    epochs=2,
    batch_size=8,
    checkpoint_steps=2,
)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes, bright above and bright below; some so large that they are decoded at a scale."""
    root, draws = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for half, count in (("train", 16), ("test", 9)):
        for name, turn in (("above", False), ("below", True)):
            (root / half / name).mkdir(parents=True)
            for i in range(count):
                pixels = draws.integers(0, 120, (6, 7, 3), dtype=np.uint8)
                pixels[:3] += 130
                image = Image.fromarray(pixels[::-1] if turn else pixels)
                size = (300 + 17 * i, 280) if i % 2 else (70 + i, 90)
                image.resize(size, Image.Resampling.BICUBIC).save(root / half / name / f"{i}.jpg")
    (root / "train" / "above" / "broken.jpg").write_text("no image")
    return root


@pytest.fixture(scope="module")
def trained(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the undisturbed run, with decoded images kept."""
    out = tmp_path_factory.mktemp("runs") / "run"
    train(RECIPE, open_recipe(RECIPE, photos, out.parent / "cache"), out, progress=False)
    return out


def test_a_run_that_is_broken_off_ends_with_the_same_bits(
    photos: Path, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, out = trained.parent / "cache", trained.parent / "broken"
    with monkeypatch.context() as patch:
        after(6, stop, patch)
        with pytest.raises(Stop):
            train(RECIPE, open_recipe(RECIPE, photos, cache), out, progress=False)
    assert (Checkpoint.load(out / LAST).epoch, Checkpoint.load(out / LAST).step) != (0, 0)
    other = RECIPE.changed({"decode": "whole"})
    split = open_recipe(other, photos, cache)
    with pytest.raises(BbgError, match="preprocessing has decode None, that of the run scaled; give the same decode"):
        train(other, split, out, resume=True, progress=False)
    train(RECIPE, open_recipe(RECIPE, photos, cache), out, resume=True, progress=False)
    broken, whole = (Checkpoint.load(folder / LAST) for folder in (out, trained))
    assert bits(broken.model) == bits(whole.model)


def test_the_checkpoint_and_the_packed_file_name_the_pixels(photos: Path, trained: Path) -> None:
    state = Checkpoint.load(trained / LAST)
    assert (state.preprocess.size, state.preprocess.resize) == ((24, 32), 36)
    assert (state.preprocess.mode, state.preprocess.decode) == ("L", "scaled")
    assert "broken.jpg" in (trained / "skipped.csv").read_text()


def test_eval_of_both_files_and_predict_agree(photos: Path, trained: Path, tmp_path: Path) -> None:
    ckpt, packed, scores = trained / LAST, tmp_path / "net.bbg", tmp_path / "s.json"
    assert run("convert", ckpt, "--data", photos, "-o", packed, "--edges", "fp32") == 0
    accuracies = []
    for model in (ckpt, packed):
        assert run("eval", model, "--data", photos, "--json", scores) == 0
        accuracies.append(json.loads(scores.read_text())["accuracy"])
    engine = bbg.load(packed, threads=1)
    assert engine.preprocess == Checkpoint.load(ckpt).preprocess
    files = sorted((photos / "test").rglob("*.jpg"))
    predicted = np.mean([engine.predict(file, top=1)[0].label == file.parent.name for file in files])
    assert accuracies == pytest.approx([predicted, predicted], abs=1e-6)
    split = open_data("folders", photos, preprocess=engine.preprocess)
    for i, file in enumerate(files):  # the same pixels, and not those of whole decoding
        assert np.array_equal(split.test.read(i)[0], engine.preprocess.apply(file))
    whole = Preprocess(**{**vars(engine.preprocess), "decode": "whole"})
    assert any((whole.apply(file) != engine.preprocess.apply(file)).any() for file in files)


def test_training_sees_random_parts_of_whole_pictures(photos: Path) -> None:
    split = open_recipe(RECIPE, photos)
    assert isinstance(split.train, FileSet)
    assert [Path(one.path).name for one in split.train.skipped] == ["broken.jpg"]
    loader = training_loader(split, RECIPE)
    assert loader.pictures is not None
    pixels = [loader.pictures.read(split.train, i, 0, 0) for i in range(4)]
    assert {x.shape for x in pixels} == {(24, 32, 1)}


def test_recipes_without_the_new_keys_train_as_before() -> None:
    """Images of CIFAR's size are cropped out of a frame, in memory, and targets are classes."""
    split = open_data("digits", None)
    loader = training_loader(split, Recipe(dataset="digits", network="resnet8"))
    assert (loader.pictures, loader.mixup, loader.padding, loader.flip) == (None, 0.0, 4, True)
    assert loader.arrays is not None
    _, targets = next(loader.epoch())
    assert targets.dtype == torch.int64
