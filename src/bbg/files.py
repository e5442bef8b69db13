"""Files that appear whole or not at all: the one place that writes bytes, text and JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bbg.errors import BbgError


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Put `data` at `path` in one step: readers see the older file, which stays until then, or the whole new one.

    The data is on the disk before the file has its name. Raises BbgError where the path cannot be written.
    """
    try:
        _replace(Path(path), data)
    except (OSError, ValueError) as error:
        reason = (isinstance(error, OSError) and error.strerror) or error
        raise BbgError(f"{path}: cannot be written ({reason}); choose another path") from error


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Put `text` at `path` in UTF-8, as `write_bytes` does."""
    write_bytes(path, text.encode())


def write_json(report: Mapping[str, Any], file: Path) -> None:
    """Put `report` into `file` as indented JSON, as `write_bytes` does."""
    write_text(file, json.dumps(report, indent=2) + "\n")


def _replace(target: Path, data: bytes) -> None:
    draft = target.with_name(f".{target.name}.{os.urandom(4).hex()}")
    try:
        with open(draft, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, target)
    finally:
        draft.unlink(missing_ok=True)
