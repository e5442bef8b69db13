"""A training over a set with damaged files: it goes on, tells them, and is a function of the seed all the same."""

from __future__ import annotations

import csv
import logging
from pathlib import Path

import pytest
import torch
from support.imagenet import CLASSES, write_imagenet
from support.trainings import bits

from bbg.data import open_recipe
from bbg.errors import BbgError
from bbg.recipe import Recipe
from bbg.training.checkpoint import Checkpoint
from bbg.training.loop import train

torch.set_num_threads(1)

RECIPE = Recipe("imagenet", "resnet8", width=4, size=16, epochs=2, batch_size=8, crop_scale=0.5)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = write_imagenet(tmp_path / "set")
    for name in ("train", "val"):
        path = root / name / CLASSES[1] / f"{CLASSES[1]}_0001.JPEG"
        path.write_bytes(path.read_bytes()[:400])
    return root


def trained(root: Path, out: Path, recipe: Recipe = RECIPE) -> Checkpoint:
    return train(recipe, open_recipe(recipe, root), out, device="cpu", progress=False)


def test_a_damaged_file_is_told_once_and_ends_no_training(
    root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "bbg"):
        first = trained(root, tmp_path / "run")
    told = [record.getMessage() for record in caplog.records if "could not be read" in record.getMessage()]
    assert len(told) == 2, "once for each half, not in each epoch"
    assert all(f"{CLASSES[1]}_0001.JPEG: is missing, damaged or no image" in line for line in told)
    with (tmp_path / "run" / "skipped.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["half"], Path(row["file"]).parts[-3]) for row in rows] == [("training", "train"), ("test", "val")]
    assert bits(first.model) == bits(trained(root, tmp_path / "again").model)
    with pytest.raises(BbgError, match="damaged"):
        trained(root, tmp_path / "strict", RECIPE.changed({"strict": True}))
