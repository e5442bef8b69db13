"""The study's queue: killed again and again it loses nothing, and ends with the bits of an undisturbed one."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from support.voc import write_voc

from bbg.conversion import convert
from bbg.data import open_recipe
from bbg.errors import BbgError
from bbg.graph import file as packed
from bbg.image import Preprocess
from bbg.layers.bits import bits_of
from bbg.training.checkpoint import Checkpoint
from bbg.training.factory import find_factory
from bench.record import ROOT
from bench.study import networks, rows
from bench.study.row import check_finished, lock, trained, work

LIST = """
rows = [
  { name = "one", recipe = "small", epochs = 8, seed = 0, tier = "A", method = "bbg" },
  { name = "other-tier", recipe = "small", epochs = 3, seed = 0, tier = "B", method = "bbg" },
  { name = "two", recipe = "small", epochs = 2, seed = 1, tier = "A", start = "one", teacher = "one" },
]
[common]
dataset = "digits"
network = "resnet8"
width = 8
batch_size = 32
[recipes.small]
checkpoint_steps = 7
crop_padding = 0
flip = false
"""


@pytest.fixture
def study(tmp_path: Path) -> Path:
    (tmp_path / "study.toml").write_text(LIST)
    return tmp_path


def start(folder: Path, study: Path) -> subprocess.Popen[str]:
    """The queue, with its runs and records in `folder`."""
    command = [sys.executable, "-m", "bench.study", "--threads", "1", "--list", str(study / "study.toml")]
    places = ["--runs", str(folder / "runs"), "--records", str(folder / "records")]
    return subprocess.Popen([*command, *places], cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def records(folder: Path) -> dict[str, Any]:
    return {file.stem: json.loads(file.read_text()) for file in sorted((folder / "records").glob("*.json"))}


def trains(folder: Path) -> bool:
    """Whether the first row has an epoch behind it."""
    return (folder / "runs" / "one" / "history.csv").exists()


def wait(until: Any, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < end
        time.sleep(0.1)


@pytest.mark.slow
def test_five_kills_change_nothing(study: Path) -> None:
    quiet, killed = study / "quiet", study / "killed"
    queue = start(quiet, study)
    assert queue.wait(120) == 0, queue.stdout and queue.stdout.read()
    draws, finished = random.Random(0), dict[str, Any]()
    for number in range(5):
        queue = start(killed, study)
        if number == 0:
            wait(lambda: trains(killed))
        time.sleep(draws.uniform(2, 6))
        queue.send_signal(signal.SIGKILL if number % 2 == 0 else signal.SIGTERM)
        queue.wait(60)
        now = {name: record for name, record in records(killed).items() if record["finished"]}
        assert all(now[name] == record for name, record in finished.items())  # none is lost or done again
        finished = now
    queue = start(killed, study)
    assert queue.wait(120) == 0
    found, wanted = records(killed), records(quiet)
    assert found.keys() == wanted.keys() == {"one", "two"}
    for name in wanted:
        for key in ("finished", "weights", "accuracy", "packed", "recipe", "epochs"):
            assert found[name][key] == wanted[name][key], (name, key)
    assert (killed / "runs" / "one" / "packed.bbg").exists()


@pytest.mark.slow
def test_it_pauses_while_the_file_is_there(study: Path) -> None:
    folder = study / "paused"
    (folder / "runs").mkdir(parents=True)
    queue = start(folder, study)
    try:
        wait(lambda: trains(folder))
        (folder / "runs" / "pause").touch()
        time.sleep(1.5)
        process = int((folder / "runs" / "one" / "lock").read_text())
        before = _cpu(process)
        time.sleep(1.5)
        assert _cpu(process) == before
        (folder / "runs" / "pause").unlink()
        wait(lambda: _cpu(process) > before)
    finally:
        queue.terminate()
        queue.wait(60)
    assert records(folder)["one"]["finished"] is False


def _cpu(process: int) -> int:
    """Clock ticks that a process has used."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def test_a_second_queue_is_refused(tmp_path: Path) -> None:
    with lock(tmp_path / "lock"), pytest.raises(BbgError, match=f"process {os.getpid()} works in"):
        lock(tmp_path / "lock")
    lock(tmp_path / "lock").close()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (('name = "two"', 'name = "one"'), "two rows are called 'one'"),
        (('tier = "B", ', ""), "no 'tier'"),
        (('recipe = "small", epochs = 2', 'recipe = "large", epochs = 2'), "has recipe 'large'; the list has small"),
        (('name = "two"', 'name = "../two"'), "a name is of"),
        (('method = "bbg"', 'methods = "bbg"'), "unknown recipe key 'methods'"),
        (('start = "one"', 'start = "three"'), "row 'two' starts from 'three'; that is no row above it"),
        (('teacher = "one"', 'teacher = "three"'), "row 'two' learns from 'three'; that is no row above it"),
    ],
)
def test_a_wrong_list_is_refused(study: Path, change: tuple[str, str], told: str) -> None:
    file = study / "study.toml"
    file.write_text(LIST.replace(*change))
    with pytest.raises(BbgError, match=told):
        rows.read(file)


def test_a_row_of_a_factory_is_read_by_its_name(tmp_path: Path) -> None:
    """Checkpoints name no code, so the benchmarks take the factory of the list."""
    row = next(row for row in rows.read() if row.recipe.factory is not None)
    (tmp_path / row.name).mkdir()
    torch.manual_seed(0)
    weights = find_factory(str(row.recipe.factory))(10).state_dict()
    how, classes = Preprocess.of("cifar10"), [str(c) for c in range(10)]
    state = Checkpoint(row.recipe, row.recipe.epochs - 1, 5, weights, {}, classes, how, custom=True)
    state.save(tmp_path / row.name / "last.ckpt")
    _, network = trained(tmp_path, row.name)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in network.state_dict().items())
    came = f"row '{row.name}' is at epoch {row.recipe.epochs - 1} of {row.recipe.epochs}; finish it before"
    with pytest.raises(BbgError, match=came):
        check_finished(tmp_path / row.name / "last.ckpt")


def test_every_row_of_the_list_is_a_training(study: Path) -> None:
    listed = rows.read()
    assert {row.tier for row in listed} == {"A", "B"}
    assert {row.recipe.epochs for row in listed if row.tier == "A"} == {2, 6, 8, 14, 20, 40}


# Per network, its layers of 1 bit and of 8 bits, stem and head among the latter.
WIDTHS = {
    "mixed_small": (3, 10),
    "mixed_small_wide": (2, 6),
    "mixed_small_broad": (2, 6),
    "mixed_small_fast": (4, 6),
    "mixed_medium": (4, 12),
    "mixed_medium_plus": (4, 12),
    "mixed_medium_wide": (6, 6),
    "mixed_medium_short": (2, 6),
    "mixed_medium_deep": (4, 10),
    "resnet18_mixed": (4, 14),
    "resnet18_mixed_wide": (4, 14),
    "mixed_large": (8, 10),
    "mixed_large_short": (2, 12),
    "mixed_large_narrow": (4, 14),
    "depthwise": (0, 0),
}


@pytest.mark.parametrize("name", WIDTHS)
def test_networks_of_the_study_learn_and_convert(name: str, tmp_path: Path) -> None:
    network = getattr(networks, name)(num_classes=10)
    for layer in network.modules():
        if bits_of(layer) == 8:
            layer.recording = True  # type: ignore[assignment]
    x = torch.randn(4, 3, 32, 32)
    network(x).square().sum().backward()
    assert all(p.grad is not None for p in network.parameters())
    convert(network.eval(), tmp_path / "n.bbg", x, edges="fp32")
    kinds = [op.kind for op in packed.read(tmp_path / "n.bbg").graph.ops]
    assert (kinds.count("binary_conv"), kinds.count("byte_conv")) == WIDTHS[name]


def test_the_record_of_a_detector_has_its_map(tmp_path: Path) -> None:
    list_ = tmp_path / "list.toml"
    list_.write_text(
        """
        rows = [ { name = "tiny", recipe = "light", epochs = 1, seed = 0, tier = "A", width = 8 } ]
        [recipes.light]
        dataset = "voc"
        task = "detection"
        network = "ssd_light"
        size = "64x96"
        batch_size = 4
        """
    )
    (row,) = rows.read(list_)
    split, records = open_recipe(row.recipe, write_voc(tmp_path / "voc", 8, 4)), tmp_path / "records"
    for folder in (records, tmp_path / "tiny"):
        folder.mkdir()
    assert work(row, split, tmp_path / "tiny", records)
    record = json.loads((records / "tiny.json").read_text())
    assert record["map"] == record["history"][-1]["test_map"]
    assert record["packed"]["map"] == pytest.approx(record["map"], abs=0.005)
    assert record["packed_int8"]["bytes"] < record["packed"]["bytes"]
