"""`bbg shard`: from folders to shards that a training reads, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.commands import contents, refused, run
from support.imagenet import CLASSES, write_imagenet

from bbg.data import open_data


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_imagenet(tmp_path / "set", train=3, val=1)


def test_shards_are_written_and_counted(root: Path, tmp_path: Path, capsys: Any) -> None:
    (root / "train" / CLASSES[0] / "notes.txt").write_text("no image")
    out = tmp_path / "shards"
    assert run("shard", root, "--out", out, "--size", "24K", "--json", tmp_path / "report.json") == 0
    assert "skipped 1 file:" in capsys.readouterr().out
    report = json.loads((tmp_path / "report.json").read_text())
    assert (report["train_images"], report["test_images"], report["classes"]) == (12, 4, 4)
    assert report["train_shards"] == len(list(out.glob("train-*.tar"))) == 4
    assert report["train_bytes"] == sum(path.stat().st_size for path in out.glob("train-*.tar"))
    assert (out / "classes.txt").read_text().split() == list(CLASSES)
    assert open_data("imagenet", out).train.digest() == open_data("imagenet", root).train.digest()
    first = contents(out)
    refused(tmp_path, capsys, "holds something already; give --out a new folder", "shard", root, "--out", out)
    assert run("shard", root, "--out", tmp_path / "again", "--size", "24K", "-q") == 0
    again = contents(tmp_path / "again")
    tars = [name for name in first if name.suffix == ".tar"]
    assert {name.name: first[name] for name in tars} == {
        name.name: data for name, data in again.items() if name.suffix == ".tar"
    }
    assert run("shard", root, "--out", tmp_path / "other", "--size", "24K", "--seed", 1) == 0
    assert contents(tmp_path / "other")[tmp_path / "other" / "train-000000.tar"] != first[out / "train-000000.tar"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--size", "12X"), "'12X' is no size; give bytes, or a number and K, M or G"),
        (("--size", "0"), "is no size"),
        (("--seed", "-1"), "--seed is -1; allowed are integers from 0"),
        (("--dataset", "folders"), "this set has pixels; take --dataset imagenet"),
        (("--dataset", "imagnet"), "did you mean 'imagenet'"),
    ],
)
def test_what_cannot_be_written_is_refused(
    root: Path, tmp_path: Path, capsys: Any, options: tuple[str, ...], words: str
) -> None:
    refused(tmp_path, capsys, words, "shard", root, "--out", tmp_path / "shards", *options)


def test_a_folder_without_images_is_refused(tmp_path: Path, capsys: Any) -> None:
    refused(tmp_path, capsys, "no folder", "shard", tmp_path, "--out", tmp_path / "shards")
    refused(tmp_path, capsys, "no folder", "shard", tmp_path / "absent", "--out", tmp_path / "shards")
