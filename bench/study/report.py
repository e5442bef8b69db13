"""docs/study.md and its plot, made of the list and the records that are there: `make study-report`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from bbg import style
from bbg.files import write_bytes, write_text
from bench.markdown import number, plain, table
from bench.record import ROOT
from bench.study.rows import LIST, RECORDS, Row, read, record

PAGE, PLOT = ROOT / "docs" / "study.md", "study.svg"

HEAD = """# The study

`make study DATA=DIR` works off [the list of trainings](../bench/study.toml). `make study-report` writes this page of
the [records](../bench/results/study). All trainings are on CIFAR-10 re-encoded as JPEG, quality 75: 50,000 training
images, and 8,000 of the 10,000 test images. "Accuracy" is top-1 over all test images after the last epoch, by torch in
float32. "Packed" is that of the packed file, by the engine; layers that did not learn in 8 bits stay float32 in it. The
recipes are in the list.
"""


def network(row: Row) -> str:
    """The network of a row: its name with its width, or that of its factory."""
    recipe = row.recipe
    if recipe.network is None:
        return str(recipe.factory).rpartition(":")[2]
    return recipe.network + ("" if recipe.width is None else f" w{recipe.width}")


def method(row: Row) -> str:
    """The method of a row; networks of a factory have their own."""
    return row.recipe.method if row.recipe.factory is None else ""


def lines(rows: Sequence[Row], records: Path) -> list[dict[str, Any]]:
    """What is known of each row, in the order of the list; rows without a record have no `accuracy`."""
    result = []
    for row in rows:
        found = record(row, records) or {}
        own = {"tier": row.tier, "network": network(row), "method": method(row), "act": row.recipe.act or ""}
        like = (row.recipe.changed({"seed": 0}).to_dict(), row.start, row.teacher)
        own |= {"seed": row.recipe.seed, "like": str(like)}
        result.append({**found, **own, "name": row.name, "of": row.recipe.epochs, "done": found.get("finished", False)})
    return result


def by_method(finished: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean and spread over seeds of the trainings that differ in nothing else, best first."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for line in finished:
        groups.setdefault(line["like"], []).append(line)
    result = []
    for runs in groups.values():
        found = [run["accuracy"] for run in runs]
        if len(runs) > 1:
            spread = {"seeds": len(runs), "accuracy": mean(found), "spread": stdev(found)}
            result.append({**{key: runs[0][key] for key in ("network", "method", "act", "epochs")}, **spread})
    return sorted(result, key=lambda group: (group["network"], group["epochs"], -group["accuracy"]))


def render(rows: Sequence[Row], records: Path) -> str:
    """The page, without its plot."""
    known = lines(rows, records)
    finished = [line for line in known if line["done"]]
    parts = [HEAD, f"![Accuracy by size, and by epoch]({PLOT})" if finished else "", "## Where it stands"]
    for tier in dict.fromkeys(row.tier for row in rows):
        of_tier = [line for line in known if line["tier"] == tier]
        parts.append(f"Tier {tier}: {sum(line['done'] for line in of_tier)} of {len(of_tier)} trainings are done.")
    columns = (
        plain("network"),
        plain("method"),
        plain("act"),
        plain("epochs"),
        plain("seed"),
        ("accuracy", lambda r: f"{100 * r['accuracy']:.2f} %"),
        ("packed", lambda r: f"{100 * r['packed']['accuracy']:.2f} %"),
        ("kB", lambda r: number(r["packed"]["bytes"] / 1000)),
        ("hours", lambda r: f"{r['seconds'] / 3600:.2f}"),
        ("on", lambda r: "GPU" if r.get("device", "cpu") != "cpu" else f"{r['threads']} threads"),
        ("commit", lambda r: ", ".join(r["commits"])),
        ("record", lambda r: f"[{r['name']}](../bench/results/study/{r['name']}.json)"),
    )
    if finished:
        parts += ["## Trainings", table(finished, *columns)]
    if groups := by_method(finished):
        spread = ("standard deviation", lambda r: f"{100 * r['spread']:.2f} points")
        accuracy = ("mean accuracy", lambda r: f"{100 * r['accuracy']:.2f} %")
        parts += ["## Over seeds", table(groups, *columns[:4], plain("seeds"), accuracy, spread)]
    if waiting := [line for line in known if not line["done"]]:
        reached = ("epochs done", lambda r: f"{r.get('epochs', 0)} of {r['of']}")
        parts += ["## Not done yet", "In the order of the list.", table(waiting, plain("tier"), plain("name"), reached)]
    return "\n\n".join(part.strip() for part in parts if part) + "\n"


def kind(line: dict[str, Any]) -> str:
    """What a line of the plot is called: trainings that differ in their seeds share it."""
    words = [line["network"], line["method"], line["act"] if line["method"] == "float" else ""]
    return f"{' '.join(word for word in words if word)}, {line['epochs']} epochs"


def draw(rows: Sequence[Row], records: Path, file: Path) -> None:
    """Accuracy against the bytes of the packed file, and the curves of the trainings; real-valued ones are squares."""
    finished = [line for line in lines(rows, records) if line["done"]]
    if not finished:
        return
    kinds = {line["name"]: kind(line) for line in finished}
    order = list(dict.fromkeys(kinds.values()))
    with style.applied():
        figure = style.figure(12, 4.8)
        left, right = figure.subplots(1, 2)
        style.axis(left, title="accuracy by size", x="packed file with float32 edges, kB (log)")
        style.axis(right, title="test accuracy by epoch", x="epoch")
        named: set[str] = set()
        for line in finished:
            colour = style.SERIES[order.index(kinds[line["name"]]) % len(style.SERIES)]
            marker = "s" if line["method"] == "float" else "o"
            label = None if kinds[line["name"]] in named else kinds[line["name"]]
            left.plot(line["packed"]["bytes"] / 1000, line["accuracy"], marker, color=colour, markersize=7, label=label)
            tested = [epoch["test_accuracy"] for epoch in line["history"]]
            right.plot(range(1, len(tested) + 1), tested, color=colour, lw=1.6)
            named.add(kinds[line["name"]])
        sizes = [line["packed"]["bytes"] / 1000 for line in finished]
        left.set(xscale="log", xlim=(min(sizes) / 1.5, max(sizes) * 1.5))
        left.margins(y=0.2)
        decades = max(sizes) / min(sizes) > 20  # then labels between the powers of ten would overlap
        left.xaxis.set_major_formatter(lambda kilobytes, _: f"{kilobytes:,g}")
        left.xaxis.set_minor_formatter(lambda kilobytes, _: "" if decades else f"{kilobytes:,g}")
        for axis in (left, right):
            style.percent(axis)
        style.whole_numbers(right)
        figure.legend(loc="outside right upper", fontsize=9)
        title = "The study: CIFAR-10 (JPEG), all test images"
        figure.suptitle(title, x=0.012, ha="left", fontsize=13, fontweight="bold")
        write_bytes(file, style.svg(figure))


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--list", type=Path, default=LIST)
    parser.add_argument("--records", type=Path, default=RECORDS)
    parser.add_argument("--page", type=Path, default=PAGE)
    arguments = parser.parse_args()
    rows = read(arguments.list)
    write_text(arguments.page, render(rows, arguments.records))
    draw(rows, arguments.records, arguments.page.parent / PLOT)


if __name__ == "__main__":
    main()
