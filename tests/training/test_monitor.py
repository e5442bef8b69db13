"""What is watched while training: TensorBoard has it, the history counts the flips, a resumed run counts the same."""

from __future__ import annotations

import csv
import math
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from support.events import events_of
from support.kill_train import RECIPE
from support.trainings import Stop, after, around_steps, first, stop
from torch import Tensor

from bbg.analysis import gates, signs, weight_entropy
from bbg.data import Split, open_data
from bbg.errors import BbgError
from bbg.training.checkpoint import Checkpoint
from bbg.training.folder import LAST
from bbg.training.loop import train
from bbg.training.monitor import open_writer, packed, unpacked
from bbg.training.plots import write_history
from bbg.training.tasks.classification import Classification

torch.set_num_threads(1)

QUICK = RECIPE.changed({"bn_batches": 0, "checkpoint_steps": 1, "batch_size": 40})
STEPS = 4  # of an epoch: 160 images


@pytest.fixture(scope="module")
def few() -> Split:
    digits = open_data("digits", None)
    return digits._replace(train=first(digits.train, 160))


@pytest.fixture(scope="module")
def watched(few: Split, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Tensor]]]:
    """The folder of a run, and the weights before each of its steps and after the last."""
    out = tmp_path_factory.mktemp("watched")
    seen: list[dict[str, Tensor]] = []

    def noted(network: Any) -> None:
        seen.append({name: tensor.clone() for name, tensor in network.state_dict().items()})

    with pytest.MonkeyPatch.context() as patch:
        around_steps(patch, before=noted)
        state = train(QUICK, few, out, progress=False)
    return out, [*seen, state.model]


def centred(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The signs of bbg's weights, by their formula."""
    kernels = {name: w for name, w in weights.items() if name.startswith("units.") and w.ndim == 4}
    return {name.removesuffix(".weight"): w >= w.mean((1, 2, 3), keepdim=True) for name, w in kernels.items()}


def test_tensorboard_has_entropies_flips_and_gates_of_every_epoch(watched: Any) -> None:
    out, _ = watched
    events = events_of(out)
    layers = [f"units.{i}.conv" for i in range(6)]
    scalars = {f"{what}/{layer}" for what in ("entropy", "flips") for layer in layers} | {"flips"}
    tags = events.Tags()
    assert scalars <= set(tags["scalars"])
    assert tags["histograms"] == [f"gate/units.{i}" for i in range(6)]
    ends = [STEPS - 1, 2 * STEPS - 1, 3 * STEPS - 1]
    for tag in scalars:
        assert [event.step for event in events.Scalars(tag)] == ends, tag
    assert [event.step for event in events.Histograms("gate/units.3")] == ends
    model = Checkpoint.load(out / LAST).network()
    for row in weight_entropy(model):
        assert events.Scalars(f"entropy/{row.name}")[-1].value == pytest.approx(row.layer, abs=1e-6)
    for gate in gates(model):
        drawn = events.Histograms(f"gate/{gate.name}")[-1].histogram_value
        assert (drawn.num, drawn.min, drawn.max) == (len(gate.values), *map(pytest.approx, (gate.least, gate.largest)))


def test_flips_are_counted_from_the_end_of_the_epoch_before(watched: Any) -> None:
    out, weights = watched
    history = Checkpoint.load(out / LAST).history
    events = events_of(out)
    for epoch in range(3):
        before, now = (centred(weights[STEPS * e]) for e in (epoch, epoch + 1))
        turned = {name: int((before[name] != now[name]).sum()) for name in now}
        assert sum(turned.values()) > 0
        for name, count in turned.items():
            assert events.Scalars(f"flips/{name}")[epoch].value == pytest.approx(count / now[name].numel(), rel=1e-6)
        share = sum(turned.values()) / sum(sign.numel() for sign in now.values())
        assert history[epoch]["flips"] == pytest.approx(share, rel=1e-6)
        assert events.Scalars("flips")[epoch].value == pytest.approx(share, rel=1e-6)
    with open(out / "history.csv", newline="", encoding="utf-8") as file:
        assert [float(row["flips"]) for row in csv.DictReader(file)] == [row["flips"] for row in history]


def test_weights_that_stand_still_flip_nothing(few: Split, tmp_path: Path) -> None:
    assert train(QUICK.changed({"lr": 0.0, "epochs": 1}), few, tmp_path, progress=False).history[0]["flips"] == 0


def test_a_network_without_binary_layers_has_no_flips(few: Split, tmp_path: Path) -> None:
    state = train(QUICK.changed({"method": "float", "epochs": 1}), few, tmp_path, progress=False)
    assert "flips" not in state.history[0]
    assert state.signs == {}
    assert not [tag for tag in events_of(tmp_path).Tags()["scalars"] if tag.startswith(("flips", "entropy"))]


@pytest.mark.parametrize("steps", [2, 3, 5, 6, 8])
def test_a_checkpoint_holds_the_signs_that_its_epoch_began_with(
    steps: int, watched: Any, few: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, weights = watched
    with monkeypatch.context() as patch:
        after(steps, stop, patch)
        with pytest.raises(Stop):
            train(QUICK, few, tmp_path, progress=False)
    saved = Checkpoint.load(tmp_path / LAST)
    assert saved.epoch * STEPS + saved.step == steps - 1
    if saved.step or saved.epoch:
        began = centred(weights[STEPS * saved.epoch])
        found = unpacked(saved.signs, began)
        assert all(torch.equal(found[name], sign) for name, sign in began.items())
        assert sum(bits.numel() for bits in saved.signs.values()) * 8 < sum(s.numel() for s in began.values()) + 48
    resumed = train(QUICK, few, tmp_path, resume=True, progress=False)
    expected = Checkpoint.load(out / LAST)
    assert [row["flips"] for row in resumed.history] == [row["flips"] for row in expected.history]
    assert all(torch.equal(resumed.signs[name], bits) for name, bits in expected.signs.items())


def test_an_epoch_whose_first_signs_are_unknown_has_no_flips(
    watched: Any, few: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run goes on from a checkpoint without signs, which was written inside the second epoch."""
    with monkeypatch.context() as patch:
        after(6, stop, patch)
        with pytest.raises(Stop):
            train(QUICK, few, tmp_path, progress=False)
    old = torch.load(tmp_path / LAST, weights_only=True)
    assert old["step"] > 0
    del old["signs"], old["history"][0]["flips"]
    torch.save(old, tmp_path / LAST)
    history = train(QUICK, few, tmp_path, resume=True, progress=False).history
    assert ["flips" in row for row in history] == [False, False, True]
    assert history[2]["flips"] == Checkpoint.load(watched[0] / LAST).history[2]["flips"]
    with open(tmp_path / "history.csv", newline="", encoding="utf-8") as file:
        assert [row["flips"] for row in csv.DictReader(file)] == ["", "", str(history[2]["flips"])]


def test_without_tensorboard_the_history_is_the_same(
    watched: Any, few: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    history = train(QUICK, few, tmp_path, progress=False).history
    expected = Checkpoint.load(watched[0] / LAST).history
    assert [{**row, "seconds": 0} for row in history] == [{**row, "seconds": 0} for row in expected]
    assert not (tmp_path / "tensorboard").exists()


def test_gates_that_are_not_finite_end_the_training_in_one_sentence(
    few: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last step of an epoch spoils a gate: no histogram can be drawn of it."""
    evaluate = Classification.evaluate

    def spoil(self: Classification, model: Any, loader: Any) -> dict[str, float]:
        found = evaluate(self, model, loader)
        model.units[2].gate.data[0] = math.inf
        return found

    monkeypatch.setattr(Classification, "evaluate", spoil)
    with pytest.raises(BbgError, match=r"'units.2.gate' is not finite"):
        train(QUICK, few, tmp_path, progress=False)


def test_packing_keeps_every_sign() -> None:
    torch.manual_seed(0)
    given = {"a": torch.randn(3, 5, 3, 3) > 0, "b": torch.randn(8, 2) > 0, "": torch.ones(1, 1).bool()}
    bits = packed(given)
    assert {name: b.numel() for name, b in bits.items()} == {"a": 17, "b": 2, "": 1}
    found = unpacked({**bits, "left over": bits["a"]}, given)
    assert list(found) == list(given)
    assert all(torch.equal(found[name], sign) for name, sign in given.items())
    strided = {"a": given["a"].to(memory_format=torch.channels_last)}
    assert torch.equal(packed(strided)["a"], bits["a"])
    assert unpacked({}, given) == {}


def test_signs_of_a_network_survive_packing(watched: Any) -> None:
    model = Checkpoint.load(watched[0] / LAST).network()
    now = signs(model)
    assert all(torch.equal(unpacked(packed(now), now)[name], sign) for name, sign in now.items())


@pytest.mark.parametrize("name", ["history.csv", "curves.png", "tensorboard"])
def test_what_is_in_the_way_of_a_file_of_the_run_is_named(name: str, tmp_path: Path) -> None:
    """A folder in the place of a file, and a file in that of TensorBoard's folder."""
    (tmp_path / name).touch() if name == "tensorboard" else (tmp_path / name).mkdir()
    with pytest.raises(BbgError, match=f"{name}'?: cannot be written"):  # noqa: PT012
        open_writer(tmp_path / "tensorboard")
        row = {"epoch": 1, "accuracy": 0.5, "test_accuracy": 0.5}
        write_history([row], tmp_path)


def test_a_history_of_which_some_rows_have_a_figure(tmp_path: Path) -> None:
    row = {"epoch": 1, "loss": 1.0, "accuracy": 0.5, "test_loss": 1.0, "test_accuracy": 0.5}
    write_history([row, {**row, "epoch": 2, "held_out_accuracy": 0.5, "lr": 1e-3, "flips": 0.25}], tmp_path)
    with Image.open(tmp_path / "curves.png") as three:
        width = three.width
    write_history([row, {**row, "epoch": 2, "flips": 0.25}], tmp_path)
    with Image.open(tmp_path / "curves.png") as two:
        assert width == pytest.approx(1.5 * two.width, rel=0.01), "one panel more, that of the learning rate"
    lines = (tmp_path / "history.csv").read_text().splitlines()
    assert [line.split(",")[-1] for line in lines] == ["flips", "", "0.25"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is full")
def test_a_training_goes_on_where_tensorboard_can_write_no_more(
    few: Split,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    wanted = train(QUICK, few, tmp_path / "undisturbed", progress=False)

    def fill() -> None:
        (events,) = (tmp_path / "full" / "tensorboard").glob("events*")
        events.unlink()
        events.symlink_to("/dev/full")

    after(1, fill, monkeypatch)
    found = train(QUICK, few, tmp_path / "full", progress=False)
    assert found.history[-1]["test_accuracy"] == wanted.history[-1]["test_accuracy"]
    assert "nothing more is written for TensorBoard: No space left on device" in caplog.text
    assert "Traceback" not in capfd.readouterr().err
