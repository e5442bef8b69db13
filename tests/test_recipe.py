"""Recipes: every file of the house, and every kind of mistake."""

from __future__ import annotations

import json
import tomllib
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from support.paths import ROOT

from bbg.errors import BbgError
from bbg.recipe import Recipe, keys_of_recipes, recipe_names

FILES = sorted((ROOT / "src" / "bbg" / "recipes").glob("*.toml"))
LEAST = {"dataset": "digits", "network": "resnet8"}


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_every_recipe_loads_and_builds(path: Path) -> None:
    from bbg.data import DATASETS
    from bbg.image import Preprocess
    from bbg.training.factory import build

    recipe = Recipe.load(path)
    assert recipe.dataset in DATASETS
    assert path.stem.startswith(f"{recipe.dataset}_{recipe.network}")
    own = Preprocess.of("imagenet" if recipe.dataset in ("folders", "voc") else recipe.dataset)
    sides = recipe.sides()
    build(recipe, 10, own if sides is None else Preprocess(sides, None, own.mode, own.mean, own.std))


def test_there_are_recipes() -> None:
    assert {p.stem for p in FILES} >= {"cifar10_resnet20", "cifar10_vgg_small", "digits_resnet8"}
    assert recipe_names() == [p.stem for p in FILES]


def test_recipes_are_found_by_name_or_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for path in FILES:
        assert Recipe.find(path.stem) == Recipe.find(path) == Recipe.find(str(path)) == Recipe.load(path)
    own = tmp_path / "own.toml"
    own.write_text('dataset = "digits"\nnetwork = "resnet8"\nseed = 7')
    assert Recipe.find("own.toml").seed == 7
    with pytest.raises(
        BbgError, match=r"no recipe 'cifar10'; give the path of a TOML file or one of .*cifar10_resnet20,"
    ):
        Recipe.find("cifar10")
    with pytest.raises(BbgError, match=r"cannot read recipe 'absent.toml'"):
        Recipe.find("absent.toml")


def test_dict_and_file_round_trip(tmp_path: Path) -> None:
    recipe = Recipe(dataset="cifar10", network="resnet20", act="rprelu", width=8, lr=0.25, compile=True)
    assert Recipe.from_dict(recipe.to_dict()) == recipe
    path = tmp_path / "r.toml"
    lines = [f"{key} = {json.dumps(value)}" for key, value in recipe.to_dict().items() if value is not None]
    path.write_text("\n".join(lines))
    assert Recipe.load(path) == recipe


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("lr", "1e-3", 1e-3),
        ("lr", "1", 1.0),  # an integer stands for a float
        ("real_lr", "1", 1.0),
        ("epochs", "12", 12),
        ("compile", "true", True),
        ("flip", "false", False),
        ("method", "bbg-plain", "bbg-plain"),
        ("act", "rprelu", "rprelu"),
        ("act", '"prelu"', "prelu"),
        ("width", "8", 8),
        ("size", "224", 224),
        ("size", "224x160", "224x160"),
        ("size", "[224, 160]", [224, 160]),
        ("mean", "measured", "measured"),
    ],
)
def test_changes_from_the_command_line(key: str, text: str, value: Any) -> None:
    changed = Recipe(**LEAST).changed({key: text})
    assert getattr(changed, key) == value
    assert type(getattr(changed, key)) is type(value)
    assert changed.changed({key: value}) == changed


def test_changes_leave_the_recipe_alone() -> None:
    recipe = Recipe(**LEAST)
    assert recipe.changed({"epochs": 3, "lr": "0.5"}) == Recipe(**LEAST, epochs=3, lr=0.5)
    assert recipe == Recipe(**LEAST)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"epoch": 3}, "unknown recipe key 'epoch'; allowed are dataset, network,"),
        ({"epochs": "many"}, "recipe key 'epochs' is 'many', allowed is int"),
        ({"epochs": "3.5"}, "recipe key 'epochs' is 3.5, allowed is int"),
        ({"epochs": True}, "recipe key 'epochs' is True, allowed is int"),
        ({"epochs": "0"}, "recipe key 'epochs' is 0, allowed is 1 or more"),
        ({"lr": "fast"}, "recipe key 'lr' is 'fast', allowed is float"),
        ({"lr": "true"}, "recipe key 'lr' is True, allowed is float"),
        ({"lr": "-0.1"}, "recipe key 'lr' is -0.1, allowed is 0 or more"),
        ({"lr": "nan"}, "recipe key 'lr' is nan"),
        ({"lr": "inf"}, "recipe key 'lr' is inf"),
        ({"compile": "yes"}, "recipe key 'compile' is 'yes', allowed is bool"),
        ({"compile": "1"}, "recipe key 'compile' is 1, allowed is bool"),
        ({"width": "wide"}, r"recipe key 'width' is 'wide', allowed is int \| None"),
        ({"width": 0}, "recipe key 'width' is 0, allowed is 1 or more"),
        ({"act": 3}, r"recipe key 'act' is 3, allowed is str \| None"),
        ({"method": "7"}, "recipe key 'method' is 7, allowed is str"),
        ({"optimizer": "adamw"}, "recipe key 'optimizer' is 'adamw', allowed are adam, sgd"),
        ({"schedule": "step"}, "recipe key 'schedule' is 'step', allowed are onecycle, cosine, linear, constant"),
        ({"precision": "fp16"}, "recipe key 'precision' is 'fp16', allowed are fp32, bf16"),
        ({"warmup": 1.5}, "recipe key 'warmup' is 1.5, allowed is 0 to 1"),
        ({"label_smoothing": -0.1}, "recipe key 'label_smoothing' is -0.1, allowed is 0 to 1"),
        ({"distill": 2}, "recipe key 'distill' is 2.0, allowed is 0 to 1"),
        ({"temperature": 0}, "recipe key 'temperature' is 0.0, allowed is 0.01 to 100"),
        ({"activation_epochs": 30}, "recipe key 'activation_epochs' is 30, allowed are fewer than the 30 epochs"),
        ({"size": 0}, r"recipe key 'size' is 0, allowed are a side from 1 to 65535, \"HxW\" or \[H, W\]"),
        ({"size": "32*32"}, r"recipe key 'size' is '32\*32', allowed are a side"),
        ({"size": "[1, 2, 3]"}, r"recipe key 'size' is \[1, 2, 3\], allowed are a side"),
        ({"size": "[1.5, 2.5]"}, r"recipe key 'size' is \[1.5, 2.5\], allowed is int \| str"),
        ({"resize": -1}, "recipe key 'resize' is -1, allowed is 0 or more"),
        ({"mode": "RGBA"}, "recipe key 'mode' is 'RGBA', allowed are RGB, L"),
        ({"decode": "half"}, "recipe key 'decode' is 'half', allowed are whole, scaled"),
        ({"mean": "guessed"}, "recipe key 'mean' is 'guessed', allowed are a number per channel, or \"measured\""),
        ({"mean": "[0.5]"}, "recipe keys 'mean' and 'std' go together"),
        ({"std": "[0.5]"}, "recipe keys 'mean' and 'std' go together"),
        ({"crop": "center"}, "recipe key 'crop' is 'center', allowed are auto, padded, resized, none"),
        ({"crop_scale": 0}, "recipe key 'crop_scale' is 0.0, allowed is more than 0 to 1"),
        ({"colour": 2}, "recipe key 'colour' is 2.0, allowed is 0 to 1"),
        ({"randaugment": -1}, "recipe key 'randaugment' is -1, allowed is 0 to 100"),
        ({"randaugment": 10**9}, "recipe key 'randaugment' is 1000000000, allowed is 0 to 100"),
        ({"randaugment_magnitude": 31}, "recipe key 'randaugment_magnitude' is 31, allowed is 0 to 30"),
        ({"mixup": -0.2}, "recipe key 'mixup' is -0.2, allowed is 0 or more"),
        ({"teacher": 3}, r"recipe key 'teacher' is 3, allowed is str \| None"),
        ({"seed": 10**20}, "recipe key 'seed' is 100000000000000000000, allowed is 0 or more, below 2\\^62"),
        ({"seed": -1}, "recipe key 'seed' is -1, allowed is 0 or more"),
        ({"lr": "[1, 2]"}, r"recipe key 'lr' is \[1, 2\], allowed is float"),
    ],
)
def test_bad_changes_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(BbgError, match=words):
        Recipe(**LEAST).changed(changes)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b'dataset = "digits"\nnetwork = "resnet8"\nepoks = 3', "unknown recipe key 'epoks'"),
        (b'network = "resnet8"', "recipe key 'dataset' is missing"),
        (b"dataset = digits", "is no TOML"),
        (b'dataset = "digits"\ndataset = "digits"', "is no TOML"),
        ('dataset = "digits"'.encode("utf-16"), "is no text in UTF-8; give a TOML file in this encoding"),
        (b"# caf\xe9", "is no text in UTF-8; give a TOML file in this encoding"),
        (b'dataset = "digits"\nnetwork = "resnet8"\n[lr]\nx = 1', "recipe key 'lr' is {'x': 1}, allowed is float"),
    ],
)
def test_bad_files_are_refused(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "bad.toml"
    path.write_bytes(content)
    with pytest.raises(BbgError, match=words):
        Recipe.load(path)


@pytest.mark.parametrize("name", ["absent.toml", "."])
def test_a_missing_file_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(BbgError, match=r"cannot read recipe .*; give the path of a TOML file"):
        Recipe.load(tmp_path / name)


def test_a_byte_order_mark_is_no_part_of_a_recipe(tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_bytes(b'\xef\xbb\xbfdataset = "digits"\nnetwork = "resnet8"\n')
    assert Recipe.load(tmp_path / "r.toml").network == "resnet8"


@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_is_written_with_all_its_keys_and_read_again(name: str, tmp_path: Path) -> None:
    recipe = Recipe.find(name)
    (tmp_path / "r.toml").write_text(recipe.to_toml())
    assert Recipe.load(tmp_path / "r.toml") == recipe
    assert all(f"{field.name} = " in recipe.to_toml() for field in fields(Recipe))


def test_odd_values_survive_the_file(tmp_path: Path) -> None:
    recipe = Recipe(dataset='quoted "set"', network="b\\c", lr=1e-7, teacher="run/\u00e4.ckpt", compile=True)
    (tmp_path / "r.toml").write_text(recipe.to_toml(), encoding="utf-8")
    assert Recipe.load(tmp_path / "r.toml") == recipe


def test_every_key_says_what_it_means() -> None:
    keys = keys_of_recipes()
    assert [key.key for key in keys] == [field.name for field in fields(Recipe)]
    assert all(key.meaning for key in keys)
    assert {key.key: key.default for key in keys}["batch_size"] == 128


@pytest.mark.parametrize("size", [(24, 32), "24x32", "24 X 32", [24, 32]])
def test_sides_are_height_and_width(size: Any) -> None:
    recipe = Recipe(**LEAST, size=list(size) if isinstance(size, tuple) else size)
    assert recipe.sides() == (24, 32)
    assert Recipe(**LEAST).sides() is None
    assert Recipe(**LEAST, size=9).sides() == (9, 9)


@pytest.mark.parametrize("text", ["lr = " + "[" * 5000, "lr = " + "9" * 5000, "lr = 1\nlr = 2"])
def test_toml_that_no_one_writes_is_one_sentence(text: str, tmp_path: Path) -> None:
    (tmp_path / "odd.toml").write_text(text)
    with pytest.raises(BbgError, match=r"recipe '.*odd.toml' is no TOML: "):
        Recipe.load(tmp_path / "odd.toml")
    with pytest.raises(BbgError, match="recipe key 'lr' is "):
        Recipe("digits", "resnet8").changed({"lr": text.partition("= ")[2]})


def test_text_in_a_recipe_shows_no_control_characters() -> None:
    name = "a\x1b\x9b2J\u202e\x7f \U0001f415 caf\xe9"
    recipe = Recipe(dataset="digits", network="resnet8", weights=name)
    text = recipe.to_toml()
    assert all(c.isprintable() for c in text.replace("\n", ""))
    assert Recipe.from_dict(tomllib.loads(text)).weights == name
