"""Files that are written: whole, by one writer, and never through what somebody else put in the way."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bbg.errors import BbgError
from bbg.files import locked, whole_file


@pytest.mark.parametrize("draft", [None, "file.tmp"])
@pytest.mark.parametrize("old", [None, b"old"])
def test_a_file_is_whole_or_as_it_was(draft: str | None, old: bytes | None, tmp_path: Path) -> None:
    file = tmp_path / "file"
    if old is not None:
        file.write_bytes(old)

    def half() -> None:
        with whole_file(file, draft) as stream:
            stream.write(b"half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        half()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == ({} if old is None else {"file": old})
    with whole_file(file, draft) as stream:
        stream.write(b"new")
        assert not file.exists() or file.read_bytes() == old
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"file": b"new"}


def test_a_draft_is_not_written_through_a_link(tmp_path: Path) -> None:
    """Whoever may write into a run's folder could have had any file of its owner overwritten."""
    precious = tmp_path / "precious"
    precious.write_bytes(b"precious")
    for put in (lambda path: path.symlink_to(precious), lambda path: os.link(precious, path)):
        put(tmp_path / "file.tmp")
        with whole_file(tmp_path / "file", "file.tmp") as stream:
            stream.write(b"new")
        assert precious.read_bytes() == b"precious"
        assert (tmp_path / "file").read_bytes() == b"new"
        assert not (tmp_path / "file.tmp").exists()


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
