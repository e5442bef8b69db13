"""Paths that are no files of a sane size: each verb says so at once, and waits for nobody."""

from __future__ import annotations

import json
import os
import struct
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.commands import run

import bbg
from bbg.errors import LONGEST, BbgError, visible
from bbg.graph import Graph, Op
from bbg.graph.file import PackedModel, read, write
from bbg.reading import contents, regular_file

pytestmark = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names here")


def pipe(folder: Path) -> Path:
    os.mkfifo(folder / "pipe")
    return folder / "pipe"


PATHS: dict[str, Callable[[Path], Path]] = {
    "a pipe that nobody writes": pipe,
    "a device without an end": lambda folder: Path("/dev/zero"),
    "a folder": lambda folder: folder,
    "a name of 300 characters": lambda folder: folder / ("x" * 300),
    "a file below a file": lambda folder: Path(__file__) / "x",
    "a link to itself": lambda folder: _link(folder / "loop"),
}
VERBS = {
    "predict an image": ("predict", "{path}"),
    "predict with a model": ("predict", "photo.jpg", "--model", "{path}"),
    "bench": ("bench", "{path}"),
    "inspect": ("inspect", "{path}"),
    "inspect a checkpoint": ("inspect", "--checkpoint", "{path}"),
    "eval": ("eval", "{path}", "--data", "."),
    "convert": ("convert", "{path}", "-o", "out.bbg"),
    "train": ("train", "{path}"),
    "train from weights": ("train", "digits_resnet8", "--init", "{path}"),
    "recipe": ("recipe", "{path}"),
    "plan": ("plan", "{path}", "--budget", "1us", "-o", "out.toml"),
    "zoo add": ("zoo", "add", "{path}", "--name", "other"),
}


def _link(path: Path) -> Path:
    path.symlink_to(path)
    return path


LONG = "x" * 300
STEERING = "\x1b\x07\u202e\x9b"  # terminals obey them
EVIL = "\x1b]0;OWNED\x07\x1b[2J\u202e\x9b cat\n   99.9 %  dog"


@pytest.mark.parametrize(
    "words",
    [
        ("eval", "resnet20-cifar10", "--data", LONG),
        ("eval", "resnet20-cifar10", "--dataset", "folders", "--data", LONG),
        ("train", "cifar10_resnet20", "--data", LONG),
        ("predict", "photo.jpg", "--json", LONG),
        ("zoo", "add", "resnet20-cifar10", "--name", LONG),
        ("train", "digits_resnet8", "--out", LONG),
    ],
)
def test_a_long_name_is_one_sentence(
    words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photo.jpg").write_bytes(bbg.zoo.sample().read_bytes())
    assert run(*words) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_long_name_of_the_zoos_folder_is_one_sentence(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setenv("BBG_ZOO", LONG)
    for words in (("zoo",), ("predict", bbg.zoo.sample())):
        assert run(*words) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "the folder of the added models" in line
        assert line.endswith("set BBG_ZOO to another")


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("case", PATHS)
def test_a_special_file_is_one_sentence(
    case: str, verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    pytest.importorskip("torch")
    place = tmp_path / "place"
    place.mkdir()
    monkeypatch.chdir(place)
    bbg.zoo.sample().read_bytes()
    (place / "photo.jpg").write_bytes(bbg.zoo.sample().read_bytes())
    given = PATHS[case](tmp_path if case != "a folder" else place / "empty")
    if case == "a folder":
        given.mkdir()
    status = run(*(word.format(path=given) for word in VERBS[verb]))
    told = capsys.readouterr().err.splitlines()
    assert status in (1, 2)
    assert len(told) == 1
    assert told[0].startswith("bbg: ")
    assert sorted(path.name for path in place.iterdir() if path != given) == ["photo.jpg"]


def test_a_file_is_read_up_to_what_it_may_have(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"12345")
    assert contents(file, 5) == b"12345"
    assert contents(file, 2**60) == b"12345", "no memory is asked for that"
    assert contents("/proc/self/cmdline", 2**60), "whose size the system does not tell"
    with pytest.raises(OSError, match="has 5 bytes, at most 4 are read"):
        contents(file, 4)
    with pytest.raises(OSError, match="is a pipe or a device"), regular_file("/dev/null"):
        pass
    with pytest.raises(OSError, match="has more than 10 bytes"):
        contents("/proc/self/maps", 10)  # whose size the system does not tell


def test_what_a_stranger_called_something_steers_no_terminal(tmp_path: Path, capsys: Any) -> None:
    assert visible(EVIL) == r"\x1b]0;OWNED\x07\x1b[2J\u202e\x9b cat\n   99.9 %  dog"
    assert str(BbgError(f"no {EVIL}")) == f"no {visible(EVIL)}"
    long = str(BbgError("x" * 10**6))
    assert LONGEST < len(long) < LONGEST + 10
    name = EVIL
    assert run("predict", tmp_path / name) == 1
    photo = tmp_path / f"{name}.jpg"
    photo.write_bytes(bbg.zoo.sample().read_bytes())
    assert run("predict", photo, "--top", "1") == 0
    shown = capsys.readouterr()
    assert not any(c in shown.out + shown.err for c in STEERING)
    assert len(shown.err.splitlines()) == 1
    assert len(shown.out.splitlines()) == 2
    assert np.isfinite(bbg.load("resnet20-cifar10").predict(photo)[0].score)


def test_a_name_steers_no_terminal_by_any_verb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """The names of models, pictures, notes and labels, in tables and in lines."""
    monkeypatch.setenv("BBG_ZOO", str(tmp_path / "zoo"))
    model = tmp_path / f"{EVIL}.bbg"
    network = read(bbg.zoo.path("resnet20-cifar10"))
    turned = "\u202e cat"  # control characters proper are refused
    labels = tuple(f"{turned} {i}" for i in range(10))
    notes: dict[str, str | int | float] = {turned: turned, "network": turned}
    write(model, replace(network, labels=labels, provenance=notes))
    recipe = tmp_path / f"{EVIL}.toml"
    recipe.write_text(f'dataset = "digits"\nnetwork = "resnet8"\nweights = {json.dumps(EVIL)}\n')
    pictures = tmp_path / "pictures" / EVIL
    pictures.mkdir(parents=True)
    (pictures / f"{EVIL}.jpg").write_bytes(bbg.zoo.sample().read_bytes())
    for words in (
        ("inspect", model),
        ("bench", model, "--seconds", "0.01"),
        ("eval", model, "--data", pictures.parent),
        ("predict", pictures, "--model", model),
        ("recipe", recipe),
        ("zoo", "add", model, "--name", "kept"),
    ):
        run(*words)
        shown = capsys.readouterr()
        assert not any(c in shown.out + shown.err for c in STEERING), words


def test_a_long_name_does_not_widen_a_table(tmp_path: Path, capsys: Any) -> None:
    """Each of 12,000 lines was as wide as the name of one op: gigabytes."""
    ops = [Op("n" * 10**6, "pointwise", ("x",), "0")]
    ops += [Op(f"a{i}", "pointwise", (f"{i}",), f"{i + 1}") for i in range(2000)]
    graph = Graph("x", (1, 1, 1), tuple(ops), ()).with_outputs(["2000"])
    write(tmp_path / "wide.bbg", PackedModel(graph, provenance={"k" * 10**6: 1}))
    assert run("inspect", tmp_path / "wide.bbg") == 0
    assert len(capsys.readouterr().out) < 10**6


@pytest.mark.parametrize("end", ["1" + 30 * "0", "-5", "1e308", "1e999", "9223372036854775808", '"x"', "null", "[]"])
def test_odd_offsets_of_a_tensor_are_one_sentence(end: str, tmp_path: Path) -> None:
    header = f'{{"__metadata__":{{"bbg":"{{}}"}},"w":{{"dtype":"F32","shape":[1],"data_offsets":[0,{end}]}}}}'.encode()
    (tmp_path / "odd.bbg").write_bytes(struct.pack("<Q", len(header)) + header)
    with pytest.raises(BbgError):
        read(tmp_path / "odd.bbg")


@pytest.mark.parametrize(
    "header", [b"{", b'{"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}', b"{" + b" " * 9999]
)
def test_a_large_file_of_nothing_is_not_read(header: bytes, tmp_path: Path) -> None:
    file = tmp_path / "junk.bbg"
    with file.open("wb") as to:
        to.write(struct.pack("<Q", len(header)) + header)
        to.truncate(2**31 - 1)
    tracemalloc.start()
    with pytest.raises(BbgError):
        read(file)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 2**20


@pytest.mark.parametrize("length", [0x4B50, 0x14B50, 0x34B50])
def test_a_header_whose_length_is_spelt_pk_is_no_archive(length: int, tmp_path: Path) -> None:
    """So begins a checkpoint, which is a zip archive."""
    network, file = read(bbg.zoo.path("resnet20-cifar10")), tmp_path / "net.bbg"
    filler = 0
    for _ in range(2):
        write(file, replace(network, provenance={"filler": "x" * filler}))
        filler += length - int.from_bytes(file.read_bytes()[:8], "little")
    assert file.read_bytes()[:2] == b"PK"
    for words in (
        ("inspect", file),
        ("predict", bbg.zoo.sample(), "--model", file),
        ("bench", file, "--seconds", "0.01"),
    ):
        assert run(*words) == 0


def test_a_pipe_among_the_pictures_of_a_training_waits_for_nobody(tmp_path: Path, capsys: Any) -> None:
    pytest.importorskip("torch")
    for part in ("train", "test"):
        for name in ("ant", "bee"):
            folder = tmp_path / part / name
            folder.mkdir(parents=True)
            Image.new("RGB", (8, 8), (200, 10, 10)).save(folder / "a.png")
            os.mkfifo(folder / "b.png")
    recipe = tmp_path / "tiny.toml"
    recipe.write_text('dataset = "folders"\nnetwork = "resnet8"\nwidth = 2\nbatch_size = 2\nepochs = 1\nsize = 8\n')
    assert run("train", recipe, "--data", tmp_path, "--out", tmp_path / "run") == 0
    assert run("eval", "resnet20-cifar10", "--dataset", "folders", "--data", tmp_path) in (0, 2)
    assert "Traceback" not in capsys.readouterr().err
