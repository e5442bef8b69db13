"""docs/results.md, docs/bench.svg and docs/sizes.svg of the files under bench/results.

    python bench/report.py [--results FOLDER] [--page docs/results.md]

Only what stands between the two marks is replaced; the page's other sections stay as they are.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from common import RESULTS, ROOT

BEGIN, END = "<!-- make bench writes from here -->", "<!-- make bench writes to here -->"
PLOT, SIZES = "bench.svg", "sizes.svg"
Result = dict[str, Any]


def table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table; the first columns of a row that repeat the row above are left empty."""
    lines = [list(headings), ["---"] * len(headings)]
    above: list[str] = []
    for row in rows:
        cells = [str(cell) for cell in row]
        same = 0
        while same < 2 and above[same : same + 1] == cells[same : same + 1]:
            same += 1
        lines.append([""] * same + cells[same:])
        above = cells
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def number(value: float | None) -> str:
    """Three digits or more."""
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}" if value < 100 else f"{value:.0f}"


def percent(value: float | None) -> str:
    """A share."""
    return "" if value is None else f"{100 * value:.0f} %"


def source(result: Result, name: str) -> str:
    """Where a table comes from, in one sentence."""
    versions = ", ".join(f"{k} {v}" for k, v in result["versions"].items())
    return (
        f"`python bench/{name}.py`, {result['date']}, {result['cpu']} (family/model {result['cpu_family_model']}), "
        f"{result['cores']} cores, load {result['load']} at the start, commit {result['commit']}, {versions} "
        f"([{name}.json](../bench/results/{name}.json))."
    )


def kernels(result: Result) -> str:
    """Rooflines, then both forms of a layer side by side."""
    limits = ((r["set"], number(r["best_GMACs"]), number(r["median_GMACs"])) for r in result["rooflines"])
    forms = {(r["set"], r["network"], r["layer"], r["images"], r["form"]): r for r in result["kernels"]}
    rows = []
    for (kernel_set, network, layer, images, form), bits in forms.items():
        if form != "bits":
            continue
        unit = forms[kernel_set, network, layer, images, "unit"]
        rows.append(
            (
                kernel_set,
                network,
                layer + (f", {images} images" if images > 1 else ""),
                number(bits["min_us"]),
                number(bits["best_GMACs"]),
                percent(bits["share"]),
                number(unit["min_us"]),
                number(unit["best_GMACs"]),
                percent(unit["share"]),
            )
        )
    return "\n\n".join(
        (
            "The roofline is a loop of xor, population count and addition with nothing around it, on one thread; for AVX2 "
            "the classic one that looks nibbles up. `bits` is a layer that ends in thresholds, `unit` one that ends in "
            "scale, bias, shortcut and hinge. Best of all rounds; MACs are those of taps inside the map.",
            table(("kernel set", "roofline, GMAC/s", "median"), limits),
            table(
                (
                    "kernel set",
                    "network",
                    "layer",
                    "bits: us",
                    "GMAC/s",
                    "of the roofline",
                    "unit: us",
                    "GMAC/s",
                    "of the roofline",
                ),
                rows,
            ),
        )
    )


def layers(result: Result) -> str:
    """The ops of each network that take at least a hundredth of its time."""
    rows = [
        (
            r["network"],
            r["op"],
            r["kind"],
            "x".join(map(str, r["result"])),
            number(r["min_us"]),
            number(r["median_us"]),
            percent(r["part"]),
            number(r["best_GMACs"]),
            percent(r["share"]),
        )
        for r in result["layers"]
        if r["part"] >= 0.01
    ]
    headings = ("network", "op", "kind", "result", "min, us", "median", "part", "GMAC/s", "of the roofline")
    return "Ops of at least 1 % of the network's time, one thread.\n\n" + table(headings, rows)


def peers(result: Result) -> str:
    """A row per runtime."""
    rows = [
        (
            r["network"],
            r["threads"],
            r["runtime"],
            r["precision"],
            r["held_to"] or "",
            number(r["min_us"]),
            number(r["median_us"]),
            number(r["ratio_of_min"]),
            number(r["ratio_of_median"]),
        )
        for r in result["networks"]
    ]
    headings = (
        "network",
        "threads",
        "runtime",
        "precision",
        "held to",
        "min, us",
        "median",
        "times bbg, of min",
        "of median",
    )
    text = (
        "One image at a time, random weights; the others run the real-valued twin. What is held to AVX2 is "
        "compared with bbg on AVX2. Convolutions of int8 rows were seen to run in int8."
    )
    absent = "".join(
        f"\n\nNot measured: {r['runtime']}, {r['precision']} on {r['network']}: {r['reason']}" for r in result["absent"]
    )
    plot = f"![Time of a network in each runtime]({PLOT})\n\n" if draws(result) else ""
    return f"{text}\n\n{plot}{table(headings, rows)}{absent}"


def sizes(result: Result) -> str:
    """A row per size and batch."""
    rows = [
        (f"{r['side']}x{r['side']}", r["batch"], number(r["min_us"]), number(r["median_us"]), number(r["ns_per_pixel"]))
        for r in result["sizes"]
    ]
    headings = ("image", "batch", "per image: min, us", "median", "ns per pixel")
    text = "ResNet-18, one thread. All batches share the same 32 images out, one at a time among them."
    return f"{text}\n\n![Time per pixel by the size of the image]({SIZES})\n\n{table(headings, rows)}"


def footprint(result: Result) -> str:
    """A row per network and kind of edges."""
    rows = [
        (
            r["network"],
            r["edges"],
            f"{r['bytes']:,}",
            number(r["load_min_us"]),
            number(r["load_median_us"]),
            f"{r['peak_bytes_above_numpy'] / 1e6:.1f}",
        )
        for r in result["footprint"]
    ]
    headings = ("network", "edges", "bytes", "load: min, us", "median", "peak memory, MB")
    bare, call = result["numpy_peak_bytes"] / 1e6, result["call_overhead_us"]
    text = (
        "Memory is that of a process that loads the network and runs one image on one thread, above one that only "
        f"imports numpy ({bare:.1f} MB). A call of an engine with nothing to do takes {call:.2f} us."
    )
    return f"{text}\n\n{table(headings, rows)}"


def larq_engine(result: Result) -> str:
    """A row per network."""
    if "absent" in result:
        return f"Not measured: {result['absent']}"
    rows = [
        (
            r["network"],
            number(r["min_us"]),
            number(r["median_us"]),
            number(r.get("ratio_of_min")),
            number(r.get("ratio_of_median")),
            r["setting"],
        )
        for r in result["larq"]
    ]
    text = (
        "224x224, one image, one thread. LCE's optimised kernels are for ARM; on x86 it runs portable ones. It "
        "takes its turns with the fastest setting of its interpreter and as it comes."
    )
    return f"{text}\n\n" + table(("network", "min, us", "median", "times bbg, of min", "of median", "setting"), rows)


def bnn_lab(result: Result) -> str:
    """A row per product."""
    if "absent" in result:
        return f"Not measured: {result['absent']}"
    rows = [
        (
            r["product"],
            r["threads"],
            r["runtime"],
            number(r["min_us"]),
            number(r["median_us"]),
            number(r["best_GMACs"]),
            number(r["ratio_of_min"]),
            number(r["ratio_of_median"]),
        )
        for r in result["bnn_lab"]
    ]
    headings = ("product", "threads", "runtime", "min, us", "median", "GMAC/s", "times bbg, of min", "of median")
    return table(headings, rows)


def foreign(result: Result) -> str:
    """A row per network."""
    rows = [
        (
            r["network"],
            f"{r['float32_bytes'] / 1e6:.1f}",
            f"{r['bytes'] / 1e6:.2f}",
            f"{100 * r['share']:.1f}",
            f"{100 * r['share_beside_depthwise']:.1f}",
            r["stays_real"],
            f"{r['law']:.0e}",
            number(r["min_us"]),
            number(r["int8_ratio"]),
            number(r["float32_ratio"]),
        )
        for r in result["foreign"]
    ]
    headings = (
        "network",
        "float32, MB",
        "packed, MB",
        "MACs at 1 bit, %",
        "without depthwise",
        "stays real",
        "largest difference in a layer",
        "bbg, us",
        "OpenVINO int8, times bbg",
        "float32",
    )
    text = (
        "224x224, one image, one thread, 8-bit edges. Shares are of the multiply-accumulates outside the first and "
        "the last layer. The law of the layers held on eight photographs. OpenVINO runs the real-valued "
        "original; with random weights its int8 is far from float32, which changes no time."
    )
    absent = "".join(
        f"\n\nNot measured: {r['runtime']}, {r['precision']} on {r['network']}: {r['reason']}" for r in result["absent"]
    )
    return f"{text}\n\n{table(headings, rows)}{absent}"


SECTIONS = {
    "kernels": ("Kernels beside the roofline", kernels),
    "layers": ("Where the time goes", layers),
    "peers": ("Networks in other runtimes", peers),
    "foreign": ("Networks that were not written here", foreign),
    "sizes": ("Size of the image and of the batch", sizes),
    "footprint": ("Bytes, memory and calls", footprint),
    "larq_engine": ("Larq Compute Engine", larq_engine),
    "bnn_lab": ("bnn-lab", bnn_lab),
}


def draws(result: Result) -> list[Result]:
    """What the plot shows: one thread, nobody held to anything."""
    return [r for r in result["networks"] if r["threads"] == 1 and r["held_to"] is None]


def pyplot() -> Any:
    """Matplotlib's pyplot, set up so that the same figures give the same file."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "bbg"
    import matplotlib.pyplot

    return matplotlib.pyplot


def draw_sizes(result: Result, to: Path) -> None:
    """Time per pixel of one image by its side."""
    plt = pyplot()
    rows = [r for r in result["sizes"] if r["batch"] == 1]
    figure, axis = plt.subplots(figsize=(5, 2.8), layout="constrained")
    axis.plot([r["side"] for r in rows], [r["ns_per_pixel"] for r in rows], marker=".", color="#c0392b")
    axis.set(xlabel="side of the image, pixels", ylabel="ns per pixel", ylim=(0, None))
    axis.grid(alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(to, metadata={"Date": None})


def draw(result: Result, to: Path) -> None:
    """Bars of the least times, one panel per network, as multiples of bbg's."""
    plt = pyplot()
    rows = draws(result)
    networks = list(dict.fromkeys(r["network"] for r in rows))
    figure, axes = plt.subplots(1, len(networks), figsize=(3.4 * len(networks) + 1, 2.8), squeeze=False, sharey=True)
    for axis, network in zip(axes[0], networks, strict=True):
        own = [r for r in rows if r["network"] == network]
        names = [f"{r['runtime']}, {r['precision']}" for r in own]
        bars = axis.barh(
            names,
            [r["ratio_of_min"] for r in own],
            color=["#c0392b" if r["runtime"] == "bbg" else "#9aa5b1" for r in own],
        )
        axis.bar_label(bars, [f"{number(r['min_us'])} us" for r in own], padding=3, fontsize=8)
        axis.set_title(network, fontsize=10)
        axis.set_xlabel("times bbg")
        axis.margins(x=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0][0].invert_yaxis()
    figure.tight_layout()
    figure.savefig(to, metadata={"Date": None})


def section(results: Path) -> str:
    """What stands between the marks."""
    parts = ["## Benchmarks", "`make bench` writes this section."]
    for name, (title, render) in SECTIONS.items():
        file = results / f"{name}.json"
        if file.exists():
            result = json.loads(file.read_text(encoding="utf-8"))
            parts += [f"### {title}", source(result, name), render(result)]
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
    text = f"{before}{BEGIN}\n\n{section(arguments.results)}\n\n{END}{after}"
    arguments.page.write_text(text, encoding="utf-8")
    peers_file, sizes_file = arguments.results / "peers.json", arguments.results / "sizes.json"
    if peers_file.exists() and draws(result := json.loads(peers_file.read_text(encoding="utf-8"))):
        draw(result, arguments.page.parent / PLOT)
    if sizes_file.exists():
        draw_sizes(json.loads(sizes_file.read_text(encoding="utf-8")), arguments.page.parent / SIZES)


if __name__ == "__main__":
    main()
