"""Tables: every format holds every value, and no value acts as markup."""

from __future__ import annotations

import csv
import html
import html.parser
import io
import json
import pickle

import pytest
from rich.console import Console

from bbg import tables
from bbg.tables import Shown, cell

ROWS = [
    {"layer": "stem", "weight_bits": 32, "output": (16, 32, 32), "share": 0.123456, "note": None},
    {"layer": "units.0", "weight_bits": None, "output": (16, 4, 4), "share": 2, "note": True},
]
HOSTILE = [
    "[red]x[/red]",
    "[/data]",
    "a|b",
    "<b>&amp;",
    "*x* `y` _z_",
    '"q", c',
    "\x1b[31mred",
    "line\nbreak",
    "日本語",
    "$x$",
    "é",
]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, ""),
        (True, "yes"),
        (1234567, "1,234,567"),
        (0.123456, "0.1235"),
        ((3, 32, 32), "3x32x32"),
        (("first", "last"), "first, last"),
        ((0.5, 0.25, 1), "0.5, 0.25, 1"),
        ("a_b", "a_b"),
    ],
)
def test_cells(value: object, text: str) -> None:
    assert cell(value) == text


def test_columns_of_a_terminal_are_aligned() -> None:
    assert tables.terminal(ROWS).splitlines() == [
        "layer    weight bits  output     share  note",
        "stem              32  16x32x32  0.1235",
        "units.0               16x4x4         2  yes",
    ]
    assert tables.terminal(ROWS, bold=True).splitlines()[0].startswith("\x1b[1mlayer ")


def test_columns_are_aligned_by_what_a_terminal_shows() -> None:
    wide = tables.terminal([{"a": "日本", "b": 1}, {"a": "e\u0301", "b": 2}]).splitlines()
    assert wide == ["a     b", "日本  1", "e\u0301     2"]


def test_markdown() -> None:
    assert tables.markdown(ROWS).splitlines() == [
        "| layer | weight bits | output | share | note |",
        "| --- | ---: | --- | ---: | --- |",
        "| stem | 32 | 16x32x32 | 0.1235 |  |",
        "| units.0 |  | 16x4x4 | 2 | yes |",
    ]


class Cells(html.parser.HTMLParser):
    """The tags, and the text of every cell."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.cells: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.add(tag)
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_data(self, data: str) -> None:
        if self.cells and data.strip():
            self.cells[-1] += data


@pytest.mark.parametrize("text", HOSTILE)
def test_no_value_acts_as_markup(text: str) -> None:
    rows = [{"name": text, "number": 1}]
    shown = tables.terminal(rows).splitlines()
    assert len(shown) == 2
    assert "\x1b" not in shown[1]
    (_, _, line) = tables.markdown(rows).splitlines()
    plain = line.replace("\\\\", "").replace(r"\|", "")
    assert plain.count("|") == 3, "an escaped bar starts no cell"
    assert not any(f"{before}{mark}" in line for mark in "*`<[$" for before in " ab>")
    parser = Cells()
    parser.feed(tables.html(rows))
    assert parser.tags == {"table", "thead", "tbody", "tr", "th", "td"}
    assert parser.cells[2] == text.replace("\x1b", r"\x1b").replace("\n", r"\n")
    assert list(csv.reader(io.StringIO(tables.csv(rows)))) == [["name", "number"], [text, "1"]]
    assert json.loads(tables.json(rows)) == rows


@pytest.mark.parametrize("text", HOSTILE)
def test_a_shown_table_is_text_and_html_and_neither_is_markup(text: str) -> None:
    rows = [{"name": text, "number": 1}]
    shown = Shown(rows, [f"said: {text}"], text)
    assert isinstance(shown, str)
    assert "\x1b" not in shown
    assert shown.splitlines()[1:3] == tables.terminal(rows).splitlines()
    parser = Cells()
    parser.feed(shown._repr_html_())
    assert parser.tags == {"table", "thead", "tbody", "tr", "th", "td", "p"}
    assert html.unescape(shown._repr_html_()).count(text.replace("\x1b", r"\x1b").replace("\n", r"\n")) == 3
    Console(file=(printed := io.StringIO()), width=200).print(shown)
    assert printed.getvalue() == f"{shown}\n"
    again = pickle.loads(pickle.dumps(shown))
    assert (again, again._repr_html_()) == (shown, shown._repr_html_())


def test_programs_read_numbers_in_full() -> None:
    assert tables.csv(ROWS).splitlines()[1] == "stem,32,16x32x32,0.123456,"
    assert json.loads(tables.json(ROWS))[0]["share"] == 0.123456


@pytest.mark.parametrize("render", [tables.terminal, tables.markdown, tables.csv])
def test_no_rows_are_no_text(render: object) -> None:
    assert callable(render)
    assert render([]) == ""


def test_a_row_may_lack_columns() -> None:
    rows = [{"a": 1, "b": "x"}, {"a": 2, "c": 3}]
    assert [line.split() for line in tables.terminal(rows).splitlines()] == [["a", "b", "c"], ["1", "x"], ["2", "3"]]
