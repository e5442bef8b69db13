"""Files that appear whole or not at all: the one place that writes bytes, text and JSON."""

from __future__ import annotations

import json
import math
import os
import re
import stat
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, cast

from bbg.drafts import draft_in, hold
from bbg.errors import BbgError


@contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A binary file to write, which becomes `path` in one step at the end of the context.

    A link stays, and the file that it leads to is replaced, by one of the same owner and rights. What is no regular
    file (a pipe, a device) stays too: it is written through, as there is nothing to replace. So are the open files of
    this process, such as /dev/stdout and /dev/fd/3.

    Readers see the older file, which stays until then, or the whole new one: the data is on the disk before the file
    has its name. Where the context raises, `path` stays as it was. Raises OSError where the path cannot be written.
    What a killed process has half written is removed when another one writes into the folder (bbg.drafts).
    """
    if (number := _descriptor(path)) is not None:
        if sys.stdout is not None:
            sys.stdout.flush()  # what was printed before comes before
        with open(os.dup(number), "wb") as stream:
            yield cast(BinaryIO, stream)
        return
    given, target = Path(path), Path(os.path.realpath(path))
    if os.path.exists(given) and not (os.path.isfile(given) or os.path.isdir(given)):
        with open(given, "wb") as stream:
            yield cast(BinaryIO, stream)
        return
    with draft_in(target.parent) as (draft, file):
        _like(draft, target)
        yield file
        file.flush()
        os.fsync(file.fileno())
        os.replace(draft, target)
        _sync_folder(target.parent)


def _sync_folder(folder: Path) -> None:
    """See to it that the names in `folder` are on the disk, where the system can do that."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold `folder` for this process alone; BbgError where another one holds it.

    The lock is on the folder itself, so it leaves no file, and it ends with the process. Where the file system has no
    locks, nothing is held.
    """
    try:
        import fcntl
    except ImportError:
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        if not hold(descriptor):
            raise BbgError(f"{str(folder)!r} is in use: another process writes into it; wait, or give another")
        yield
    finally:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_UN)  # forked workers have the descriptor too
        os.close(descriptor)


def _descriptor(path: str | os.PathLike[str]) -> int | None:
    """The number of the open file of this process that `path` names; None where it names something else."""
    name = {"/dev/stdout": "/dev/fd/1", "/dev/stderr": "/dev/fd/2"}.get(os.fspath(path), os.fspath(path))
    found = re.fullmatch(r"/(?:dev|proc/self)/fd/([0-9]{1,9})", name)
    return None if found is None else int(found[1])


def _like(new: Path, old: Path) -> None:
    """Give the file `new` the rights of `old`, where there is one, and its owner, as far as that is allowed."""
    with suppress(FileNotFoundError):
        found = old.stat()  # a link to itself is refused here
        with suppress(OSError):
            os.chown(new, found.st_uid, found.st_gid)
        new.chmod(stat.S_IMODE(found.st_mode))


def refuse_overlap(written: Iterable[tuple[str, Path]], read: Iterable[tuple[str, Path]]) -> None:
    """Raise BbgError where two of `written` are one file, or one of them is also `read`: it would be lost.

    Both are pairs of what names a path, such as an option, and the path. Pipes and devices are written through, so
    several may share one.
    """
    inputs = {os.path.realpath(path): name for name, path in read}
    outputs: dict[str, str] = {}
    for name, path in written:
        place = os.path.realpath(path)
        if os.path.exists(place) and not os.path.isfile(place):
            continue
        if other := inputs.get(place) or outputs.get(place):
            raise BbgError(f"{str(path)!r} is both {other} and {name}, and would be lost; give another path")
        outputs[place] = name


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Put `data` at `path` as a `whole_file`. Raises BbgError where the path cannot be written."""
    try:
        with whole_file(path) as file:
            file.write(data)
    except (OSError, ValueError) as error:
        reason = (isinstance(error, OSError) and error.strerror) or error
        raise BbgError(f"{path}: cannot be written ({reason}); choose another path") from error


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Put `text` at `path` in UTF-8, as `write_bytes` does; what is no character, in a name of a file, as `\\udce9`."""
    write_bytes(path, text.encode(errors="backslashreplace"))


def write_json(report: Mapping[str, Any], file: Path) -> None:
    """Put `report` into `file` as `json_text`, as `write_bytes` does."""
    write_text(file, json_text(report))


def json_text(report: Mapping[str, Any]) -> str:
    """`report` as indented JSON. What is no finite number is null: JSON has no others."""

    def plain(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: plain(each) for key, each in value.items()}
        if isinstance(value, (list, tuple)):
            return [plain(each) for each in value]
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return json.dumps(plain(report), indent=2, allow_nan=False) + "\n"
