"""Weights from elsewhere: by name and shape, a new head, and never a network that silently got none."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from support.commands import run
from support.trainings import bits, first
from torch import Tensor, nn

import bbg
from bbg.data import Split, open_data
from bbg.errors import BbgError
from bbg.recipe import Recipe
from bbg.training.loop import LAST, train
from bbg.training.transfer import Weights

torch.set_num_threads(1)

RECIPE = Recipe(dataset="digits", network="resnet8", width=4, act="rprelu", epochs=1, batch_size=32, lr=0.0)


def network(classes: int = 10, method: str = "bbg", seed: int = 1, **options: Any) -> nn.Module:
    torch.manual_seed(seed)
    return bbg.create("resnet8", method, num_classes=classes, in_channels=1, width=4, **options)


@pytest.fixture(scope="module")
def digits() -> Split:
    whole = open_data("digits", None)
    return Split(first(whole.train, 64), first(whole.test, 32))


FORMS: dict[str, Callable[[dict[str, Tensor], Path], None]] = {
    "a state dict": torch.save,
    "under state_dict": lambda s, p: torch.save({"epoch": 3, "optimizer": {"state": {}}, "state_dict": s}, p),
    "under model": lambda s, p: torch.save({"model": s, "args": {"lr": 0.1}}, p),
    "under a key of one's own": lambda s, p: torch.save({"mine": s}, p),
    "of DataParallel": lambda s, p: torch.save({f"module.{k}": v for k, v in s.items()}, p),
    "of a compiled module in DataParallel": lambda s, p: torch.save(
        {f"module._orig_mod.{k}": v for k, v in s.items()}, p
    ),
    "of Lightning": lambda s, p: torch.save(
        {"state_dict": {**{f"model.{k}": v for k, v in s.items()}, "loss.weight": torch.ones(3)}}, p
    ),
    "safetensors": lambda s, p: save_file({k: v.contiguous() for k, v in s.items()}, p),
    "in the old form": lambda s, p: torch.save(s, p, _use_new_zipfile_serialization=False),
    "in half precision": lambda s, p: torch.save(
        {k: v.half() if v.is_floating_point() else v for k, v in s.items()}, p
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_state_dict_is_taken_in_every_usual_form(form: str, tmp_path: Path) -> None:
    given, taker = network(seed=1), network(seed=2)
    FORMS[form](given.state_dict(), tmp_path / "w")
    plan = Weights.read(tmp_path / "w").give_to(taker)
    assert plan.new == []
    wanted = given.half().float() if "half" in form else given
    assert bits(taker.state_dict()) == bits(wanted.state_dict())


def test_a_network_in_a_module_of_ones_own_takes_them(tmp_path: Path) -> None:
    torch.save(network(seed=1).state_dict(), tmp_path / "w")
    whole = nn.ModuleDict({"backbone": network(seed=2), "more": nn.Linear(3, 2)})
    plan = Weights.read(tmp_path / "w").give_to(whole)
    assert plan.new == ["more.weight", "more.bias"]
    assert bits(whole["backbone"].state_dict()) == bits(network(seed=1).state_dict())


@pytest.mark.parametrize("method", ["float", "xnor", "bireal", "irnet", "reactnet", "adabin", "bbg"])
@pytest.mark.parametrize("name", ["resnet8", "vgg_small", "resnet18"])
def test_a_float_network_of_bbg_gives_a_binary_one_all_it_has(name: str, method: str) -> None:
    options = {"resnet8": {"width": 4}, "vgg_small": {"width": 8}, "resnet18": {"width": 8}}[name]
    given = bbg.create(name, "float", num_classes=5, **options)
    taker = bbg.create(name, method, num_classes=5, **options)
    if method == "xnor" and name != "vgg_small":  # its shortcut goes around two convolutions: another topology
        with pytest.raises(BbgError, match=r"the network has 'units\.0\.units\.0\.conv\.weight'"):
            Weights("float", given.state_dict()).give_to(taker)
        return
    plan = Weights("float", given.state_dict()).give_to(taker)
    assert not plan.left
    ours = taker.state_dict()
    assert all(torch.equal(ours[key], tensor) for key, tensor in given.state_dict().items())


def test_other_classes_get_a_new_head(digits: Split, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The training keeps its weights (its learning rate is 0), so that they can be compared."""
    old = network(classes=7)
    torch.save(old.state_dict(), tmp_path / "w")
    with caplog.at_level("INFO", "bbg"):
        state = train(RECIPE, digits, tmp_path / "run", init=tmp_path / "w", progress=False)
    fresh = network(seed=RECIPE.seed, act="rprelu")  # as it is without weights
    for name, tensor in state.model.items():
        if "running" in name or name.endswith("num_batches_tracked"):
            continue
        there = old.state_dict().get(name)
        wanted = there if there is not None and there.shape == tensor.shape else fresh.state_dict()[name]
        assert torch.equal(tensor, wanted), name
    told = next(r.getMessage() for r in caplog.records if "tensors taken" in r.getMessage())
    assert "shape [7, 16], the network has [10, 16]" in told
    assert next(line for line in told.splitlines() if "left" in line and line.startswith("head"))
    assert next(line for line in told.splitlines() if "new" in line and line.startswith("units.0.act"))


def test_a_checkpoint_of_other_classes_says_so(digits: Split, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    train(RECIPE, digits, tmp_path / "a", progress=False)
    other = Split(*(half.__class__(**{**vars(half), "classes": tuple("abcdefghij")}) for half in digits))
    with caplog.at_level("INFO", "bbg"):
        state = train(RECIPE, other, tmp_path / "b", init=tmp_path / "a" / LAST, progress=False)
    assert "its head was trained for other classes: 0, 1, 2, 3, 4, ..." in caplog.text
    assert "139 of 139" not in caplog.text
    assert state.classes == list("abcdefghij")


def test_a_recipe_names_the_weights_and_the_option_goes_before(digits: Split, tmp_path: Path) -> None:
    for seed in (1, 2):
        torch.save(network(seed=seed, act="rprelu").state_dict(), tmp_path / str(seed))
    named = RECIPE.changed({"weights": str(tmp_path / "1")})
    head = {seed: network(seed=seed, act="rprelu").state_dict()["head.weight"] for seed in (1, 2)}
    assert torch.equal(train(named, digits, tmp_path / "a", progress=False).model["head.weight"], head[1])
    state = train(named, digits, tmp_path / "b", init=tmp_path / "2", progress=False)
    assert torch.equal(state.model["head.weight"], head[2])
    module = network(seed=3, act="rprelu")
    assert torch.equal(bbg.fit(module, named, digits, progress=False).model["head.weight"], head[1])
    (tmp_path / "1").unlink()  # neither a resumed run nor an evaluation reads them again
    assert train(named, digits, tmp_path / "a", resume=True, progress=False).epoch == 1
    assert run("eval", tmp_path / "a" / LAST) == 0


def broken(state: dict[str, Tensor], value: float) -> dict[str, Tensor]:
    head = state["head.weight"].clone()
    head[0, 0] = value
    return {**state, "head.weight": head}


def packed(state: dict[str, Tensor], path: Path) -> None:
    bbg.convert(network(), path, torch.zeros(1, 1, 8, 8))


REFUSED: dict[str, tuple[Callable[[dict[str, Tensor], Path], Any], str]] = {
    "other names": (
        lambda s, p: torch.save({f"layer{i}.w": v for i, v in enumerate(s.values())}, p),
        "those of another network: none of its tensors fit one by name and shape; the network has 'stem.0.weight', .*"
        "the file 'layer0.w'",
    ),
    "another width": (
        lambda s, p: torch.save(bbg.create("resnet8", num_classes=10, in_channels=1, width=8).state_dict(), p),
        "those of another network: .*the network has",
    ),
    "a small part": (
        lambda s, p: torch.save({k: v for k, v in s.items() if "norm" in k or "gate" in k}, p),
        "of its tensors fit one",
    ),
    "no tensors": (lambda s, p: torch.save({}, p), "holds no state dict: it has nothing"),
    "a list": (lambda s, p: torch.save([1, 2], p), "holds a list, no state dict"),
    "two of one's own": (lambda s, p: torch.save({"a": s, "b": s}, p), "it has 'a', 'b'; allowed are state_dict"),
    "a whole network": (lambda s, p: torch.save(network(), p), r"write one with torch\.save\(net\.state_dict\(\)"),
    "a pickle": (lambda s, p: p.write_bytes(pickle.dumps({"a": print})), "is damaged, or holds more than tensors"),
    "a packed file": (packed, "is a packed file, which holds bits and no weights; give the checkpoint"),
    "half a safetensors file": (
        lambda s, p: (FORMS["safetensors"](s, p), p.write_bytes(p.read_bytes()[:-9])),
        "is damaged, or no safetensors file",
    ),
    "a NaN": (lambda s, p: torch.save(broken(s, float("nan")), p), "'head.weight' holds a NaN or an infinity"),
    "an infinity": (lambda s, p: torch.save(broken(s, float("inf")), p), "'head.weight' holds a NaN or an infinity"),
    "a folder": (lambda s, p: p.mkdir(), "cannot read weights .*directory"),
    "nothing": (lambda s, p: None, "cannot read weights .*No such file"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_gives_no_weights_is_refused(case: str, tmp_path: Path) -> None:
    write, words = REFUSED[case]
    taker = network(seed=2)
    before = bits(taker.state_dict())
    write(network(seed=1).state_dict(), tmp_path / "w")
    with pytest.raises(BbgError, match=words) as caught:
        Weights.read(tmp_path / "w").give_to(taker)
    assert "\n" not in str(caught.value)
    assert bits(taker.state_dict()) == before


def test_no_code_in_a_file_is_run(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.mkdir, (tmp_path / "witness",))

    torch.save({"state_dict": network().state_dict(), "more": Bomb()}, tmp_path / "w")
    with pytest.raises(BbgError, match="holds more than tensors"):
        Weights.read(tmp_path / "w")
    assert not (tmp_path / "witness").exists()


def test_what_is_of_another_kind_is_left_with_its_reason(tmp_path: Path) -> None:
    state = network(seed=1).state_dict()
    odd = {**state, "head.bias": torch.zeros(10, dtype=torch.int64), "note": "a word", "head.extra": torch.zeros(2)}
    plan = Weights("odd", odd).give_to(network(seed=2))
    assert plan.left == {
        "head.bias": "type torch.int64, the network has torch.float32",
        "note": "a str, no tensor",
        "head.extra": "the network has no such name",
    }
    assert plan.new == ["head.bias"]


def test_a_run_starts_with_one_of_both(digits: Split, tmp_path: Path) -> None:
    with pytest.raises(BbgError, match="starts a new run and --resume goes on with an old one"):
        train(RECIPE, digits, tmp_path, init=tmp_path / "w", resume=True, progress=False)
