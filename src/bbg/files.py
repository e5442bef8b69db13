"""Files that appear whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bbg.errors import BbgError


def write_json(report: Mapping[str, Any], file: Path) -> None:
    """`report` as JSON into `file`; BbgError where it cannot be written, and what was there stays."""
    draft = file.with_name(f".{file.name}.{os.urandom(4).hex()}")
    try:
        draft.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        os.replace(draft, file)
    except OSError as error:
        raise BbgError(f"cannot write {str(file)!r}: {error.strerror}; give a --json file elsewhere") from error
    finally:
        draft.unlink(missing_ok=True)
