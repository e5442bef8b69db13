"""docs/results.md and its plots, made of the files under bench/results.

    python -m bench.report [--results FOLDER] [--page docs/results.md]

Only what stands between the two marks is replaced; the page's other sections stay as they are. What a section shows is
said by the benchmark itself: `render(result)`, and `draw(result, folder)` where it has a plot.
"""

from __future__ import annotations

import argparse
from importlib import import_module
from pathlib import Path

from bench import BENCHMARKS
from bench.record import RESULTS, ROOT, Result, read

BEGIN, END = "<!-- make bench writes from here -->", "<!-- make bench writes to here -->"


def source(result: Result, name: str) -> str:
    """Where a table comes from, in one sentence."""
    versions = ", ".join(f"{k} {v}" for k, v in result["versions"].items())
    return (
        f"`python -m bench.{name}`, {result['date']}, {result['cpu']} (family/model {result['cpu_family_model']}), "
        f"{result['cores']} cores, load {result['load']} at the start, commit {result['commit']}, {versions} "
        f"([{name}.json](../bench/results/{name}.json))."
    )


def section(results: Path, plots: Path) -> str:
    """What stands between the marks; the plots go to the folder `plots`."""
    parts = ["## Benchmarks", "`make bench` writes this section."]
    for name in BENCHMARKS:
        file = results / f"{name}.json"
        if not file.exists():
            continue
        benchmark, result = import_module(f"bench.{name}"), read(file)
        absent = isinstance(result.get("absent"), str)
        text = f"Not measured: {result['absent']}" if absent else benchmark.render(result)
        parts += [f"### {benchmark.TITLE}", source(result, name), text]
        if hasattr(benchmark, "draw") and not absent:
            benchmark.draw(result, plots)
    return "\n\n".join(parts)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "results.md")
    arguments = parser.parse_args()
    page = arguments.page.read_text(encoding="utf-8")
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        before, after = page.rstrip() + "\n\n", "\n"
    text = f"{before}{BEGIN}\n\n{section(arguments.results, arguments.page.parent)}\n\n{END}{after}"
    arguments.page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
