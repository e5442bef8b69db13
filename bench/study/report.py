"""docs/study.md and its plot, made of the list and the records that are there: `make study-report`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from bbg.files import write_text
from bench.markdown import number, plain, table
from bench.record import ROOT
from bench.study.rows import LIST, RECORDS, Row, read, record

PAGE, PLOT = ROOT / "docs" / "study.md", "study.svg"

HEAD = """# The study

`make study DATA=DIR` works off [the list of trainings](../bench/study.toml). `make study-report` writes this page of
the [records](../bench/results/study). All trainings are on CIFAR-10 re-encoded as JPEG, quality 75: 50,000 training
images, and 8,000 of the 10,000 test images. "Accuracy" is top-1 over all test images after the last epoch, by torch in
float32. "Packed" is that of the packed file with float32 edges, by the engine. The recipes are in the list.
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
        own = {"tier": row.tier, "network": network(row), "method": method(row), "seed": row.recipe.seed}
        result.append({**found, **own, "name": row.name, "of": row.recipe.epochs, "done": found.get("finished", False)})
    return result


def by_method(finished: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean and spread over seeds of networks, methods and epochs that have more than one seed, best first."""
    groups: dict[tuple[str, str, int], list[dict[str, Any]]] = {}
    for line in finished:
        groups.setdefault((line["network"], line["method"], line["epochs"]), []).append(line)
    result = []
    for (name, by, epochs), runs in groups.items():
        found = [run["accuracy"] for run in runs]
        if len(runs) > 1:
            spread = {"seeds": len(runs), "accuracy": mean(found), "spread": stdev(found)}
            result.append({"network": name, "method": by, "epochs": epochs, **spread})
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
        plain("epochs"),
        plain("seed"),
        ("accuracy", lambda r: f"{100 * r['accuracy']:.2f} %"),
        ("packed", lambda r: f"{100 * r['packed']['accuracy']:.2f} %"),
        ("kB", lambda r: number(r["packed"]["bytes"] / 1000)),
        ("hours", lambda r: f"{r['seconds'] / 3600:.2f}"),
        ("threads", lambda r: r["threads"]),
        ("commit", lambda r: ", ".join(r["commits"])),
        ("record", lambda r: f"[{r['name']}](../bench/results/study/{r['name']}.json)"),
    )
    if finished:
        parts += ["## Trainings", table(finished, *columns)]
    if groups := by_method(finished):
        spread = ("standard deviation", lambda r: f"{100 * r['spread']:.2f} points")
        accuracy = ("mean accuracy", lambda r: f"{100 * r['accuracy']:.2f} %")
        parts += ["## Over seeds", table(groups, *columns[:3], plain("seeds"), accuracy, spread)]
    if waiting := [line for line in known if not line["done"]]:
        reached = ("epochs done", lambda r: f"{r.get('epochs', 0)} of {r['of']}")
        parts += ["## Not done yet", "In the order of the list.", table(waiting, plain("tier"), plain("name"), reached)]
    return "\n\n".join(part.strip() for part in parts if part) + "\n"


def draw(rows: Sequence[Row], records: Path, file: Path) -> None:
    """Accuracy against the bytes of the packed file, and the curves of the trainings."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    finished = [line for line in lines(rows, records) if line["done"]]
    if not finished:
        return
    figure = Figure(figsize=(12, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    labels = {line["name"]: f"{line['network']} {line['method']}, {line['epochs']} epochs".strip() for line in finished}
    colours = {label: f"C{i % 10}" for i, label in enumerate(dict.fromkeys(labels.values()))}
    named: set[str] = set()
    for line in finished:
        label, kilobytes = labels[line["name"]], line["packed"]["bytes"] / 1000
        kind = {"color": colours[label], "label": None if label in named else label}
        left.plot(kilobytes, 100 * line["accuracy"], marker="o" if "float" not in label else "s", linestyle="", **kind)
        tested = [100 * epoch["test_accuracy"] for epoch in line["history"]]
        right.plot(range(1, len(tested) + 1), tested, color=colours[label])
        named.add(label)
    sizes = [line["packed"]["bytes"] / 1000 for line in finished]
    reached = [100 * line["accuracy"] for line in finished]
    left.set(xscale="log", xlabel="packed file with float32 edges (kB)", ylabel="test accuracy (%)")
    left.set(xlim=(min(sizes) / 2, max(sizes) * 2), ylim=(min(reached) - 3, max(reached) + 3))
    for axis in (left.xaxis.set_major_formatter, left.xaxis.set_minor_formatter):
        axis(lambda kilobytes, _: f"{kilobytes:g}")
    right.set(xlabel="epoch", ylabel="test accuracy (%)")
    for axes in (left, right):
        axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper", fontsize="x-small")
    with mpl.rc_context({"svg.hashsalt": "bbg"}):  # the same records give the same file
        figure.savefig(file, metadata={"Date": None})


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
