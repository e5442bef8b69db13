"""The folder of a run: whose it is, what it holds, how it goes on, and what is kept as best."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from support.commands import contents, refused, run
from support.events import events_of
from support.kill_train import RECIPE
from support.trainings import Stop, after, bits, first, stop

import bbg
from bbg.data import Split, open_data
from bbg.data.sets import Part, part
from bbg.errors import BbgError
from bbg.files import locked
from bbg.recipe import Recipe
from bbg.training import loop
from bbg.training.best import hold_out, last_is_best
from bbg.training.checkpoint import Checkpoint
from bbg.training.device import choose_device
from bbg.training.evaluate import logits_of
from bbg.training.folder import BEST, LAST, new_folder, newest_folder
from bbg.training.loop import train
from bbg.training.schedule import lr_factor

torch.set_num_threads(1)

SHORT = RECIPE.changed({"epochs": 2, "bn_batches": 0, "checkpoint_steps": 1})
VERB = ("train", "digits_resnet8", "--epochs", "1", "--set", "width=4", "--set", "bn_batches=0")


@pytest.fixture(scope="module")
def few() -> Split:
    digits = open_data("digits", None)
    return digits._replace(train=first(digits.train, 160), test=first(digits.test, 60))


@pytest.fixture(scope="module")
def finished(few: Split, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "finished"
    train(SHORT, few, out, progress=False)
    return out


def copied(run: Path, to: Path) -> Path:
    """The same run in another folder."""
    to.mkdir()
    for name in (LAST, "recipe.toml", "run.json"):
        (to / name).write_bytes((run / name).read_bytes())
    return to


def test_a_folder_takes_one_training_at_a_time(finished: Path, few: Split, tmp_path: Path) -> None:
    """Two wrote one last.ckpt in turns: nearly all reads saw a torn one."""
    out = copied(finished, tmp_path / "run")
    before = contents(out)
    with locked(out):
        for how in ({"resume": True}, {"overwrite": True}):
            with pytest.raises(BbgError, match="is in use: another process writes into it"):
                train(SHORT.changed({"epochs": 3}), few, out, progress=False, **how)
    assert contents(out) == before
    assert train(SHORT.changed({"epochs": 3}), few, out, resume=True, progress=False).epoch == 3


def test_a_checkpoint_of_longer_epochs_is_not_resumed(finished: Path, few: Split, tmp_path: Path) -> None:
    out = copied(finished, tmp_path / "run")
    state = torch.load(out / LAST, weights_only=True)
    torch.save({**state, "epoch": 1, "step": 10**9}, out / LAST)
    before = (out / LAST).read_bytes()
    with pytest.raises(BbgError, match="is at step 1,000,000,000 of an epoch of "):
        train(SHORT, few, out, resume=True, progress=False)
    assert (out / LAST).read_bytes() == before


# What it holds ------------------------------------------------------------------------------------------------------


def test_a_run_holds_its_recipe_and_its_facts(finished: Path, few: Split) -> None:
    assert Recipe.load(finished / "recipe.toml") == SHORT
    facts = json.loads((finished / "run.json").read_text())
    assert facts["dataset"] == "digits"
    assert facts["classes"] == [str(i) for i in range(10)]
    assert {half: facts["data"][half]["images"] for half in facts["data"]} == {"training": 160, "test": 60}
    assert facts["data"]["training"]["digest"] == few.train.digest()
    (session,) = facts["sessions"]
    assert (session["bbg"], session["torch"]) == (bbg.__version__, torch.__version__.partition("+")[0])
    assert (session["python"], session["numpy"]) == (platform.python_version(), np.__version__)
    assert (session["end"], session["to"]) == ("finished", {"epoch": 2, "step": 0})
    assert session["began"] <= session["ended"]
    assert (session["device"], session["threads"]) == ("cpu", 1)


def test_the_facts_tell_of_every_session(few: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        after(2, stop, patch)
        with pytest.raises(Stop):
            train(SHORT, few, tmp_path / "run", progress=False)
    train(SHORT, few, tmp_path / "run", resume=True, progress=False)
    told = json.loads((tmp_path / "run" / "run.json").read_text())["sessions"]
    assert [one["end"] for one in told] == ["Stop()", "finished"]
    assert told[0]["to"] == told[1]["from"] == {"epoch": 0, "step": 1}


def test_tensorboard_has_the_recipe_and_the_learning_rate(finished: Path) -> None:
    events = events_of(finished)
    assert set(events.PluginTagToContent("hparams")) == {"_hparams_/experiment", "_hparams_/session_start_info"}
    assert events.Scalars("lr")


# Whose folder it is -------------------------------------------------------------------------------------------------


def test_each_new_run_gets_a_folder_of_its_own(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: new_folder("net", tmp_path), range(8)))
    assert {folder.name for folder in made} == {"net", *(f"net-{i}" for i in range(2, 9))}
    with pytest.raises(BbgError, match=r"nothing to resume: no .*net.last\.ckpt"):
        newest_folder("net", tmp_path)
    for age, name in enumerate(("net-7", "net-3", "net-x", "network")):
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / LAST).write_text("")
        os.utime(tmp_path / name / LAST, (age, age))
    assert newest_folder("net", tmp_path).name == "net-3"


def test_the_verb_makes_folders_and_resumes_the_newest(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(*VERB) == run(*VERB) == 0
    assert sorted(os.listdir("runs")) == ["digits_resnet8", "digits_resnet8-2"]
    capsys.readouterr()
    assert run(*VERB, "--epochs", "2", "--resume") == 0
    assert "checkpoint: runs/digits_resnet8-2/last.ckpt" in capsys.readouterr().out
    assert Checkpoint.load(Path("runs/digits_resnet8-2/last.ckpt")).epoch == 2
    used = ("--out", "runs/digits_resnet8")
    words = "holds a run already; go on with --resume, start anew with --overwrite, or give another --out"
    refused(tmp_path, capsys, words, *VERB, *used)
    refused(tmp_path, capsys, "give one of them", *VERB, *used, "--overwrite", "--resume")
    (mine := Path("runs/digits_resnet8/notes.txt")).write_text("mine")
    assert run(*VERB, *used, "--overwrite", "--seed", "5") == 0
    assert Checkpoint.load(Path("runs/digits_resnet8/last.ckpt")).recipe.seed == 5
    assert mine.read_text() == "mine"


def test_a_run_that_fails_before_its_first_checkpoint_locks_nothing(
    few: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        after(1, stop, patch)
        with pytest.raises(Stop):
            train(SHORT, few, tmp_path / "run", progress=False)
        assert not (tmp_path / "run").exists()
        (tmp_path / "used").mkdir()
        (tmp_path / "used" / "mine").write_text("mine")
        after(1, stop, patch)
        with pytest.raises(Stop):
            train(SHORT, few, tmp_path / "used", progress=False)
        assert contents(tmp_path) == {tmp_path / "used" / "mine": b"mine"}
    assert train(SHORT.changed({"epochs": 1}), few, tmp_path / "run", progress=False).epoch == 1


@pytest.mark.parametrize("name", ["history.csv", "curves.png", "run.json", "best.ckpt", "tensorboard/log"])
def test_a_file_of_the_users_own_is_not_removed(name: str, few: Split, tmp_path: Path) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(BbgError, match=r"was not written by a run, and would be lost"):
            train(SHORT, few, tmp_path, overwrite=overwrite, progress=False)
    assert (tmp_path / name).read_text() == "mine"


def test_a_recipe_of_the_users_own_is_not_overwritten(few: Split, tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text('dataset = "digits"\n')
    for overwrite in (False, True):
        with pytest.raises(BbgError, match=r"recipe\.toml' was not written by a run, and would be lost"):
            train(SHORT, few, tmp_path, overwrite=overwrite, progress=False)
    assert contents(tmp_path) == {tmp_path / "recipe.toml": b'dataset = "digits"\n'}


# How it goes on -----------------------------------------------------------------------------------------------------


def test_a_training_is_shown_in_short(finished: Path, few: Split) -> None:
    assert len(repr(few)) < 2000
    shown = repr(Checkpoint.load(finished / LAST))
    assert "network='resnet8'" in shown
    assert len(shown) < 5000


def test_other_pictures_are_told_in_one_sentence(tmp_path: Path, capsys: Any) -> None:
    """A run that was broken off, and a folder of which pictures were removed since."""
    draws = np.random.default_rng(0)
    for name in ("train/a", "train/b", "test/a", "test/b"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(12):
            picture = Image.fromarray(draws.integers(0, 256, (16, 16, 3), np.uint8))
            picture.save(tmp_path / "photos" / name / f"{i}.png")
    (tmp_path / "r.toml").write_text(
        'dataset = "folders"\nnetwork = "resnet8"\nwidth = 4\nsize = 16\nepochs = 1\nbatch_size = 8\n'
    )
    command = ("train", tmp_path / "r.toml", "--data", tmp_path / "photos", "--out", tmp_path / "run")
    (tmp_path / "photos" / "train" / "a" / "odd.png").write_text("no picture")
    assert run(*command) == 0
    told = capsys.readouterr().out
    for words in ("24 training images", "24 test images", "skipped 1 file:", "odd.png: "):
        assert words in told
    assert "odd.png" in (tmp_path / "run" / "skipped.csv").read_text()
    for i in range(10):
        (tmp_path / "photos" / "train" / "a" / f"{i}.png").unlink()
    refused(tmp_path, capsys, "the training images are 14 of digest", *command, "--resume")
    refused(tmp_path, capsys, "the run has 24 of", *command, "--resume", "--epochs", "3")


def test_a_finished_run_is_extended_with_its_schedule_anew(
    finished: Path, few: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="bbg")
    rates: list[float] = []
    set_lr = loop.set_lr

    def noted(*args: Any) -> float:
        rates.append(set_lr(*args))
        return rates[-1]

    longer = SHORT.changed({"epochs": 5})
    with monkeypatch.context() as patch:
        patch.setattr(loop, "set_lr", noted)
        whole = train(longer, few, copied(finished, tmp_path / "a"), resume=True, progress=False)
    steps = len(few.train) // SHORT.batch_size
    alone = SHORT.changed({"epochs": 3})
    assert rates == [alone.lr * lr_factor(alone, step, 3 * steps) for step in range(3 * steps)]
    assert "epochs is 5 now, the run had 2: it was finished, and its schedule begins anew with epoch 3" in caplog.text
    assert (whole.epoch, whole.since, len(whole.history)) == (5, 2, 5)
    with monkeypatch.context() as patch:
        after(steps + 1, stop, patch)
        with pytest.raises(Stop):
            train(longer, few, copied(finished, tmp_path / "b"), resume=True, progress=False)
    assert Checkpoint.load(tmp_path / "b" / LAST).epoch == 3
    resumed = train(longer, few, tmp_path / "b", resume=True, progress=False)
    assert bits(resumed.model) == bits(whole.model)


def test_an_unfinished_run_goes_on_by_the_longer_schedule(
    few: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="bbg")
    with monkeypatch.context() as patch:
        after(2, stop, patch)
        with pytest.raises(Stop):
            train(SHORT, few, tmp_path, progress=False)
    longer = SHORT.changed({"epochs": 3, "schedule": SHORT.schedule})
    state = train(longer, few, tmp_path, resume=True, progress=False)
    assert "epochs is 3 now, the run had 2: from here on the learning rate is that of 3 epochs" in caplog.text
    assert (state.epoch, state.since) == (3, 0)
    with pytest.raises(BbgError, match="has trained 3 epochs already, asked are 1; give more epochs, or start a new"):
        train(SHORT.changed({"epochs": 1}), few, tmp_path, resume=True, progress=False)


@pytest.mark.parametrize("change", [{"checkpoint_steps": 7}, {"evaluation": "packed"}, {"compile": True}])
def test_keys_that_change_no_meaning_may_change(
    change: dict[str, Any], finished: Path, few: Split, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="bbg")
    train(SHORT.changed(change), few, copied(finished, tmp_path / "run"), resume=True, progress=False)
    ((key, value),) = change.items()
    (line,) = [message for message in caplog.messages if " now, the run had " in message]
    assert line.startswith(f"{key} is {value} now, the run had {getattr(SHORT, key)}")
    assert ("the bits are not those" in line) == (key == "compile")


# What is kept as best -----------------------------------------------------------------------------------------------


def test_the_best_epoch_is_chosen_on_images_that_are_neither_trained_nor_tested_on(few: Split, tmp_path: Path) -> None:
    recipe = SHORT.changed({"keep_best": True, "held_out": 0.25, "epochs": 5, "bn_batches": 2})
    state = train(recipe, few, tmp_path, progress=False)
    split, held = hold_out(few, recipe)
    assert held is not None
    rows = [(row["held_out_accuracy"], -row["held_out_loss"]) for row in state.history]
    best = Checkpoint.load(tmp_path / BEST)
    assert best.epoch == 1 + rows.index(max(rows))
    logits = logits_of(best.network(), held, few.preprocess)
    right = (logits.argmax(1) == torch.from_numpy(np.asarray(held.labels))).double().mean().item()
    assert best.history[-1]["held_out_accuracy"] == pytest.approx(right), "the figure is that of the saved network"
    assert best.ranges
    (tmp_path / "half").mkdir()
    found = {image.tobytes() for image in split.train.images}
    assert not found & {image.tobytes() for image in held.images}  # type: ignore[attr-defined]
    assert len(split.train) + len(held) == len(few.train)
    assert split.test is few.test
    shares = np.bincount(held.labels, minlength=10) / np.bincount(few.train.labels, minlength=10)
    assert shares.min() > 0.15
    assert shares.max() < 0.35


def test_what_is_held_out_is_a_function_of_seed_and_share(few: Split) -> None:
    recipe = SHORT.changed({"keep_best": True})
    one, same, other = (hold_out(few, recipe.changed({"seed": seed}))[1] for seed in (0, 0, 1))
    assert one is not None
    assert same is not None
    assert other is not None
    assert one.digest() == same.digest() != other.digest()
    assert hold_out(few, SHORT) == (few, None)
    with pytest.raises(BbgError, match="keep_best holds 1 of the 1 images of a class out"):
        hold_out(few._replace(train=first(few.train, 10)), recipe)


def test_a_part_of_a_set_of_ones_own(few: Split) -> None:
    chosen = np.array([5, 2, 9])
    mine = Part(few.train, chosen)
    whole = part(few.train, chosen)
    assert [mine.read(i)[0].tobytes() for i in range(3)] == [whole.read(i)[0].tobytes() for i in range(3)]
    assert list(mine.labels) == list(whole.labels) == [few.train.labels[i] for i in chosen]
    assert mine.digest() != Part(few.train, chosen[::-1]).digest()


def test_ties_go_to_the_lower_loss_and_then_to_the_earlier_epoch() -> None:
    def row(epoch: int, accuracy: float, loss: float) -> dict[str, float]:
        return {"epoch": epoch, "held_out_accuracy": accuracy, "held_out_loss": loss}

    history = [row(1, 0.9, 1.0), row(2, 0.5, 1.0)]
    assert last_is_best(history[:1], "accuracy", 0)
    assert not last_is_best(history, "accuracy", 0)
    assert last_is_best(history, "accuracy", 1), "the first epoch had real-valued weights"
    assert last_is_best([*history, row(3, 0.9, 0.8)], "accuracy", 0)
    assert not last_is_best([*history, row(3, 0.9, 1.0)], "accuracy", 0)


# Devices and the environment ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("gpu", "unknown device 'gpu'; allowed are cpu, cuda, cuda:N, mps"),
        ("meta", "unknown device 'meta'; allowed are"),
        ("cuda:99", "device 'cuda:99': torch .*sees"),
        ("cpu:3", "there is one only; give cpu"),
    ],
)
def test_a_device_that_is_not_there_is_told(name: str, words: str, few: Split, tmp_path: Path) -> None:
    with pytest.raises(BbgError, match=words):
        train(SHORT, few, tmp_path / "run", device=name, progress=False)
    assert not (tmp_path / "run").exists()


def test_the_verbs_take_a_device(finished: Path, capsys: Any) -> None:
    assert run("eval", finished / LAST, "--device", "cpu") == 0
    assert run("eval", finished / LAST, "--device", "cuda:99") == 2
    assert run("eval", "resnet20-cifar10", "--device", "cpu") == 2
    assert "a packed file runs on the CPU" in capsys.readouterr().err
    assert choose_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("name", ["[bold]$x_$", "caf\udce9", "{0} %d"])
def test_a_run_may_be_called_anything(name: str, few: Split, tmp_path: Path) -> None:
    try:
        (tmp_path / name).mkdir()
    except OSError:
        pytest.skip("this file system takes text only")
    train(SHORT, few, tmp_path / name, progress=False)
    assert (tmp_path / name / "curves.png").exists()
    assert Checkpoint.load(tmp_path / name / LAST).epoch == SHORT.epochs


SLURM = {"SLURM_NTASKS": "4", "SLURM_JOB_NAME": "x", "SLURM_JOB_ID": "1", "SLURM_PROCID": "2"}
TORCHRUN = {"RANK": "1", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "MASTER_ADDR": "nowhere", "MASTER_PORT": "1"}
TORCHELASTIC = {"TORCHELASTIC_RUN_ID": "1", "GROUP_RANK": "0"}
FABRIC = {"LT_DEVICES": "4", "LT_ACCELERATOR": "cuda", "LT_STRATEGY": "ddp", "LT_PRECISION": "16"}
MPI = {"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "1", "PMI_RANK": "1", "LSB_JOBID": "1"}
NOTEBOOK = {"MPLBACKEND": "a_backend_of_another_matplotlib"}
TERMINAL = {"COLUMNS": "5", "LINES": "1", "FORCE_COLOR": "1", "TERM": "dumb"}
FOREIGN = {"clusters": SLURM | TORCHRUN | TORCHELASTIC | FABRIC | MPI, "screens": NOTEBOOK | TERMINAL}


@pytest.mark.parametrize("case", FOREIGN)
def test_variables_of_clusters_and_notebooks_do_not_matter(case: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "bbg", *VERB, "--out", str(tmp_path / "run"), "--json", "-", "-q"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **FOREIGN[case]}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["epochs"] == 1
    assert (tmp_path / "run" / "curves.png").exists()
