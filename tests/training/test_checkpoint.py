"""Checkpoints: round trip, damage, versions, and writing that never leaves half a file."""

from __future__ import annotations

import errno
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from bbg.errors import BbgError
from bbg.image import Preprocess
from bbg.recipe import Recipe
from bbg.training.checkpoint import Checkpoint, load_weights
from bbg.training.factory import build

torch.set_num_threads(1)

RECIPE = Recipe(dataset="digits", network="resnet8", width=4, act="rprelu")
GREY = Preprocess(8, mode="L", mean=(0.3,), std=(0.4,))


def some_checkpoint() -> Checkpoint:
    torch.manual_seed(0)
    model = build(RECIPE, 3, GREY)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(4, 1, 8, 8)).sum().backward()
    optimizer.step()
    history = [{"epoch": 1, "loss": 2.5, "test_accuracy": 0.1}]
    return Checkpoint(
        RECIPE,
        1,
        7,
        model.state_dict(),
        optimizer.state_dict(),
        ["a", "b", "ç"],
        GREY,
        history,
        {"units.0.conv": torch.tensor([3, 128], dtype=torch.uint8)},
        {"training": {"images": 9, "digest": "0a"}},
    )


def equal(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b) and a.dtype == b.dtype
    if isinstance(a, dict):
        return list(a) == list(b) and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(equal, a, b))
    return type(a) is type(b) and a == b


def test_round_trip(tmp_path: Path) -> None:
    state = some_checkpoint()
    state.save(tmp_path / "a.ckpt")
    loaded = Checkpoint.load(tmp_path / "a.ckpt")
    for name, value in vars(state).items():
        assert equal(getattr(loaded, name), value), name
    assert os.listdir(tmp_path) == ["a.ckpt"]
    x = torch.randn(2, 1, 8, 8)
    model = build(RECIPE, 3, GREY)
    model.load_state_dict(state.model)
    assert torch.equal(loaded.network()(x), model.eval()(x))
    assert not loaded.network().training


def test_the_file_holds_plain_data_only(tmp_path: Path) -> None:
    """The torch version is an object in torch: stored as such, `weights_only` would refuse the whole file."""
    some_checkpoint().save(tmp_path / "a.ckpt")
    state = torch.load(tmp_path / "a.ckpt", weights_only=True)
    assert (state["version"], type(state["torch"]), state["torch"]) == (5, str, str(torch.__version__))
    assert state["recipe"] == RECIPE.to_dict()
    assert state["preprocess"] == GREY.to_json()


OLDER = {  # what the files of older versions do not have
    1: ("signs", "data", "custom", "since", "teacher"),
    2: ("data", "custom", "since", "teacher"),
    3: ("since", "teacher"),
    4: ("teacher",),
}


@pytest.mark.parametrize("version", OLDER)
def test_a_checkpoint_of_an_older_version_stays_readable(tmp_path: Path, version: int) -> None:
    recipe = {k: v for k, v in RECIPE.to_dict().items() if k not in ("task", "factory")}
    absent = dict.fromkeys(OLDER[version])
    state = Checkpoint.load(rewritten(tmp_path / "a.ckpt", version=version, recipe=recipe, **absent))
    assert (state.version, state.recipe, state.history) == (version, RECIPE, some_checkpoint().history)
    assert (state.data, state.custom, state.since) == ({} if version < 3 else some_checkpoint().data, False, 0)
    x = torch.randn(2, 1, 8, 8)
    (rebuilt := build(RECIPE, 3, GREY)).load_state_dict(some_checkpoint().model)
    assert torch.equal(state.network()(x), rebuilt.eval()(x))


def test_a_file_that_would_execute_code_is_refused(tmp_path: Path) -> None:
    witness = tmp_path / "executed"

    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return (os.mkdir, (str(witness),))

    torch.save({"version": 1, "model": Bomb()}, tmp_path / "a.ckpt")
    (tmp_path / "b.ckpt").write_bytes(pickle.dumps(Bomb(), 2))
    for name in ("a.ckpt", "b.ckpt"):
        with pytest.raises(BbgError, match="is damaged or no checkpoint of bbg"):
            Checkpoint.load(tmp_path / name)
    assert not witness.exists()


def test_every_truncation_and_most_damage_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    some_checkpoint().save(path)
    whole = path.read_bytes()
    for end in [0, 1, 2, 10, *range(100, len(whole), len(whole) // 40)]:
        path.write_bytes(whole[:end])
        with pytest.raises(BbgError, match="is damaged or no checkpoint of bbg") as caught:
            Checkpoint.load(path)
        assert "\n" not in str(caught.value)
    generator = torch.Generator().manual_seed(0)
    refused = 0
    for _ in range(60):
        damaged = bytearray(whole)
        for at in torch.randint(0, len(whole), (20,), generator=generator).tolist():
            damaged[at] ^= 0x55
        path.write_bytes(damaged)
        try:
            Checkpoint.load(path)
        except BbgError:
            refused += 1
    assert refused > 5


def rewritten(path: Path, **changes: Any) -> Path:
    some_checkpoint().save(path)
    state = torch.load(path, weights_only=True)
    state.update(changes)
    torch.save({k: v for k, v in state.items() if v is not None}, path)
    return path


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"version": 6}, "has version 6, allowed is 5; update bbg"),
        ({"version": "one"}, "is damaged or no checkpoint of bbg"),
        ({"version": None}, "is damaged or no checkpoint of bbg"),
        ({"model": None}, "is damaged or no checkpoint of bbg"),
        ({"surplus": 1}, "is damaged or no checkpoint of bbg"),
        ({"recipe": {"dataset": "digits", "network": "resnet8", "epoks": 3}}, "unknown recipe key 'epoks'"),
        ({"preprocess": {"size": [8, 8]}}, "preprocess is "),
        *(
            ({name: value}, "is damaged or no checkpoint of bbg")
            for name, values in {
                "classes": (5, "abc", [1, 2, 3], [["a"]] * 3, {"a": 1}),
                "model": (5, [1], {"a": 1}, {1: torch.ones(1)}),
                "optimizer": (5, [1]),
                "epoch": ("x", [1], -1, 1.0, True, torch.ones(3)),
                "step": ("x", -1, torch.ones(3)),
                "since": ("x", -1),
                "history": (
                    5,
                    [5],
                    [{"epoch": "x"}],
                    [{"loss": 1.0}],
                    {"epoch": 1},
                    *([{"epoch": n}] for n in (float("nan"), float("inf"), -1, 2**40)),
                ),
                "signs": (5, {"a": 1}),
                "data": (5, [1]),
                "ranges": (5, "x"),
                "custom": ("x", 1),
                "teacher": (5, ["a"]),
            }.items()
            for value in values
        ),
    ],
)
def test_bad_contents_are_refused(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(BbgError, match=words):
        Checkpoint.load(rewritten(tmp_path / "a.ckpt", **changes))


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BbgError, match=r"cannot read checkpoint .*No such file"):
        Checkpoint.load(tmp_path / "absent")
    with pytest.raises(BbgError, match=r"cannot read checkpoint .*directory"):
        Checkpoint.load(tmp_path)
    torch.save([1, 2], tmp_path / "list")
    with pytest.raises(BbgError, match="is damaged or no checkpoint of bbg"):
        Checkpoint.load(tmp_path / "list")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda s: s.pop("head.weight"), "weights of the checkpoint do not fit this network: 'head.weight' is missing"),
        (lambda s: s.update(extra=torch.zeros(1)), "do not fit this network: 'extra' is left over"),
        (lambda s: s.update({"head.bias": s["head.bias"] + 0j}), "fit this network: 'head.bias' has complex numbers"),
        (lambda s: s.update({"head.bias": torch.zeros(9)}), r"'head.bias' has the shape \[9\], allowed is \[3\]; give"),
    ],
)
def test_weights_that_do_not_fit_are_refused(damage: Any, words: str) -> None:
    state = dict(some_checkpoint().model)
    damage(state)
    with pytest.raises(BbgError, match=words) as caught:
        load_weights(build(RECIPE, 3, GREY), state, "the checkpoint")
    assert "\n" not in str(caught.value)


# Writing


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), RuntimeError("PytorchStreamWriter failed")])
def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    path = tmp_path / "a.ckpt"
    state = some_checkpoint()
    state.save(path)
    before = path.read_bytes()

    def half(value: Any, file: Any) -> None:
        file.write(before[:1000])
        raise error

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(BbgError, match=r"cannot write checkpoint .*; give a writable --out folder"):
        state.save(path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["a.ckpt"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_a_full_disk_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BbgError, match=r"cannot write checkpoint '/dev/full'"):
        some_checkpoint().save(Path("/dev/full"))

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(BbgError, match=r"cannot write checkpoint .*a.ckpt': No space left on device"):
        some_checkpoint().save(tmp_path / "a.ckpt")
    assert os.listdir(tmp_path) == []


def test_a_missing_folder_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(BbgError, match=r"cannot write checkpoint .*No such file"):
        some_checkpoint().save(tmp_path / "no" / "a.ckpt")


def test_build_follows_recipe_and_images() -> None:
    colour = Preprocess(16)
    vgg = build(Recipe(dataset="folders", network="vgg_small", width=4, size=16), 3, colour)
    assert vgg(torch.zeros(2, 3, 16, 16)).shape == (2, 3)
    with pytest.raises(BbgError, match="size is 12, allowed are multiples of 8"):
        build(Recipe(dataset="folders", network="vgg_small"), 3, Preprocess(12))
    with pytest.raises(BbgError, match="unknown network 'resnet9'"):
        build(Recipe(dataset="folders", network="resnet9"), 3, colour)
    with pytest.raises(BbgError, match="network 'resnet20' has no option 'shortcut'; allowed are "):
        build(Recipe(dataset="folders", network="resnet20", shortcut="pool"), 3, colour)
    with pytest.raises(BbgError, match="recipe key 'network' is missing; every recipe names its network or a factory"):
        build(Recipe(dataset="folders"), 3, colour)
