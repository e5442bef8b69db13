"""Where the command line writes: links, pipes and devices stay, and names are shown as they are."""

from __future__ import annotations

import json
import os
import signal
import stat
import struct
import subprocess
import sys
import threading
import time
from contextlib import suppress
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from rich.console import Console

import bbg
from bbg import BbgError
from bbg.cli import main
from bbg.cli.output import rows_to, show
from bbg.files import write_text


def test_a_link_stays_and_its_target_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("old")
    (tmp_path / "link").symlink_to("target")
    (tmp_path / "dangling").symlink_to("new")
    for name, target in (("link", "target"), ("dangling", "new")):
        main(["zoo", "--json", str(tmp_path / name)])
        assert (tmp_path / name).is_symlink()
        assert json.loads((tmp_path / target).read_text())["zoo"]


def test_a_link_to_itself_stays_and_is_refused(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("link")
    with pytest.raises(BbgError, match="levels of symbolic links"):
        write_text(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()


def test_a_replaced_file_keeps_its_rights_and_its_owner(tmp_path: Path) -> None:
    path = tmp_path / "private"
    path.touch(0o600)
    with suppress(PermissionError):
        os.chown(path, 1234, 1234)
    before = path.stat()
    write_text(path, "new")
    after = path.stat()
    assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)
    assert path.read_text() == "new"


def test_a_pipe_is_written_through(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append((tmp_path / "pipe").read_text()), daemon=True)
    reader.start()
    main(["zoo", "--json", str(tmp_path / "pipe")])
    reader.join(10)
    assert json.loads(read[0])["zoo"]
    assert (tmp_path / "pipe").is_fifo()


def test_a_device_is_written_through(tmp_path: Path) -> None:
    """A twin of /dev/null where root could lose it, the device itself where nobody can."""
    device = Path(os.devnull)
    with suppress(PermissionError):
        os.mknod(tmp_path / "null", stat.S_IFCHR | 0o666, device.stat().st_rdev)
        device = tmp_path / "null"
    if device == Path(os.devnull) and os.geteuid() == 0:
        pytest.skip("devices cannot be made here, and root could lose the only one")
    write_text(device, "nothing")
    assert device.is_char_device()


OPEN = ["/dev/stdout", "/dev/stderr", "/dev/fd/1", "/proc/self/fd/1", "/dev/fd/{pipe}", "{folder}/link"]


@pytest.mark.parametrize("path", OPEN)
def test_open_files_of_the_process_are_written_through(path: str, tmp_path: Path) -> None:
    """A redirection to a file must not lose that file, and a pipe of the shell, `>(jq .)`, is no name of a file."""
    reader, writer = os.pipe()
    (tmp_path / "link").symlink_to(f"/dev/fd/{writer}")
    name = path.format(pipe=writer, folder=tmp_path)
    if not Path(name).parent.exists():
        pytest.skip(f"there is no {Path(name).parent} here")
    code = f"from bbg.files import write_text as w; print('one'); w({name!r}, 'two\\n'); print('three')"
    with open(tmp_path / "out", "wb") as out:
        subprocess.run([sys.executable, "-c", code], stdout=out, stderr=out, pass_fds=[writer], check=True, timeout=60)
    os.close(writer)
    with open(reader) as pipe:
        piped = pipe.read()
    assert (tmp_path / "out").read_text() + piped == ("one\nthree\ntwo\n" if "{" in path else "one\ntwo\nthree\n")


@pytest.mark.parametrize("path", ["-", "/dev/stdout"])
def test_json_to_the_standard_output_is_nothing_else(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    main(["zoo", "--json", path])
    assert json.loads(capsys.readouterr().out)["zoo"]
    assert not Path("-").exists()


def run(*words: object, **options: Any) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "bbg", *map(str, words)]
    return subprocess.run(command, capture_output=True, check=False, timeout=60, **options)


def test_a_closed_pipe_ends_it_quietly() -> None:
    shell = f"PYTHONUNBUFFERED=1 {sys.executable} -m bbg zoo | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", shell], capture_output=True, check=False, timeout=60)
    assert b"Traceback" not in done.stderr
    assert done.returncode in (0, 141)  # 0 where all was written before the pipe was closed


@pytest.mark.parametrize("words", ["zoo", "zoo --json -", "predict -"])
def test_standard_streams_that_are_closed_are_empty(words: str, tmp_path: Path) -> None:
    shell = f"{sys.executable} -m bbg {words} <&- >&- 2> {tmp_path}/errors"
    assert subprocess.run(["bash", "-c", shell], check=False, timeout=60).returncode == 0
    assert (tmp_path / "errors").read_text() == ""


UNWRITABLE = {"/dev/full": ("wb", b"No space left"), os.devnull: ("rb", b"Bad file descriptor")}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
@pytest.mark.parametrize("words", ["zoo", "zoo --help", "--version", "inspect resnet20-cifar10"])
@pytest.mark.parametrize("device", UNWRITABLE)
def test_an_output_that_cannot_be_written_is_one_sentence(device: str, words: str) -> None:
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    mode, reason = UNWRITABLE[device]
    with open(device, mode) as output:
        command = [sys.executable, "-m", "bbg", *words.split()]
        done = subprocess.run(command, stdout=output, stderr=subprocess.PIPE, check=False, timeout=60, env=buffered)
    assert done.returncode == 2
    assert done.stderr.startswith(b"bbg: cannot write the output: " + reason)
    assert b"Traceback" not in done.stderr


def test_an_input_that_cannot_be_read_is_one_sentence(tmp_path: Path) -> None:
    with open(tmp_path / "x", "wb") as to_write:
        done = run("predict", "-", stdin=to_write)
    assert done.returncode == 2
    assert done.stderr.startswith(b"bbg: the standard input cannot be read (Bad file descriptor)")


@pytest.mark.parametrize("number", ["999", "9" * 20, "\u0663"])
def test_an_open_file_that_is_none_is_one_sentence(number: str) -> None:
    done = run("zoo", "--json", f"/dev/fd/{number}")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert b"cannot be written" in line or b"cannot write" in line


def test_what_libraries_warn_of_is_not_shown_unless_asked_for(tmp_path: Path) -> None:
    """A damaged block of tags, of which Pillow warns."""
    exif = b"Exif\0\0II*\0" + struct.pack("<IHHHII", 8, 1, 0x11A, 5, 1, 10**6)
    Image.new("RGB", (8, 8)).save(tmp_path / "x.jpg", exif=exif)
    assert run("predict", tmp_path / "x.jpg").stderr == b""
    asked = run("predict", tmp_path / "x.jpg", env={**os.environ, "PYTHONWARNINGS": "default"})
    assert b"UserWarning" in asked.stderr


def test_a_name_that_is_no_text_is_printed_all_the_same(tmp_path: Path) -> None:
    name = os.fsencode(tmp_path) + b"/caf\xe9.png"
    try:
        Image.new("RGB", (8, 8)).save(path := os.fsdecode(name), "PNG")
    except OSError:
        pytest.skip("this file system takes text only")
    done = run("predict", path, env={**os.environ, "PYTHONIOENCODING": "utf-8"})
    assert done.returncode == 0, done.stderr
    assert b"caf\\udce9.png" in done.stdout


def test_such_a_name_is_written_too(tmp_path: Path) -> None:
    write_text(tmp_path / "names.csv", "caf\udce9,1\n")
    assert (tmp_path / "names.csv").read_bytes() == b"caf\\udce9,1\n"


def tiny(name: str) -> torch.nn.Module:
    """A network whose first layer has the name."""
    net = torch.nn.Sequential()
    net.add_module(name, torch.nn.Conv2d(3, 8, 3))
    net.add_module("second", torch.nn.Conv2d(8, 8, 3))
    net.add_module("last", torch.nn.Conv2d(8, 2, 3))
    return net


def test_names_are_not_markup(tmp_path: Path) -> None:
    (folder := tmp_path / "e[").mkdir()
    model = bbg.create("resnet8", width=4, num_classes=3)
    odd = torch.nn.Sequential()
    odd.add_module("[bold]x", model)
    report = bbg.convert(odd, folder / "n[b]m[x].bbg", torch.randn(2, 3, 16, 16), edges="int8")
    assert "n[b]m[x].bbg" in str(report)
    Console(file=(shown := StringIO()), width=200).print(report)
    assert "n[b]m[x].bbg" in shown.getvalue()
    assert bbg.binarize(tiny("<b>"), example=torch.randn(2, 3, 8, 8)).report._repr_html_().count("<td>&lt;b&gt;") == 1
    note = {"note": "[/data/x] [bold]"}
    bbg.convert(model, tmp_path / "l.bbg", torch.randn(2, 3, 16, 16), provenance=note)
    done = run("inspect", tmp_path / "l.bbg")
    assert done.returncode == 0
    assert b"[/data/x] [bold]" in done.stdout


def test_json_has_no_numbers_that_json_lacks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = {"a": float("nan"), "rows": [{"b": float("inf"), "c": (1.5, float("-inf"))}], "d": 2}
    show(report, tmp_path / "a.json")
    capsys.readouterr()
    show(report, Path("-"))
    for text in ((tmp_path / "a.json").read_text(), capsys.readouterr().out):
        assert json.loads(text) == {"a": None, "rows": [{"b": None, "c": [1.5, None]}], "d": 2}
        assert "NaN" not in text


@pytest.mark.parametrize("terminal", [True, False])
def test_csv_on_a_terminal_shows_escapes(terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a program reads is the name itself."""
    text = StringIO()
    monkeypatch.setattr(text, "isatty", lambda: terminal, raising=False)
    monkeypatch.setattr(sys, "stdout", text)
    rows_to(text, ["image"])({"image": "a\x1b[2J"})
    assert text.getvalue() == ("image\na\\x1b[2J\n" if terminal else "image\na\x1b[2J\n")


@pytest.mark.parametrize("lines", [b"x\na\0b\n", b"x\na\0b.avi\n"])
@pytest.mark.parametrize("more", [[], ["--json", "out"]])
def test_a_zero_byte_in_a_list_is_one_line(more: list[str], lines: bytes, tmp_path: Path) -> None:
    done = run("predict", "-", *more, input=lines, cwd=tmp_path)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 2
    assert b"Traceback" not in done.stderr


INTERRUPTIBLE = "import signal, sys, time; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
WAITS = {
    "bbg predict": """
from bbg.image import Preprocess
Preprocess.apply = lambda *_: time.sleep(20)
""",
    "images that are read ahead": """
import bbg.cli
from bbg.data.cache import decoded
bbg.cli._run = lambda _: list(decoded(range(100), lambda _: time.sleep(20)))
""",
}


@pytest.mark.parametrize("case", WAITS)
def test_an_interrupt_does_not_wait_for_a_decoder(case: str, tmp_path: Path) -> None:
    code = f"{INTERRUPTIBLE}{WAITS[case]}from bbg.cli import main; print('begun', flush=True); main()"
    files = [str(tmp_path / name) for name in "ab"]
    command = [sys.executable, "-c", code, "predict", *files, "--json", str(tmp_path / "out"), "--threads", "2"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    asked = time.monotonic()
    errors = process.communicate(timeout=10)[1]
    assert time.monotonic() - asked < 1
    assert (process.returncode, errors) == (130, b"bbg: interrupted\n")
    assert list(tmp_path.iterdir()) == []
