"""Where images come from: every kind of source, in order, and nothing opened before its turn."""

from __future__ import annotations

import os
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bbg.sources import each_below, files_below, find


def names(*sources: object, stdin: bytes = b"") -> list[str]:
    return [name for name, _ in find(map(str, sources), BytesIO(stdin))]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b.JPG", "a.png", "deep/c.webp", ".hidden.png", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def test_files_are_given_as_they_are(folder: Path) -> None:
    assert names("x.jpg", folder / "a.png", "x.jpg") == ["x.jpg", str(folder / "a.png"), "x.jpg"]


def test_a_folder_is_all_images_below_it(folder: Path) -> None:
    assert names(folder) == [str(folder / name) for name in ("a.png", "b.JPG", "deep/c.webp")]


def test_a_pattern_is_what_fits_it(folder: Path) -> None:
    assert names(folder / "*.png") == [str(folder / "a.png")]
    assert names(folder / "**" / "*.webp") == [str(folder / "deep" / "c.webp")]
    assert names(folder / "*.gif") == [str(folder / "*.gif")]  # reading it says that there is none
    (folder / "[odd].png").touch()
    assert names(folder / "[odd].png") == [str(folder / "[odd].png")]


def test_the_standard_input_is_a_list(folder: Path) -> None:
    lines = f"{folder}/a.png\n\n{folder}/deep\r\nBMW.png\n-\n".encode() + b"caf\xe9.png"
    assert names("-", stdin=lines) == [
        str(folder / "a.png"), str(folder / "deep" / "c.webp"), "BMW.png", "caf\udce9.png",
    ]  # fmt: skip


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_a_list_of_an_editor_that_marks_its_encoding(ending: str) -> None:
    assert names("-", stdin=ending.join(["é.png", "b.png", ""]).encode("utf-8-sig")) == ["é.png", "b.png"]


@pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "PPM"])
def test_the_standard_input_may_be_an_image(form: str) -> None:
    buffer = BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 11, 3), dtype=np.uint8)).save(buffer, form)
    assert list(find(["-"], BytesIO(buffer.getvalue()))) == [("-", buffer.getvalue())]
    assert names("-") == []


@pytest.mark.parametrize(
    "sources",
    [["a.png"], ["."], ["*.png", "deep"], ["*.gif"], ["missing.png", "."], ["http://a.b/c.png"], ["-"], [".", "-"], []],
)
@pytest.mark.parametrize("stdin", [b"", b"a.png\ndeep\n\n-\n*.png\nhttp://a.b/c.png", b"\x89PNG of\nlines\n"])
@pytest.mark.parametrize("urls", [False, True])
def test_it_is_known_at_first_how_many_there_are(
    sources: list[str], stdin: bytes, urls: bool, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But for a list in a pipe, which may grow for hours: it is read as it comes."""
    monkeypatch.chdir(folder)
    Path("list.txt").write_bytes(stdin)
    with open("list.txt", "rb") as file:
        found = find(sources, file, urls=urls)
        total = found.total()
        images = list(found)
    assert total == len(images)
    piped = find(sources, BytesIO(stdin), urls=urls)
    assert piped.total() == (None if "-" in sources else total)
    assert str(list(piped)) == str(images)


def by_sorting(folder: Path) -> list[Path]:
    """What `each_below` says, by the means of the library: all paths are listed and then sorted."""
    found, entered, own = [], set(), os.path.realpath(folder)
    for here, inner, names in os.walk(folder, followlinks=True):
        inner[:] = sorted(name for name in inner if not name.startswith("."))
        if (place := os.path.realpath(here)) in entered or own.startswith(os.path.join(place, "")):
            inner.clear()
            continue
        entered.add(place)
        found += [Path(here, name) for name in names if not name.startswith(".")]
    return sorted(path for path in found if path.is_file() or not path.exists())


@pytest.mark.parametrize("seed", range(20))
def test_files_come_one_after_the_other_in_the_order_of_their_paths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """In trees of folders, files, pipes and links of all kinds, some of which lead nowhere or in circles."""
    draws, folders = np.random.default_rng(seed), [tmp_path / "root"]
    folders[0].mkdir()
    for _ in range(60):
        place = folders[draws.integers(len(folders))] / str(
            draws.choice(["a", "a.jpg", "a b", "B", "\udcff", ".c", "z"])
        )
        if os.path.lexists(place):
            continue
        kind = draws.integers(6)
        if kind < 2:
            place.mkdir()
            folders.append(place)
        elif kind < 4:
            place.touch()
        elif kind == 4:
            place.symlink_to([folders[draws.integers(len(folders))], place, tmp_path, "nowhere"][draws.integers(4)])
        else:
            os.mkfifo(place)
    monkeypatch.chdir(tmp_path)
    for root in (folders[0], Path("root"), Path("root/../root")):
        assert list(each_below(root)) == files_below(root) == by_sorting(root)
    monkeypatch.chdir(folders[0])
    assert files_below(Path()) == by_sorting(Path())
    assert files_below(Path("nothing")) == []
