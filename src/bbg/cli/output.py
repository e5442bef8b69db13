"""How a verb reports: one mapping whose lists of rows print as tables, whose other entries print as lines.

`--json FILE` writes that same mapping, so what a program reads is what a person sees; `--json -` prints nothing else.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bbg.files import write_json
from bbg.log import LOGGER
from bbg.tables import cell, heading, terminal

STDOUT = Path("-")


def tell(report: Mapping[str, Any], file: Path | None = None) -> None:
    """`show` for a verb whose result is a file: what is said about it is left out with --quiet, but for a warning."""
    if file == STDOUT or LOGGER.isEnabledFor(logging.INFO):
        show(report, file)
        return
    if "warning" in report:
        LOGGER.warning("%s", report["warning"])
    if file is not None:
        write_json(report, file)


def show(report: Mapping[str, Any], file: Path | None = None) -> None:
    """Print `report`, and write it to `file` as JSON where one is given."""
    if file == STDOUT:
        print(json.dumps(report, indent=2))
        return
    for key, value in report.items():
        if isinstance(value, list):
            print(f"{heading(key)}\n{terminal(value, bold=sys.stdout.isatty())}\n")
        else:
            print(f"{heading(key)}: {cell(value)}")
    if file is not None:
        write_json(report, file)
