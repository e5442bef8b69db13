"""Laws of a training by several processes: it is that of one, each image is judged once, and who dies returns."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.processes import CASES, PHOTOGRAPHS, RECORDED, paths, random_set, seen_in

from bbg.data import Split, open_recipe
from bbg.data.damage import damage_of
from bbg.data.loader import Loader, Part
from bbg.errors import BbgError
from bbg.training.check import check_parts
from bbg.training.checkpoint import Checkpoint
from bbg.training.folder import LAST
from bbg.training.loop import training_loader
from bbg.training.processes import ALONE, Processes

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the processes of each case have found."""
    out = tmp_path_factory.mktemp("processes")
    command = [sys.executable, "-m", "support.processes", str(out)]
    done = subprocess.run(command, env=paths(), capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert "1" not in done.stdout.replace("[0", "").replace(", 0", ""), done.stdout + done.stderr
    return out


def found(folder: Path, case: str) -> tuple[Any, list[Any]]:
    """What one process alone finds, and each of several."""
    ranks = [torch.load(folder / f"{case}.{rank}.pt", weights_only=True) for rank in range(CASES[case].count)]
    return CASES[case].run(ALONE), ranks


def differences(one: dict[str, Any], other: dict[str, Any]) -> dict[str, float]:
    assert one.keys() == other.keys()
    assert all((one[name] is None) == (other[name] is None) for name in one)
    return {name: float((a.double() - other[name].double()).abs().max()) for name, a in one.items() if a is not None}


def same(ranks: list[Any]) -> bool:
    """Whether all of them have the same bits."""
    return all(max(differences(ranks[0]["state"], rank["state"]).values()) == 0 for rank in ranks)


# A step is that of one process with the same batch.


@pytest.mark.parametrize("case", [c for c in CASES if c.startswith(("eval mode", "synchronised", "segm", "detec"))])
def test_loss_and_gradients_of_a_step_are_those_of_one_process(case: str, folder: Path) -> None:
    alone, ranks = found(folder, case)
    assert same(ranks)
    for rank in ranks:
        assert rank["losses"][0]["loss"] == pytest.approx(alone["losses"][0]["loss"], abs=1e-5)
        if case not in ("segmentation", "detection"):  # whose shares are means of those of the processes
            assert rank["losses"] == [pytest.approx(alone["losses"][0], abs=1e-5)]
        assert max(differences(alone["gradients"], rank["gradients"]).values()) < 1e-5
        assert max(differences(alone["state"], rank["state"]).values()) < 1e-5


def test_twenty_steps_of_a_smooth_network_are_those_of_one_process(folder: Path) -> None:
    """With Mixup, whose partners lie in the parts of others, and with parameters that nothing uses."""
    alone, ranks = found(folder, "smooth")
    assert same(ranks)
    assert ranks[0]["gradients"]["unused.weight"] is None
    assert max(differences(alone["state"], ranks[0]["state"]).values()) < 1e-6
    assert [r["loss"] for r in ranks[1]["losses"]] == pytest.approx([r["loss"] for r in alone["losses"]], abs=1e-6)


def test_local_statistics_become_the_same_everywhere(folder: Path) -> None:
    """Means are those of the whole batch, variances are not; nothing else moves."""
    alone, ranks = found(folder, "local")
    assert same(ranks)
    first = {k: v for k, v in ranks[0]["state"].items() if k == "stem.1.running_mean" or "num_batches" in k}
    assert len(first) > 1
    assert max(differences({k: alone["state"][k] for k in first}, first).values()) < 1e-5


def test_statistics_taken_anew_are_those_of_one_process(folder: Path) -> None:
    alone, ranks = found(folder, "statistics")
    assert same(ranks)
    assert max(differences(alone["state"], ranks[0]["state"]).values()) < 1e-4


# Every image once.


def test_eight_thousand_images_have_eight_thousand_predictions(folder: Path) -> None:
    alone, ranks = found(folder, "evaluation")
    assert all(rank["figures"]["accuracy"] == alone["figures"]["accuracy"] for rank in ranks)
    assert all(rank["figures"]["loss"] == pytest.approx(alone["figures"]["loss"], rel=1e-6) for rank in ranks)
    assert [len(rank["seen"]) for rank in ranks] == [2666, 2667, 2667]
    assert torch.equal(torch.cat([rank["seen"] for rank in ranks]), alone["seen"])


@pytest.mark.parametrize("case", ["segmentation", "detection"])
def test_figures_of_other_tasks_are_those_of_all_images(case: str, folder: Path) -> None:
    alone, ranks = found(folder, case)
    assert all(rank["figures"] == pytest.approx(alone["figures"], abs=1e-4, nan_ok=True) for rank in ranks)


@pytest.mark.parametrize("mixup", [0.0, 0.5])
@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_the_parts_of_a_batch_are_the_batch(count: int, mixup: float) -> None:
    """So a run that was left inside an epoch goes on with any number of processes, and sees each image once."""
    data = random_set(50)
    loaders = [
        Loader(data, 16, shuffle=True, seed=3, padding=1, flip=True, mixup=mixup, part=Part(rank, count))
        for rank in range(count)
    ]
    whole = list(Loader(data, 16, shuffle=True, seed=3, padding=1, flip=True, mixup=mixup).epoch(2))
    before, behind = whole[:1], whole[1:]
    parts = list(zip(*(loader.epoch(2, len(before)) for loader in loaders), strict=True))
    assert all(loader.steps == len(whole) == 3 for loader in loaders)
    for (x, y), step in zip(behind, parts, strict=True):
        assert torch.equal(torch.cat([images for images, _ in step]), x)
        assert torch.equal(torch.cat([targets for _, targets in step]), y)


def test_a_run_of_two_processes_is_ended_by_one_and_resumed_by_one(folder: Path, tmp_path: Path) -> None:
    """The signal ends both behind the same step, and each image of the epoch is trained on once."""
    shutil.copytree(folder / "stopped", tmp_path / "run")
    halves = [torch.load(folder / f"stopped.{rank}.pt", weights_only=True)["seen"] for rank in range(2)]
    assert Checkpoint.load(tmp_path / "run" / LAST).step == 3
    assert [len(half) for half in halves] == [12, 12]
    data = random_set(50)
    rest = seen_in(RECORDED, Split(data, data), tmp_path / "run", ALONE, resume=True)
    assert len(rest) == 24
    images = torch.cat([x.flatten(1) for x, _ in Loader(data, 50).epoch()])
    places = (torch.cat([*halves, rest])[:, None] == images).all(2).nonzero()[:, 1]
    assert len(set(places.tolist())) == 48
    sessions = json.loads((tmp_path / "run" / "run.json").read_text())["sessions"]
    assert [(s["processes"], s["end"]) for s in sessions] == [(2, "stopped"), (1, "finished")]


def test_all_processes_end_where_one_diverges(folder: Path) -> None:
    said = [torch.load(folder / f"diverged.{rank}.pt", weights_only=True)["error"] for rank in range(2)]
    assert said[0] == said[1]
    assert said[0].startswith("the loss is nan in step 7 (epoch 1)")


def test_damaged_images_that_any_process_met_are_told_once(folder: Path) -> None:
    """By the first process; behind the second epoch, in which each met those of the other too, nothing is new."""
    met: dict[str, list[set[str]]] = {"training": [], "test": []}
    for rank in range(2):
        split, part = open_recipe(PHOTOGRAPHS, folder / "damaged images"), Part(rank, 2)
        loaders = (training_loader(split, PHOTOGRAPHS, part=part), Loader(split.test, 8, part=part))
        for half, loader in zip(met, loaders, strict=True):
            loader.workers = 0
            list(loader.epoch())
            met[half].append(set(damage_of(loader.data).reasons))
    assert all(some and not some & others for some, others in met.values())
    with (folder / "damaged" / "skipped.csv").open(newline="") as file:
        rows = [(row["half"], row["file"]) for row in csv.DictReader(file)]
    assert sorted(rows) == sorted((half, name) for half, ranks in met.items() for name in set.union(*ranks))
    first, second = (torch.load(folder / f"damaged.{rank}.pt", weights_only=True)["said"] for rank in range(2))
    assert second == []
    training, test = first
    assert training.startswith("8 training images could not be read, and others of their class stood in for them:\n")
    assert training.endswith("\n  and 3 more")
    assert test.startswith("4 test images could not be read")
    assert all(test.count(name) == 1 for name in set.union(*met["test"]))


@pytest.mark.parametrize("images", [0, 1, 5, 8, 9])
def test_an_evaluation_has_every_image_in_one_part(images: int) -> None:
    data = random_set(images)
    loaders = [Loader(data, 2, part=Part(rank, 3)) for rank in range(3)]
    labels = [y.tolist() for loader in loaders for _, y in loader.epoch()]
    assert [label for batch in labels for label in batch] == np.asarray(data.labels).tolist()
    assert len(labels) == sum(loader.steps for loader in loaders)
    assert images == 0 or len(next(loaders[0].whole().epoch())[1]) > 0


def test_a_batch_has_two_images_for_each_process() -> None:
    check_parts(8, Processes(0, 4))
    with pytest.raises(BbgError, match="4 processes share a batch of 7"):
        check_parts(7, Processes(0, 4))
