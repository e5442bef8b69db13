"""The task segmentation: loss and figures by a plain loop over pixels, and a whole way from folder to mask."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from support.commands import refused, run
from support.masks import CLASSES, Coarse, small_unet, write_scenes

import bbg
from bbg.data import ImageSet, Split, open_data
from bbg.data.loader import Loader
from bbg.errors import BbgError
from bbg.graph.file import read
from bbg.heads import Segmentation as Head
from bbg.image import Preprocess
from bbg.recipe import Recipe
from bbg.training.images import check_images
from bbg.training.tasks import make_task
from bbg.training.tasks.segmentation import Segmentation

torch.set_num_threads(1)

RECIPE = Recipe(dataset="masks", task="segmentation", size=24, epochs=2, batch_size=6, lr=0.01)


def masks(count: int = 5, side: int = 12) -> np.ndarray:
    found = np.random.default_rng(0).integers(0, 4, (count, side, side)).astype(np.uint8)
    found[found == 3] = 255
    return found


@pytest.mark.parametrize("side", [12, 3])
def test_the_loss_is_the_mean_over_the_pixels_that_count(side: int) -> None:
    task = Segmentation(RECIPE.changed({"label_smoothing": 0.1}), 3)
    logits = torch.randn(5, 3, side, side, generator=torch.Generator().manual_seed(0), requires_grad=True)
    targets = torch.from_numpy(masks())
    maps = F.interpolate(logits, (12, 12), mode="bilinear")
    wanted = F.cross_entropy(maps, targets.long(), ignore_index=255, label_smoothing=0.1)
    loss = task.loss(logits, targets, torch.zeros(5, 3, 12, 12))
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-5)
    counts = targets != 255
    right = (maps.argmax(1) == targets)[counts].float().mean()
    assert task.metrics(logits, targets)["pixel_accuracy"].item() == pytest.approx(right.item(), rel=1e-6)


def test_a_batch_without_a_pixel_that_counts_has_no_loss() -> None:
    task, logits = Segmentation(RECIPE, 3), torch.randn(2, 3, 4, 4, requires_grad=True)
    loss = task.loss(logits, torch.full((2, 4, 4), 255, dtype=torch.uint8), torch.zeros(2, 3, 4, 4))
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert not logits.grad.any()


def test_a_teacher_is_followed_at_each_pixel() -> None:
    teacher = Coarse(3)
    task = Segmentation(RECIPE.changed({"distill": 1.0, "temperature": 2.0}), 3, teacher)
    x, targets = torch.randn(2, 3, 12, 12), torch.from_numpy(masks(2))
    with torch.no_grad():
        taught = teacher.eval()(x)
    assert task.loss(taught, targets, x).item() == pytest.approx(0, abs=1e-6)
    assert task.loss(taught + torch.randn_like(taught), targets, x).item() > 0.01


def test_figures_are_those_of_a_loop_over_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bbg.training.tasks.segmentation.PIXELS", 300)  # two images at a time
    truth = masks()
    images = np.random.default_rng(1).integers(0, 256, (5, 12, 12, 3), dtype=np.uint8)
    data = ImageSet(images, truth, CLASSES, Preprocess(12))
    torch.manual_seed(0)
    network = Coarse(3)
    found = Segmentation(RECIPE, 3).evaluate(network, Loader(data, 4))
    with torch.no_grad():
        logits = network(torch.from_numpy(data.preprocess.normalize(images)))
    answers = Head().decide(logits.numpy(), (12, 12))
    counts = truth != 255
    ious = []
    for c in range(3):
        either = counts & ((truth == c) | (answers == c))
        if either.any():
            ious.append((counts & (truth == c) & (answers == c)).sum() / either.sum())
    assert found["miou"] == pytest.approx(np.mean(ious), abs=1e-12)
    assert found["pixel_accuracy"] == pytest.approx((answers == truth)[counts].mean(), abs=1e-12)


def test_what_returns_no_maps_is_refused() -> None:
    task, targets = Segmentation(RECIPE, 3), torch.from_numpy(masks(2))
    for outputs, came in (
        (torch.zeros(2, 3), r"\[2, 3\]"),
        (torch.zeros(2, 4, 3, 3), r"\[2, 4, 3, 3\]"),
        ({}, "dict"),
    ):
        with pytest.raises(BbgError, match=rf"the network returns {came}; a segmentation takes \[N, 3, H, W\]"):
            task.loss(outputs, targets, torch.zeros(2, 3, 12, 12))
    with pytest.raises(BbgError, match="a map for each class: return the maps alone"):
        task.loss({"out": torch.zeros(2, 3, 12, 12)}, targets, torch.zeros(2, 3, 12, 12))
    with pytest.raises(
        BbgError, match="give it 2 maps: in the place of a sigmoid of one map give the background a map"
    ):
        Segmentation(RECIPE, 2).loss(torch.zeros(2, 1, 12, 12), targets, torch.zeros(2, 3, 12, 12))


def test_images_and_task_go_together() -> None:
    classes = ImageSet(np.zeros((4, 8, 8, 3), np.uint8), np.arange(4) % 2, ("a", "b"), Preprocess(8))
    with pytest.raises(BbgError, match="takes images with masks"):
        bbg.fit(Coarse(2), RECIPE, Split(classes, classes))
    pairs = ImageSet(np.zeros((5, 12, 12, 3), np.uint8), masks(), CLASSES, Preprocess(12))
    with pytest.raises(BbgError, match='give the recipe the key task = "segmentation"'):
        bbg.fit(Coarse(3), RECIPE.changed({"task": "classification"}), Split(pairs, pairs))
    high = ImageSet(pairs.images, np.full_like(pairs.labels, 3), CLASSES, Preprocess(12))
    with pytest.raises(BbgError, match="masks of the test images have the number 3; 3 classes have 0 to 2"):
        check_images(Split(pairs, high))
    small = ImageSet(pairs.images, masks(side=24), CLASSES, Preprocess(12))
    with pytest.raises(BbgError, match="masks of the training images are 24 x 24, the images 12 x 12; give both"):
        check_images(Split(small, pairs))
    none = ImageSet(pairs.images, np.full_like(pairs.labels, 255), CLASSES, Preprocess(12))
    with pytest.raises(BbgError, match="all pixels of the training masks are 255"):
        check_images(Split(none, pairs))
    check_images(Split(pairs, none))


@pytest.mark.parametrize("count", [1, 300])
def test_what_no_mask_can_tell_apart_is_not_trained(count: int) -> None:
    """It would be refused when it is packed, behind the whole training."""
    zeros = np.zeros((4, 12, 12), np.uint8)
    images = ImageSet(np.zeros((4, 12, 12, 3), np.uint8), zeros, tuple(map(str, range(count))), Preprocess(12))
    with pytest.raises(BbgError, match=rf"the masks are of {count} classes; allowed are 2 to 255"):
        bbg.fit(Coarse(count), RECIPE, Split(images, images))


def test_a_training_that_keeps_the_best_resumes(tmp_path: Path) -> None:
    split = open_data("masks", write_scenes(tmp_path / "scenes", 12, 4), 24)
    recipe = RECIPE.changed({"keep_best": True, "evaluation": "packed"})
    torch.manual_seed(0)
    state = bbg.fit(small_unet(3), recipe, split, out=tmp_path / "run", progress=False)
    assert {"test_miou", "test_pixel_accuracy", "held_out_miou", "pixel_accuracy"} <= set(state.history[-1])
    assert (tmp_path / "run/best.ckpt").exists()
    more = recipe.changed({"epochs": 3})
    assert bbg.fit(small_unet(3), more, split, out=tmp_path / "run", resume=True, progress=False).epoch == 3
    assert isinstance(make_task(recipe, 3), Segmentation)


def test_the_whole_way_on_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    write_scenes(Path("scenes"), 12, 4)
    Path("r.toml").write_text(
        'dataset = "masks"\ntask = "segmentation"\nfactory = "support.masks:small_unet"\nsize = 24\nepochs = 2\n'
        "batch_size = 6\nlr = 0.01\n"
    )
    own = ("--data", "scenes", "--factory", "support.masks:small_unet")
    assert run("train", "r.toml", "--data", "scenes", "--out", "run", "--json", "train.json") == 0
    assert run("eval", "run/last.ckpt", *own, "--json", "torch.json") == 0
    assert run("convert", "run/last.ckpt", *own, "-o", "net.bbg", "--edges", "fp32", "--json", "convert.json") == 0
    words = ("--out", "drawn", "--csv", "eval.csv", "--json", "engine.json")
    assert run("eval", "net.bbg", "--data", "scenes", *words) == 0
    trained, of_torch, converted, of_engine = (
        json.loads(Path(f"{name}.json").read_text()) for name in ("train", "torch", "convert", "engine")
    )
    assert of_torch["miou"] == pytest.approx(trained["test_miou"], abs=1e-3)
    assert converted["miou_torch"] == of_torch["miou"]
    assert converted["miou_engine"] == of_engine["miou"] == read("net.bbg").provenance["miou"]
    assert converted["changed_pixels"] < 0.01
    assert [row["class"] for row in of_engine["per_class"]] == list(CLASSES)
    assert sorted(path.name for path in Path("drawn").iterdir()) == ["confusion.png", "worst.csv", "worst.png"]
    with open("eval.csv") as file:
        assert len(list(csv.DictReader(file))) == 4
    assert run("predict", "scenes/test/images", "--model", "net.bbg", "--out", "masks") == 0
    assert len(list(Path("masks").iterdir())) == 8
    assert Image.open("masks/1000.png").size == (48, 40)

    words = ("eval", "net.bbg", "--data", "scenes", "--dataset", "folders")
    refused(tmp_path, capsys, "on images with masks, not the data set 'folders'; leave --dataset out", *words)
    words = ("eval", "run/last.ckpt", *own, "--dataset", "cifar10")
    refused(tmp_path, capsys, "not the data set 'cifar10'", *words)
    for half in ("train", "test"):
        for mask in Path("scenes", half, "masks").iterdir():
            Image.new("L", (48, 40), 255).save(mask)
    assert run("convert", "run/last.ckpt", *own, "-o", "none.bbg", "--json", "none.json") == 0
    assert json.loads(Path("none.json").read_text())["miou_engine"] is None
    assert "miou" not in read("none.bbg").provenance

    Path("scenes/classes.txt").write_text("ground\ndisc\nring\n")
    refused(tmp_path, capsys, "the masks have ground, disc, ring", "eval", "net.bbg", "--data", "scenes")
    words = ("train", "r.toml", "--data", "scenes", "--set", "task=classification")
    refused(tmp_path, capsys, "the images of 'masks' are for 'segmentation'", *words)
    words = ("train", "digits_resnet8", "--set", "task=segmentation")
    refused(tmp_path, capsys, "the images of 'digits' are for 'classification'", *words)


def test_a_plan_is_not_made_of_masks() -> None:
    pairs = ImageSet(np.zeros((5, 12, 12, 3), np.uint8), masks(), CLASSES, Preprocess(12))
    with pytest.raises(BbgError, match="judged by classes of images, these have masks"):
        bbg.plan(Coarse(3), Split(pairs, pairs), "1MB")
