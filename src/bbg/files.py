"""Files that appear whole or not at all: the one place that writes bytes, text and JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

from bbg.errors import BbgError


@contextmanager
def whole_file(path: str | os.PathLike[str], draft: str | None = None) -> Iterator[BinaryIO]:
    """A binary file to write, which becomes `path` in one step at the end of the context.

    A link stays, and the file that it leads to is replaced. What is no regular file (a pipe, a device) stays too: it is
    written through, as there is nothing to replace.

    Readers see the older file, which stays until then, or the whole new one: the data is on the disk before the file
    has its name. Where the context raises, `path` stays as it was. Raises OSError where the path cannot be written.

    `draft`: the file's name until then. None: a name that no other writer has. A process that is killed leaves its
    draft behind; one who is often killed gives a name, so that the next draft takes the place of the last.
    """
    target = Path(os.path.realpath(path))
    if target.exists() and not (target.is_file() or target.is_dir()):
        with open(target, "wb") as stream:
            yield cast(BinaryIO, stream)
        return
    name, mode = (f".{target.name}.{os.urandom(4).hex()}", "xb") if draft is None else (draft, "wb")
    temporary = target.with_name(name)
    try:
        with open(temporary, mode) as file:
            yield cast(BinaryIO, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Put `data` at `path` as a `whole_file`. Raises BbgError where the path cannot be written."""
    try:
        with whole_file(path) as file:
            file.write(data)
    except (OSError, ValueError) as error:
        reason = (isinstance(error, OSError) and error.strerror) or error
        raise BbgError(f"{path}: cannot be written ({reason}); choose another path") from error


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Put `text` at `path` in UTF-8, as `write_bytes` does."""
    write_bytes(path, text.encode())


def write_json(report: Mapping[str, Any], file: Path) -> None:
    """Put `report` into `file` as indented JSON, as `write_bytes` does."""
    write_text(file, json.dumps(report, indent=2) + "\n")
