"""bf16 autocast and torch.compile: what they change in a training, and what they may not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support.kill_train import RECIPE
from support.trainings import Stop, after, bits, first, stop
from torch import Tensor, nn

from bbg.data import Split, open_data
from bbg.training.checkpoint import Checkpoint
from bbg.training.device import warn_of_slow_bf16
from bbg.training.evaluate import logits_of
from bbg.training.folder import LAST
from bbg.training.loop import train

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def few() -> Split:
    digits = open_data("digits", None)
    return digits._replace(train=first(digits.train, 160))


def test_bf16_trains_in_bf16_and_validates_in_float32(
    few: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[bool, set[torch.dtype]] = {True: set(), False: set()}
    forward = nn.Linear.forward

    def noted(self: nn.Linear, x: Tensor) -> Tensor:
        y = forward(self, x)
        seen[self.training].add(y.dtype)
        return y

    monkeypatch.setattr(nn.Linear, "forward", noted)
    state = train(RECIPE.changed({"epochs": 1, "precision": "bf16", "bn_batches": 0}), few, tmp_path, progress=False)
    assert seen == {True: {torch.bfloat16}, False: {torch.float32}}
    assert {t.dtype for t in state.model.values() if t.is_floating_point()} == {torch.float32}
    logits = logits_of(Checkpoint.load(tmp_path / LAST).network(), few.test, few.preprocess)
    right = (logits.argmax(1) == torch.from_numpy(few.test.labels)).double().mean().item()
    assert state.history[-1]["test_accuracy"] == pytest.approx(right)


def test_a_cpu_without_bf16_says_that_it_is_slow(
    few: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    one = RECIPE.changed({"epochs": 1})
    train(one, few, tmp_path / "fp32", progress=False)
    warn_of_slow_bf16(torch.device("cuda"))
    assert caplog.text == ""
    train(one.changed({"precision": "bf16"}), few, tmp_path / "bf16", progress=False)
    assert caplog.text.count("--set precision=fp32") == 1


@pytest.mark.parametrize("change", ["supported", "unknown"])
def test_a_cpu_with_bf16_or_of_which_nothing_is_known_is_silent(
    change: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    answer: Any = (lambda: True) if change == "supported" else None
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", answer)
    warn_of_slow_bf16(torch.device("cpu"))
    assert caplog.text == ""


@pytest.mark.slow
def test_compiled_training_is_the_eager_one_up_to_rounding(few: Split, tmp_path: Path) -> None:
    torch._dynamo.reset()
    one = RECIPE.changed({"epochs": 1, "bn_batches": 0, "method": "float"})
    eager = train(one, few, tmp_path / "eager", progress=False)
    compiled = train(one.changed({"compile": True}), few, tmp_path / "compiled", progress=False)
    for name, tensor in eager.model.items():
        assert torch.allclose(tensor, compiled.model[name], atol=1e-2), name


@pytest.mark.slow
def test_compiled_bf16_training_resumes_with_the_same_bits(
    few: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = RECIPE.changed({"epochs": 2, "compile": True, "precision": "bf16", "checkpoint_steps": 1})
    whole = train(recipe, few, tmp_path / "a", progress=False)
    with monkeypatch.context() as patch:
        after(2, stop, patch)
        with pytest.raises(Stop):
            train(recipe, few, tmp_path / "b", progress=False)
    torch._dynamo.reset()
    assert bits(train(recipe, few, tmp_path / "b", resume=True, progress=False).model) == bits(whole.model)
