"""The zoo on the command line: listed, shown, added to from files and from the web, and chosen from by a budget."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from support.commands import contents, refused, run
from support.files import model

import bbg
from bbg.errors import BbgError
from bbg.graph.file import encode, write

SHIPPED = "resnet20-cifar10"
ALL = [SHIPPED, "ssd-light-bccd"]  # in the order of their names


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where added models lie; it is made by the first one."""
    monkeypatch.setenv("BBG_ZOO", str(tmp_path / "data" / "zoo"))
    return tmp_path / "data" / "zoo"


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A packed file."""
    path = tmp_path / "small.bbg"
    write(path, model())
    return path


class Server(BaseHTTPRequestHandler):
    """Serves one packed file, and one that is none."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(encode(model()) if ".bbg" in self.path else b"no model")

    def log_message(self, *words: object) -> None:
        pass


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as served:
        threading.Thread(target=served.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{served.server_port}"
        served.shutdown()


def sha256_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def listed(tmp_path: Path, *words: object) -> Any:
    assert run(*words, "--json", tmp_path / "listed.json") == 0
    return json.loads((tmp_path / "listed.json").read_text())


def test_the_models_are_listed(tmp_path: Path) -> None:
    assert [row["name"] for row in listed(tmp_path, "zoo")["zoo"]] == bbg.zoo.names()


def test_a_card_is_shown(tmp_path: Path, capsys: Any) -> None:
    assert run("zoo", SHIPPED) == 0
    assert capsys.readouterr().out == bbg.zoo.card(SHIPPED)
    refused(tmp_path, capsys, f"did you mean '{SHIPPED}'", "zoo", "resnet20_cifar10")


def test_the_sample_picture_is_what_it_says(tmp_path: Path, capsys: Any) -> None:
    """A drawn ship, which the zoo's network knows from the nine other classes."""
    assert run("zoo", "--sample", tmp_path / "photo.jpg") == 0
    assert capsys.readouterr().out == ""
    assert run("predict", tmp_path / "photo.jpg", "--top", "1") == 0
    assert capsys.readouterr().out.split()[-1] == "ship"


# Added ----------------------------------------------------------------------------------------------------------------


def test_a_file_is_added_with_its_card_and_then_found_by_its_name(small: Path, folder: Path, capsys: Any) -> None:
    small.with_suffix(".md").write_text("# small\n\nfour animals\n")
    assert run("zoo", "add", small) == 0
    assert capsys.readouterr().out == f"added: small\nfile: {folder / 'small.bbg'}\n"
    assert bbg.zoo.names() == [SHIPPED, "small", *ALL[1:]]
    assert bbg.zoo.card("small") == "# small\n\nfour animals\n"
    assert (folder / "small.bbg").read_bytes() == small.read_bytes()
    assert bbg.load("small").labels == model().labels


def test_a_model_without_a_card_says_so(small: Path, folder: Path) -> None:
    assert bbg.zoo.add(small, name="other") == folder / "other.bbg"
    assert "without a card" in bbg.zoo.card("other")


def test_adding_a_model_twice_changes_nothing(small: Path, folder: Path) -> None:
    bbg.zoo.add(small)
    before = contents(folder)
    assert bbg.zoo.add(small, sha256_of(small.read_bytes()).upper()) == folder / "small.bbg"
    assert contents(folder) == before


def test_a_model_of_the_web_is_added_by_its_checksum(server: str, folder: Path) -> None:
    data = encode(model())
    assert bbg.zoo.add(f"{server}/a%20b/far.bbg?raw=1", sha256_of(data)) == folder / "far.bbg"
    assert (folder / "far.bbg").read_bytes() == data


def test_no_added_model_hides_one_that_comes_with_bbg(small: Path, folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / f"{SHIPPED}.bbg").write_bytes(small.read_bytes())
    assert bbg.zoo.path(SHIPPED).parent != folder
    with pytest.raises(BbgError, match=f"has another model called '{SHIPPED}'"):
        bbg.zoo.add(small, name=SHIPPED)


REFUSED = {
    "nothing to add": (["zoo", "add"], "takes a packed file or its address"),
    "a word too many": (["zoo", "add", "{small}", "mine"], "'mine' is one argument too many"),
    "a card and a word": (["zoo", SHIPPED, "all"], "'all' is one argument too many"),
    "a checksum of nothing": (["zoo", SHIPPED, "--sha256", "0" * 64], "are of a model to add"),
    "no file": (["zoo", "add", "{folder}/none.bbg"], "none.bbg: cannot be read"),
    "a folder": (["zoo", "add", "{folder}", "--name", "x"], "cannot be read"),
    "no packed file": (["zoo", "add", "{folder}/note.txt", "--name", "note"], "note.txt: "),
    "another checksum": (["zoo", "add", "{small}", "--sha256", "0" * 64], f"not {'0' * 64}"),
    "half a checksum": (["zoo", "add", "{small}", "--sha256", "0" * 32], "has 64 hexadecimal digits"),
    "a name with a folder": (["zoo", "add", "{small}", "--name", "../up"], "cannot be called '../up'"),
    "a hidden name": (["zoo", "add", "{small}", "--name", ".small"], "cannot be called '.small'"),
    "a long name": (["zoo", "add", "{small}", "--name", "x" * 101], "100 at most"),
    "the web without a checksum": (["zoo", "add", "{server}/far.bbg"], "needs its SHA-256"),
    "the web with another": (["zoo", "add", "{server}/far.bbg", "--sha256", "1" * 64], "ask whoever publishes it"),
    "no model of the web": (
        ["zoo", "add", "{server}/far", "--sha256", sha256_of(b"no model")],
        "/far: ",
    ),
    "half an address": (["zoo", "add", "http://[x/net.bbg", "--sha256", "0" * 64], "is no address"),
    "another scheme": (["zoo", "add", "file:///small.bbg", "--sha256", "0" * 64], "the scheme is 'file'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_added_is_one_sentence(case: str, small: Path, server: str, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "note.txt").write_text("a note")
    words, told = REFUSED[case]
    refused(tmp_path, capsys, told, *(word.format(small=small, folder=tmp_path, server=server) for word in words))


def test_another_model_of_the_same_name_is_refused(small: Path, tmp_path: Path, capsys: Any) -> None:
    bbg.zoo.add(small)
    refused(tmp_path, capsys, "give this one another name", "zoo", "add", bbg.zoo.path(SHIPPED), "--name", "small")


def test_a_damaged_model_does_not_hide_the_others(small: Path, folder: Path, tmp_path: Path, capsys: Any) -> None:
    bbg.zoo.add(small)
    (folder / "small.bbg").write_bytes(small.read_bytes()[:-8])
    rows = {row["name"]: row for row in listed(tmp_path, "zoo")["zoo"]}
    assert rows["small"]["accuracy"] is None
    assert rows[SHIPPED]["accuracy"] > 0.5
    assert "small.bbg" in capsys.readouterr().err


# Chosen ---------------------------------------------------------------------------------------------------------------


def test_a_budget_lists_the_models_that_fit(small: Path, tmp_path: Path) -> None:
    bbg.zoo.add(small)
    sizes = {name: bbg.zoo.path(name).stat().st_size for name in bbg.zoo.names()}
    quick = ("bench", "--seconds", "0.02")
    every = listed(tmp_path, *quick, "--budget", "10s")["fit"]
    assert sorted(row["name"] for row in every) == sorted(sizes)
    assert {row["name"]: row["bytes"] for row in every} == sizes
    assert all(0 < row["min_us"] < 1e7 for row in every)
    light = listed(tmp_path, *quick, "--bytes", f"{sizes['small']}B")["fit"]
    assert [row["name"] for row in light] == ["small"]
    assert listed(tmp_path, *quick, "--budget", "10s", "--bytes", f"{sizes['small'] - 1}B")["fit"] == []
    assert listed(tmp_path, *quick, "--budget", "0.001us")["fit"] == []


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "bench takes a model, or --budget or --bytes"),
        ([SHIPPED, "--budget", "1ms"], "give one of them"),
        (["--budget", "fast"], "the budget is 'fast', allowed are a time or bytes"),
        (["--bytes", "0kB"], "the budget is '0kB'"),
        (["--bytes", "200us"], "--bytes got '200us', a time"),
        (["--budget", "100kB"], "--budget got '100kB', a size"),
    ],
)
def test_bad_budgets(words: list[str], told: str, tmp_path: Path, capsys: Any) -> None:
    refused(tmp_path, capsys, told, "bench", *words)


@pytest.mark.parametrize("directory", [False, True])
def test_nothing_in_the_current_folder_takes_the_place_of_a_model(
    directory: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    planted = tmp_path / SHIPPED
    if directory:
        planted.mkdir()
    else:
        write(planted, model())
    assert bbg.load(SHIPPED).input_shape == (3, 32, 32)
    if not directory:
        for path in (f"./{SHIPPED}", Path(SHIPPED)):
            assert bbg.load(path).input_shape == model().graph.input_shape != (3, 32, 32)
        timed = listed(tmp_path, "bench", f"./{SHIPPED}", "--seconds", "0.01")
        assert [row["layer"] for row in timed["layers"]] == [op.name for op in model().graph.ops]


def test_files_are_read_where_there_is_no_home(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("BBG_ZOO", "XDG_DATA_HOME", "HOME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr("pwd.getpwuid", lambda number: {}[number])
    assert bbg.load(small).labels == model().labels
    assert SHIPPED in bbg.zoo.names()


def test_what_a_stranger_notes_costs_no_list_and_no_time(
    small: Path, folder: Path, tmp_path: Path, capsys: Any
) -> None:
    write(small, replace(model(), provenance={"accuracy": "91 %", "network": "resnet20", "width": "wide"}))
    bbg.zoo.add(small)
    (folder / "torn.bbg").write_bytes(small.read_bytes()[:-8])
    found = listed(tmp_path, "bench", "--seconds", "0.01", "--budget", "10s")["fit"]
    assert {row["name"] for row in found} == {*ALL, "small"}
    assert "torn.bbg" in capsys.readouterr().err
    for notes in (
        {"network": "my net"},
        {"network": "resnet20", "width": "wide"},
        {"network": "resnet8", "width": 1e9},
        {"network": "resnet34", "width": 1024},
        {"network": "vgg_small", "width": 1024},
        {"network": "bbgnet_xs", "width": 1000},
    ):
        write(small, replace(model(), provenance=notes))
        report = listed(tmp_path, "bench", small, "--seconds", "0.01")
        assert [side["runs_as"] for side in report["whole_network"]] == ["packed, bbg"]


def test_a_model_does_not_inherit_the_card_of_another(small: Path, folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "small.md").write_text("# another model")
    bbg.zoo.add(small)
    assert "without a card" in bbg.zoo.card("small")
    (folder / "small.md").write_bytes(b"caf\xe9")
    assert bbg.zoo.card("small") == "caf\ufffd"


ODD = {
    "a folder": lambda path: path.mkdir(),
    "a link that leads nowhere": lambda path: path.symlink_to("nowhere"),
    "a pipe": lambda path: os.mkfifo(path),
}


@pytest.mark.parametrize("case", ODD)
def test_what_is_no_file_is_no_model(case: str, folder: Path, small: Path) -> None:
    folder.mkdir(parents=True)
    ODD[case](folder / "odd.bbg")
    assert bbg.zoo.names() == ALL
    with pytest.raises(BbgError, match="unknown model 'odd'"):
        bbg.zoo.card("odd")
    with pytest.raises(BbgError, match=r"odd\.bbg: is no file; move it away, or give another name"):
        bbg.zoo.add(small, name="odd")
    assert list(folder.iterdir()) == [folder / "odd.bbg"]


@pytest.mark.parametrize("case", ["a folder", "a link that leads nowhere"])
def test_a_card_that_is_no_file_is_none(case: str, folder: Path, small: Path) -> None:
    bbg.zoo.add(small)
    ODD[case](folder / "small.md")
    assert "was added without a card" in bbg.zoo.card("small")
