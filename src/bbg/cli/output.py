"""How a verb reports: one mapping whose lists of rows print as tables, whose other entries print as lines.

`--json FILE` writes that same mapping, so what a program reads is what a person sees.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bbg.files import write_json


def show(report: Mapping[str, Any], file: Path | None = None) -> None:
    """Print `report`, and write it to `file` as JSON where one is given."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, width=None if sys.stdout.isatty() else 200)  # a pipe must not cut columns
    for key, value in report.items():
        if isinstance(value, list):
            table = Table(title=words(key), title_justify="left", box=None, header_style="bold", pad_edge=False)
            for name in value[0] if value else ():
                numbers = all(type(row[name]) in (int, float, type(None)) for row in value)
                table.add_column(words(name), justify="right" if numbers else "left")
            for row in value:
                table.add_row(*(text(v) for v in row.values()))
            console.print(table, "")
        else:
            console.print(f"{words(key)}: {text(value)}", markup=False, soft_wrap=True)
    if file is not None:
        write_json(report, file)


def words(key: str) -> str:
    """A key as a heading."""
    return key.replace("_", " ")


def text(value: Any) -> str:
    """One cell: integers with separators, other numbers to four digits, shapes as 16x32x32."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "x".join(str(v) for v in value)
    return str(value)
