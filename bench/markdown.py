"""Tables and figures as docs/results.md shows them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

Row = Mapping[str, Any]
Column = tuple[str, Callable[[Row], object]]

LEFT_OUT = 2  # columns at the left whose cell stays empty where it repeats the one above


def table(rows: Iterable[Row], *columns: Column) -> str:
    """A Markdown table of `rows`: each column has a heading and the text that it makes of a row."""
    lines = [[heading for heading, _ in columns], ["---"] * len(columns)]
    above: list[str] = []
    for row in rows:
        cells = [str(text(row)) for _, text in columns]
        same = 0
        while same < LEFT_OUT and above[same : same + 1] == cells[same : same + 1]:
            same += 1
        lines.append([""] * same + cells[same:])
        above = cells
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def plain(key: str, heading: str = "") -> Column:
    """A column of what `key` holds, as it is."""
    return heading or key, lambda row: row[key]


def figure(key: str, heading: str = "") -> Column:
    """A column of numbers with three digits or more."""
    return heading or key, lambda row: number(row.get(key))


def part(key: str, heading: str = "") -> Column:
    """A column of shares, in per cent."""
    return heading or key, lambda row: percent(row[key])


MIN, MEDIAN = figure("min_us", "min, us"), figure("median_us", "median")
RATIOS = figure("ratio_of_min", "times bbg, of min"), figure("ratio_of_median", "of median")


def number(value: float | None) -> str:
    """Three digits or more; nothing for None."""
    if value is None:
        return ""
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"


def percent(value: float | None) -> str:
    """A share in per cent; nothing for None."""
    return "" if value is None else f"{100 * value:.0f} %"


def not_measured(absent: Iterable[Row]) -> str:
    """A sentence for each runtime that could not run."""
    return "".join(
        f"\n\nNot measured: {r['runtime']}, {r['precision']} on {r['network']}: {r['reason']}" for r in absent
    )
