"""Tables: rows of named values as text for a terminal, Markdown, CSV, JSON or HTML.

    rows = [{"layer": "stem", "output": (16, 32, 32), "bytes": 1728}, {"layer": "head", "output": (10,), "bytes": 2600}]
    print(terminal(rows))

    layer  output    bytes
    stem   16x32x32  1,728
    head   10        2,600

A row is a mapping from column to value; the first row names the columns. What a reader sees is rounded and aligned
(`terminal`, `markdown`, `html`), what a program reads is not (`csv`, `json`). Values never act as markup: file names,
layer names and labels come from users, so each format escapes what would have a meaning in it.
"""

from __future__ import annotations

import json as _json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from bbg.errors import shortened, visible

if TYPE_CHECKING:
    from rich.text import Text

Row = Mapping[str, object]

WIDEST = 200  # characters of a cell that a reader sees: each row of a column is as wide as its widest

_MARKDOWN = re.compile(r"([\\`*_\[\]<>|~#!&$])")


def terminal(rows: Sequence[Row], *, bold: bool = False) -> str:
    """Aligned columns, one line per row, no line at the end. `bold`: the headings, by an escape sequence."""
    columns, right = _columns(rows)
    lines = [[heading(c) for c in columns], *([_shown(row.get(c)) for c in columns] for row in rows)]
    widths = [max(_width(line[i]) for line in lines) for i in range(len(columns))]
    padded = [
        "  ".join(_pad(text, width, name in right) for text, width, name in zip(line, widths, columns, strict=True))
        for line in lines
    ]
    text = [line.rstrip() for line in padded]
    if bold and text:
        text[0] = f"\x1b[1m{text[0]}\x1b[0m"
    return "\n".join(text)


def markdown(rows: Sequence[Row]) -> str:
    """A table of GitHub's Markdown, numbers to the right; one line at the end of each row."""
    columns, right = _columns(rows)
    lines = [
        [_MARKDOWN.sub(r"\\\1", heading(c)) for c in columns],
        ["---:" if c in right else "---" for c in columns],
        *([_MARKDOWN.sub(r"\\\1", _shown(row.get(c))) for c in columns] for row in rows),
    ]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines) if columns else ""


def html(rows: Sequence[Row]) -> str:
    """A `<table>` with a head and a body; cells of numbers have the class "number"."""
    from html import escape

    columns, right = _columns(rows)

    def line(tag: str, texts: list[str]) -> str:
        marks = [' class="number"' if c in right else "" for c in columns]
        cells = (f"<{tag}{mark}>{escape(t)}</{tag}>" for mark, t in zip(marks, texts, strict=True))
        return f"<tr>{''.join(cells)}</tr>\n"

    head = line("th", [heading(c) for c in columns])
    body = "".join(line("td", [_shown(row.get(c)) for c in columns]) for row in rows)
    return f"<table>\n<thead>\n{head}</thead>\n<tbody>\n{body}</tbody>\n</table>\n"


class Shown(str):
    """A text that a notebook shows as a table, and that is a plain string in every other respect.

    `above` is the line above the table of `rows`, `lines` stand below it.
    """

    rows: Sequence[Row]
    lines: Sequence[str]
    above: str

    def __new__(cls, rows: Sequence[Row], lines: Sequence[str] = (), above: str = "") -> Shown:
        """The text, for a terminal."""
        first = [visible(above)] if above else []
        made = super().__new__(cls, "\n".join([*first, terminal(rows), *map(visible, lines)]))
        made.rows, made.lines, made.above = rows, lines, above
        return made

    def __getnewargs__(self) -> tuple[Sequence[Row], Sequence[str], str]:  # type: ignore[override]
        return self.rows, self.lines, self.above

    def __rich__(self) -> Text:
        from rich.text import Text

        return Text(self)  # a plain string would be read as rich's markup

    def _repr_html_(self) -> str:
        return paragraphs([self.above] if self.above else []) + html(self.rows) + paragraphs(self.lines)


def paragraphs(lines: Sequence[str]) -> str:
    """Sentences as HTML, each a `<p>`."""
    from html import escape

    return "".join(f"<p>{escape(visible(line))}</p>\n" for line in lines)


def csv(rows: Sequence[Row]) -> str:
    """Comma-separated values (RFC 4180, but lines end in a line feed), the columns' names first; numbers in full."""
    from csv import writer as csv_writer
    from io import StringIO

    columns, _ = _columns(rows)
    file = StringIO()
    if columns:
        writer = csv_writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows([_plain(row.get(c)) for c in columns] for row in rows)
    return file.getvalue()


def json(rows: Sequence[Row]) -> str:
    """A JSON array with one object per row, a line feed at the end."""
    return _json.dumps([dict(row) for row in rows], indent=2) + "\n"


def heading(key: str) -> str:
    """The heading of a column: its name, spaces instead of underscores."""
    return key.replace("_", " ")


def cell(value: object) -> str:
    """A value for a reader: integers with separators, other numbers to four digits, shapes as 16x32x32."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4g}"
    return _plain(value)


def _shown(value: object) -> str:
    return shortened(visible(cell(value)), WIDEST)


def _plain(value: object) -> str:
    """A value for a program: a number in full, a shape as 16x32x32, of other lists their items with commas."""
    if value is None:
        return ""
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ("x" if all(isinstance(v, int) for v in value) else ", ").join(str(v) for v in value)
    return str(value)


def _columns(rows: Sequence[Row]) -> tuple[list[str], set[str]]:
    """The columns, those of all rows, and those that hold numbers alone. A row may lack some."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    return columns, {c for c in columns if all(type(row.get(c)) in (int, float, type(None)) for row in rows)}


def _width(text: str) -> int:
    """How many cells of a terminal `text` takes: East Asian wide characters two, combining marks none."""
    return sum(0 if unicodedata.combining(c) else 1 + (unicodedata.east_asian_width(c) in "WF") for c in text)


def _pad(text: str, width: int, right: bool) -> str:
    blank = " " * (width - _width(text))
    return blank + text if right else text + blank
