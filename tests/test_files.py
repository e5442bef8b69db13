"""Files that are written: whole, by one writer, and never through what somebody else put in the way."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bbg.drafts import SUFFIX
from bbg.errors import BbgError
from bbg.files import locked, whole_file


@pytest.mark.parametrize("name", ["file", "n" * 255])
@pytest.mark.parametrize("old", [None, b"old"])
def test_a_file_is_whole_or_as_it_was(name: str, old: bytes | None, tmp_path: Path) -> None:
    file = tmp_path / name
    if old is not None:
        file.write_bytes(old)

    def half() -> None:
        with whole_file(file) as stream:
            stream.write(b"half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        half()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == ({} if old is None else {name: old})
    with whole_file(file) as stream:
        stream.write(b"new")
        assert not file.exists() or file.read_bytes() == old
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {name: b"new"}


def test_a_draft_is_not_written_through_a_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever may write into a run's folder could have had any file of its owner overwritten."""
    precious, names = tmp_path / "precious", iter([bytes(4), b"abcd"] * 2)
    precious.write_bytes(b"precious")
    monkeypatch.setattr("bbg.drafts.os.urandom", lambda count: next(names))
    for put in (lambda path: path.symlink_to(precious), lambda path: os.link(precious, path)):
        put(tmp_path / f".00000000{SUFFIX}")
        with whole_file(tmp_path / "file") as stream:
            stream.write(b"new")
        assert precious.read_bytes() == b"precious"
        assert (tmp_path / "file").read_bytes() == b"new"
        (tmp_path / f".00000000{SUFFIX}").unlink()


def test_drafts_that_nobody_holds_are_removed(tmp_path: Path) -> None:
    """By the next process that writes into the folder, and not those of a process that lives."""
    code = f"""
import sys
from bbg.files import whole_file
with whole_file({str(tmp_path / "file")!r}) as file:
    file.write(b"half")
    file.flush()
    print("writing", flush=True)
    sys.stdin.readline()
"""
    command = [sys.executable, "-c", code]
    write = [sys.executable, "-c", f"from bbg.files import write_bytes; write_bytes({str(tmp_path / 'other')!r}, b'1')"]
    others = {f"config{SUFFIX}": b"", ".0123abcd": b"1", "file.tmp": b"2"}
    os.mkfifo(tmp_path / f".pipe{SUFFIX}") if hasattr(os, "mkfifo") else None
    for name, content in others.items():
        (tmp_path / name).write_bytes(content)

    def begin() -> subprocess.Popen[str]:
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    with begin() as killed, begin() as living:
        for process in (killed, living):
            assert process.stdout is not None
            assert process.stdout.readline() == "writing\n"
        assert len(list(tmp_path.glob(f".????????{SUFFIX}"))) == 2
        killed.kill()
        killed.wait()
        subprocess.run(write, check=True, timeout=60)
        assert len(list(tmp_path.glob(f".????????{SUFFIX}"))) == 1
        living.communicate("\n", timeout=60)
        assert living.returncode == 0
    assert (tmp_path / "file").read_bytes() == b"half"
    assert not list(tmp_path.glob(f".????????{SUFFIX}"))
    assert {*others, f".pipe{SUFFIX}"} <= {path.name for path in tmp_path.iterdir()}


@pytest.mark.skipif(sys.platform == "win32", reason="no locks of this kind")
def test_a_folder_has_one_holder_until_its_process_ends(tmp_path: Path) -> None:
    code = f"""
import sys, time
from pathlib import Path
from bbg.files import locked
with locked(Path({str(tmp_path)!r})):
    print("held", flush=True)
    time.sleep(60)
"""
    with locked(tmp_path), pytest.raises(BbgError, match="is in use: another process"), locked(tmp_path):
        pass
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(BbgError, match="is in use"), locked(tmp_path):
            pass
        holder.kill()
        holder.wait()
        with locked(tmp_path):
            pass
    assert list(tmp_path.iterdir()) == []
