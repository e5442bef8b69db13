"""How a verb reports: one mapping whose lists of rows print as tables, whose other entries print as lines.

`--json FILE` writes that same mapping, so what a program reads is what a person sees; `--json -` prints nothing else.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
from typing import Any, TextIO

from bbg.cli.parser import STDOUT
from bbg.errors import BbgError, visible
from bbg.files import json_text, whole_file, write_json
from bbg.log import LOGGER, track
from bbg.tables import cell, heading, terminal


def tell(report: Mapping[str, Any], file: Path | None = None) -> None:
    """`show` for a verb whose result is a file: what is said about it is left out with --quiet, but for a warning."""
    if file == STDOUT or LOGGER.isEnabledFor(logging.INFO):
        show(report, file)
        return
    if "warning" in report:
        LOGGER.warning("%s", report["warning"])
    if file is not None:
        write_json(report, file)


def show(report: Mapping[str, Any], file: Path | None = None, printed: Mapping[str, Any] | None = None) -> None:
    """Print `report`, or `printed` in its place, and write `report` to `file` as JSON where one is given."""
    if file == STDOUT:
        print(json_text(report), end="")
        return
    for key, value in (report if printed is None else printed).items():
        if isinstance(value, list):
            print(f"{heading(key)}\n{terminal(value, bold=sys.stdout.isatty())}\n")
        else:
            print(f"{heading(key)}: {visible(cell(value))}")
    if file is not None:
        write_json(report, file)


@contextmanager
def lines(file: Path | None) -> Iterator[TextIO | None]:
    """A file of text that is written line by line, or the standard output; None for none."""
    if file is None or file == STDOUT:
        yield None if file is None else sys.stdout
        return
    try:
        with whole_file(file) as raw:
            text = TextIOWrapper(raw, encoding="utf-8", errors="backslashreplace", newline="", write_through=True)
            yield text
            text.flush()
            text.detach()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise BbgError(f"{str(file)!r}: cannot be written ({error.strerror}); choose another path") from error


def rows_to(file: TextIO, columns: Sequence[str]) -> Callable[[Mapping[str, Any]], None]:
    """A function that writes a row of `columns` to `file` as CSV, None as an empty cell; the heading is written now.

    On a terminal the control characters of names are escapes; a file or a pipe gets names as they are.
    """
    from csv import DictWriter

    table = DictWriter(file, columns, lineterminator="\n")
    table.writeheader()
    seen = file is sys.stdout and sys.stdout.isatty()

    def write(row: Mapping[str, Any]) -> None:
        table.writerow({k: visible(v) if seen and isinstance(v, str) else v for k, v in row.items()})
        if file is sys.stdout:
            file.flush()

    return write


def make_folder(path: Path) -> None:
    """Make a folder where it is missing; BbgError where that cannot be."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BbgError(f"cannot make folder {str(path)!r}: {error.strerror}; give a writable --out folder") from error


def collect(
    scores: Iterable[Any],
    images: int,
    add: Callable[[Any], None],
    csv: Path | None,
    columns: Sequence[str],
    row_of: Callable[[Any], Mapping[str, Any]],
) -> None:
    """Give each of the scores of so many `images` to `add`, under a bar, and its row to `csv` where one is given."""
    with lines(csv) as csv_file:
        write = None if csv_file is None else rows_to(csv_file, columns)
        for score in track(scores, "evaluating", images):
            add(score)
            if write is not None:
                write(row_of(score))
