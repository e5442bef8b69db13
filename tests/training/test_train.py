"""Laws of a training: bit-equal resumption after `kill -9`, honest figures, and clean ends."""

from __future__ import annotations

import csv
import math
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from support.events import scalars
from support.kill_train import RECIPE
from support.trainings import Stop, after, bits, first, stop, with_classes
from torch import Tensor, nn

from bbg.data import Split, open_data
from bbg.errors import BbgError
from bbg.recipe import Recipe
from bbg.training import loop
from bbg.training.checkpoint import Checkpoint
from bbg.training.evaluate import logits_of, reestimate_statistics
from bbg.training.factory import build
from bbg.training.folder import LAST
from bbg.training.loop import train, training_loader
from bbg.training.schedule import lr_factor
from bbg.training.tasks.classification import Classification

torch.set_num_threads(1)

STEPS = 22  # of an epoch: 1,437 images in batches of 64


@pytest.fixture(scope="module")
def digits() -> Split:
    return open_data("digits", None)


@pytest.fixture(scope="module")
def few(digits: Split) -> Split:
    """A tenth of the digits, where a test needs a training but not its result."""
    return digits._replace(train=first(digits.train, 160))


@pytest.fixture(scope="module")
def undisturbed(digits: Split, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed")
    train(RECIPE, digits, out, progress=False)
    return out


# What a training leaves behind


def test_history_and_curves(undisturbed: Path) -> None:
    state = Checkpoint.load(undisturbed / LAST)
    assert (state.epoch, state.step, state.recipe) == (RECIPE.epochs, 0, RECIPE)
    with open(undisturbed / "history.csv", newline="", encoding="utf-8") as file:
        rows = [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]
    assert rows == state.history
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    assert list(rows[0]) == ["epoch", "loss", "accuracy", "test_loss", "test_accuracy", "lr", "seconds", "flips"]
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert rows[-1]["test_accuracy"] > 0.2
    assert (undisturbed / "curves.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    files = ["curves.png", "history.csv", "last.ckpt", "recipe.toml", "run.json", "tensorboard"]
    assert sorted(os.listdir(undisturbed)) == files


def test_the_quoted_accuracy_is_that_of_all_test_images(undisturbed: Path, digits: Split) -> None:
    state = Checkpoint.load(undisturbed / LAST)
    model = state.network()
    with torch.no_grad():
        x = torch.from_numpy(digits.preprocess.normalize(digits.test.images))
        logits = torch.cat([model(one[None]) for one in x])  # image by image
    labels = torch.from_numpy(digits.test.labels)
    assert state.history[-1]["test_accuracy"] == pytest.approx((logits.argmax(1) == labels).double().mean().item())
    assert state.history[-1]["test_loss"] == pytest.approx(nn.functional.cross_entropy(logits, labels).item(), rel=1e-4)
    assert torch.allclose(logits_of(model, digits.test, digits.preprocess), logits, atol=1e-4)


def test_tensorboard_tells_loss_speed_and_accuracy(undisturbed: Path) -> None:
    assert sorted(scalars(undisturbed, "test_accuracy")) == [21, 43, 65]
    assert list(scalars(undisturbed, "test_accuracy").values())[-1] == pytest.approx(
        Checkpoint.load(undisturbed / LAST).history[-1]["test_accuracy"]
    )
    assert sorted(scalars(undisturbed, "loss_step")) == [9, 19, 29, 39, 49, 59]
    assert min(scalars(undisturbed, "images/s").values()) > 0


# Resumption


@pytest.mark.parametrize("steps", [5, 9, 22, 23, 40, 65])
def test_a_resumed_run_goes_on_as_if_undisturbed(
    steps: int, undisturbed: Path, digits: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights, learning rates, log steps and validations, wherever the run was broken off."""
    with monkeypatch.context() as broken:
        after(steps, stop, broken)
        with pytest.raises(Stop):
            train(RECIPE, digits, tmp_path, progress=False)
    saved = Checkpoint.load(tmp_path / LAST)
    assert saved.epoch * STEPS + saved.step <= steps
    rates: list[float] = []
    set_lr = loop.set_lr

    def noted(optimizer: torch.optim.Optimizer, *args: Any) -> float:
        rates.append(set_lr(optimizer, *args))
        assert [group["lr"] for group in optimizer.param_groups] == rates[-1:] * len(optimizer.param_groups)
        return rates[-1]

    monkeypatch.setattr(loop, "set_lr", noted)
    resumed = train(RECIPE, digits, tmp_path, resume=True, progress=False)
    expected = Checkpoint.load(undisturbed / LAST)
    assert bits(resumed.model) == bits(expected.model)
    done = saved.epoch * STEPS + saved.step
    assert rates == [RECIPE.lr * lr_factor(RECIPE, step, 3 * STEPS) for step in range(done, 3 * STEPS)]
    names = ("epoch", "test_loss", "test_accuracy", "flips")
    assert [[row[n] for n in names] for row in resumed.history] == [[row[n] for n in names] for row in expected.history]
    assert sorted(scalars(tmp_path, "test_accuracy")) == [21, 43, 65]


def test_a_run_broken_off_in_validation_resumes_before_it(
    few: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = RECIPE.changed({"epochs": 1, "checkpoint_steps": 1})
    whole = train(recipe, few, tmp_path / "a", progress=False)
    with monkeypatch.context() as patch:
        patch.setattr(Classification, "evaluate", lambda *_: stop())
        with pytest.raises(Stop):
            train(recipe, few, tmp_path / "b", progress=False)
    state = train(recipe, few, tmp_path / "b", resume=True, progress=False)
    assert bits(state.model) == bits(whole.model)
    assert state.history[-1]["test_accuracy"] == whole.history[-1]["test_accuracy"]


def test_resuming_a_finished_run_changes_nothing_and_mends_its_table(
    undisturbed: Path, digits: Split, tmp_path: Path
) -> None:
    shutil.copy(undisturbed / LAST, tmp_path)
    before = (tmp_path / LAST).read_bytes()
    state = train(RECIPE, digits, tmp_path, resume=True, progress=False)
    assert state.epoch == RECIPE.epochs
    assert (tmp_path / LAST).read_bytes() == before
    assert (tmp_path / "history.csv").read_bytes() == (undisturbed / "history.csv").read_bytes()
    assert (tmp_path / "curves.png").exists()


def test_seeds_decide(few: Split, tmp_path: Path) -> None:
    short = RECIPE.changed({"epochs": 1})
    one, same, other = (
        train(recipe, few, tmp_path / str(i), progress=False)
        for i, recipe in enumerate((short, short, short.changed({"seed": 1})))
    )
    assert bits(one.model) == bits(same.model)
    assert bits(one.model) != bits(other.model)


# Refusals


def refuse(words: str, *args: Any, **options: Any) -> None:
    with pytest.raises(BbgError, match=words):
        train(*args, progress=False, **options)


def test_a_used_folder_is_refused(undisturbed: Path, digits: Split) -> None:
    before = {p.name: p.read_bytes() for p in undisturbed.iterdir() if p.is_file()}
    refuse(
        "holds a run already; go on with --resume, start anew with --overwrite, or give another --out",
        RECIPE,
        digits,
        undisturbed,
    )
    for key, value in {"lr": 0.5, "seed": 1, "keep_best": True, "act": "prelu"}.items():
        changed = RECIPE.changed({key: value})
        words = f"cannot resume .*recipe key '{key}' is .*, or start a new run from its weights with --init .*last.ckpt"
        refuse(words, changed, digits, undisturbed, resume=True)
    others = with_classes(digits, ["x", *digits.classes[1:]])
    refuse("the images have other classes than the run", RECIPE, others, undisturbed, resume=True)
    for half, name in (("train", "training"), ("test", "test")):
        data = getattr(digits, half)
        turned = data.images.copy()
        turned[3, 4, 5] ^= 1
        shifted = data.labels.copy()
        shifted[7] = (shifted[7] + 1) % 10
        for other in (first(data, 100), replace(data, images=turned), replace(data, labels=shifted)):
            changed = digits._replace(**{half: other})
            words = f"cannot resume .*the {name} images are {len(other):,} of digest .*the run has {len(data):,} of"
            refuse(words, RECIPE, changed, undisturbed, resume=True)
    assert {p.name: p.read_bytes() for p in undisturbed.iterdir() if p.is_file()} == before


def test_nothing_to_resume(digits: Split, tmp_path: Path) -> None:
    refuse("nothing to resume: no .*last.ckpt", RECIPE, digits, tmp_path / "none", resume=True)
    assert not (tmp_path / "none").exists()
    (tmp_path / LAST).write_text("damaged")
    refuse("is damaged or no checkpoint", RECIPE, digits, tmp_path, resume=True)
    assert (tmp_path / LAST).read_text() == "damaged"


def test_a_folder_that_cannot_be_written_is_refused(few: Split, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    refuse("cannot make folder .*give a writable --out folder", RECIPE, few, tmp_path / "file")
    refuse("cannot make folder .*give a writable --out folder", RECIPE, few, tmp_path / "file" / "below")
    assert (tmp_path / "file").read_text() == "mine"
    if os.path.isdir("/proc/self"):
        refuse("cannot make folder '/proc/self/run'", RECIPE, few, Path("/proc/self/run"))


def test_init(undisturbed: Path, few: Split, tmp_path: Path) -> None:
    start = undisturbed / LAST
    frozen = RECIPE.changed({"epochs": 1, "lr": 0.0, "bn_batches": 0})
    state = train(frozen, few, tmp_path / "a", init=start, progress=False)
    before = Checkpoint.load(start).model
    learned = dict(build(RECIPE, 10, few.preprocess).named_parameters())
    assert all(torch.equal(state.model[name], before[name]) for name in learned)
    wider = RECIPE.changed({"width": 8})
    refuse(
        "weights of .*last.ckpt' are those of another network: .*'stem.0.weight': shape",
        wider,
        few,
        tmp_path / "b",
        init=start,
    )
    refuse("cannot read weights .*absent", RECIPE, few, tmp_path / "b", init=tmp_path / "absent")
    refuse("give one of them", RECIPE, few, tmp_path / "b", init=start, resume=True)
    assert not (tmp_path / "b").exists()


def test_a_run_of_an_older_version_is_refused_but_starts_a_new_one(
    undisturbed: Path, digits: Split, few: Split, tmp_path: Path
) -> None:
    """Version 2 drew other crops: a run cannot go on as it would have, but its weights are weights."""
    old = torch.load(undisturbed / LAST, weights_only=True)
    del old["data"], old["custom"]
    torch.save({**old, "version": 2}, tmp_path / LAST)
    refuse(
        "has version 2, whose order and crops of the images were others; start a new",
        RECIPE,
        digits,
        tmp_path,
        resume=True,
    )
    frozen = RECIPE.changed({"epochs": 1, "lr": 0.0, "bn_batches": 0})
    state = train(frozen, few, tmp_path / "new", init=tmp_path / LAST, progress=False)
    assert torch.equal(state.model["head.weight"], old["model"]["head.weight"])


# Ends


def test_a_loss_that_is_not_finite_ends_the_training(
    few: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = RECIPE.changed({"epochs": 3, "checkpoint_steps": 1})
    cross_entropy, calls = nn.functional.cross_entropy, 0

    def spoiled(logits: Tensor, labels: Tensor, **options: Any) -> Tensor:
        nonlocal calls
        calls += torch.is_grad_enabled()
        return cross_entropy(logits, labels, **options) * (math.nan if calls == 4 else 1)

    with monkeypatch.context() as patch:
        patch.setattr(nn.functional, "cross_entropy", spoiled)
        refuse(r"the loss is nan in step 4 \(epoch 2\).*lower lr", recipe, few, tmp_path)
    state = Checkpoint.load(tmp_path / LAST)
    assert (state.epoch, state.step) == (1, 1)
    assert all(torch.isfinite(t).all() for t in state.model.values())


def test_weights_that_are_not_finite_are_never_saved(
    few: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gradient may overflow where the loss did not: the checkpoint behind that step is the one that must not be."""
    set_lr = loop.set_lr

    def spoil(optimizer: torch.optim.Optimizer, recipe: Recipe, step: int, steps: int) -> float:
        lr = set_lr(optimizer, recipe, step, steps)
        if step == 1:
            for group in optimizer.param_groups:
                group["lr"] = math.inf
        return lr

    monkeypatch.setattr(loop, "set_lr", spoil)
    refuse(r"is not finite in step 2 \(epoch 1\)", RECIPE.changed({"checkpoint_steps": 1}), few, tmp_path)
    assert Checkpoint.load(tmp_path / LAST).step == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_keeps_the_step_and_resumes(
    number: signal.Signals, undisturbed: Path, digits: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    handler = signal.getsignal(number)
    with monkeypatch.context() as patch:
        after(27, lambda: signal.raise_signal(number), patch)
        with pytest.raises(KeyboardInterrupt):
            train(RECIPE, digits, tmp_path, progress=False)
    state = Checkpoint.load(tmp_path / LAST)
    assert (state.epoch, state.step) == (1, 5)  # no multiple of checkpoint_steps
    assert signal.getsignal(number) is handler
    resumed = train(RECIPE, digits, tmp_path, resume=True, progress=False)
    assert bits(resumed.model) == bits(Checkpoint.load(undisturbed / LAST).model)


def test_a_signal_that_ends_the_loading_processes_too_is_no_error(
    few: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`timeout` and clusters send it to all processes of a training; torch says that it lost some."""

    def lost() -> None:
        signal.raise_signal(signal.SIGTERM)
        raise RuntimeError("DataLoader worker (pid 5) is killed by signal: Terminated.")

    after(2, lost, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        train(RECIPE, few, tmp_path / "run", progress=False)


def test_a_second_ctrl_c_ends_at_once(few: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    handler = signal.getsignal(signal.SIGINT)

    def twice() -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    after(2, twice, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        train(RECIPE, few, tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()  # it has no checkpoint yet, so there is nothing to go on with
    assert signal.getsignal(signal.SIGINT) is handler


# Normalisation statistics, optimisers, progress


def test_the_last_epoch_is_validated_with_the_statistics_that_are_saved(undisturbed: Path, digits: Split) -> None:
    state = Checkpoint.load(undisturbed / LAST)
    model = state.network()
    before = bits(state.model)
    reestimate_statistics(model, training_loader(digits, RECIPE), RECIPE.epochs - 1, RECIPE.bn_batches)
    assert bits(model.state_dict()) == before


def test_sgd_trains_and_resumes(few: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = Recipe(
        dataset="digits",
        network="vgg_small",
        width=4,
        size=8,
        epochs=2,
        batch_size=64,
        optimizer="sgd",
        lr=0.02,
        schedule="cosine",
        checkpoint_steps=1,
        label_smoothing=0.1,
        weight_decay=1e-4,
    )
    whole = train(recipe, few, tmp_path / "a", progress=False)
    with monkeypatch.context() as patch:
        after(2, stop, patch)
        with pytest.raises(Stop):
            train(recipe, few, tmp_path / "b", progress=False)
    assert bits(train(recipe, few, tmp_path / "b", resume=True, progress=False).model) == bits(whole.model)


def test_the_progress_bar_runs(few: Split, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(RECIPE.changed({"epochs": 1}), few, tmp_path)
    shown = capsys.readouterr().out
    for words in ("epoch   1/1", "loss", "accuracy", "test", "images/s"):
        assert words in shown


def test_epochs_are_messages_of_the_logger(
    few: Split, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level("INFO", logger="bbg")
    train(RECIPE.changed({"epochs": 2}), few, tmp_path, progress=False)
    assert [message[:11] for message in caplog.messages] == ["epoch   1/2", "epoch   2/2"]
    assert capsys.readouterr().out == ""
