"""Detectors at photo size: mAP against time and bytes, 1 bit beside int8, and the methods side by side.

    python -m bench.detectors [--list bench/detection.toml] [--records DIR] [--rows NAME ...] [--rounds 20]

The list has a line per training, in the form of the study's (bench/study/rows.py), and RECORDS/NAME.json says what came
of it (bench/study/row.py): `map`, that of the last epoch, and those of `packed` and `packed_int8`. A row without a
record is timed all the same, and shown as not trained yet.

A real-valued row runs in every int8 engine, quantised after training; all others run in bbg, with edges of 8 bits and
of float32. Times need the shapes alone: they are those of untrained networks, one image at a time on one thread. The
mAP of a real-valued row is that of its packed file with 8-bit edges, where the record has it: other engines round in
their own ways, and are not scored.
"""

from __future__ import annotations

import json
import tempfile
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

import bbg
from bbg import style
from bbg.files import write_bytes
from bbg.image import PRESETS, Preprocess
from bbg.recipe import Recipe
from bbg.training.factory import build
from bench.eight_bits import LEAST, unheld
from bench.frontier import read_off
from bench.markdown import Column, figure, not_measured, number, plain, table
from bench.networks import CALIBRATION, Joined, Network, export, normalised, random_bytes, settled
from bench.record import RESULTS, ROOT, Result, parser_of, run
from bench.runtimes import Entrant, compare
from bench.study.rows import read as listed

TITLE = "Detectors at photo size"
PLOT = "detectors.svg"
LIST, RECORDS = ROOT / "bench" / "detection.toml", RESULTS / "detection"
PHOTOGRAPHS = ROOT / "bench" / "detection_voc.toml"  # trainings that are told, and not timed
WIDTHS = (16, 24, 32)  # of the rows that are timed where there is no list yet
ONE_BIT = {"1 bit, int8": "int8", "1 bit, fp32": "fp32"}  # what a 1-bit detector is timed as, and its edges
EIGHT = tuple(entrant for entrant in unheld() if entrant.precision != "default")
METHODS = 3  # so many methods of one shape and budget make a table


class Row(NamedTuple):
    """A training of the list, and its record, None as long as there is none."""

    name: str
    recipe: Recipe
    record: Result | None

    @property
    def is_float(self) -> bool:
        """Whether all layers are real-valued, so that int8 engines run it."""
        return self.recipe.method == "float" and not self.recipe.bits


def planned(file: Path, records: Path) -> list[Row]:
    """The rows of the list; without one, the light detector at some widths."""
    if file.exists():
        found = {row.name: row.recipe for row in listed(file)}
    else:
        light = Recipe.find("voc_ssd_light")
        changes = [{"method": method, "width": width} for width in WIDTHS for method in ("bbg", "float")]
        found = {f"light-w{c['width']}-{c['method']}": light.changed(c) for c in changes}
    return [Row(name, recipe, recorded(records / f"{name}.json")) for name, recipe in found.items()]


def recorded(file: Path) -> Result | None:
    """The record of a training that is finished."""
    if not file.exists():
        return None
    found: Result = json.loads(file.read_text(encoding="utf-8"))
    return found if found["finished"] else None


def figures(row: Row) -> Result:
    """What is told of a row: its shape and budget, and its mAP in torch and packed, None where it is not known."""
    recipe, record = row.recipe, row.record or {}
    packed = {"fp32": record.get("packed", {}), "int8": record.get("packed_int8", {})}
    return {
        "network": row.name,
        "architecture": recipe.network,
        "method": recipe.method,
        "width": recipe.width,
        "stem": recipe.stem,
        "size": recipe.size,
        "epochs": recipe.epochs,
        "seed": recipe.seed,
        "float": row.is_float,
        "start": record.get("start"),
        "images": record.get("data", {}).get("training", {}).get("images"),
        "map": record.get("map"),
        "map_11": record.get("map_11"),
        "packed": {edges: found.get("map") for edges, found in packed.items()},
    }


def prepare(row: Row, classes: int, folder: Path, peers: bool) -> tuple[Entrant, ...]:
    """The files of all runtimes, of untrained weights; returns who runs them. `peers`: whether others are to run."""
    size = row.recipe.sides() or (240, 320)
    preset = PRESETS["imagenet"]
    entry = Network(classes, "imagenet", {}, size)
    torch.manual_seed(0)
    preprocess = Preprocess(size, mean=preset.mean, std=preset.std)
    network = settled(build(row.recipe, classes, preprocess), entry)
    example = torch.from_numpy(normalised(entry, random_bytes(entry, 4, seed=2)))
    for precision, edges in ({"8 bits": "int8"} if row.is_float else ONE_BIT).items():
        bbg.convert(network, folder / f"{row.name}.{precision}.bbg", example, edges=edges, preprocess=preprocess)
    if not row.is_float:
        return tuple(Entrant("bbg", precision) for precision in ONE_BIT)
    if not peers:
        return EIGHT
    images = normalised(entry, random_bytes(entry, CALIBRATION, seed=3))
    export(Joined(network).eval(), row.name, normalised(entry, random_bytes(entry)), images, folder)
    return EIGHT


def rows(arguments: Namespace) -> Result:
    """A row per training; a row per training and engine."""
    chosen = [row for row in planned(arguments.list, arguments.records) if row.name in (arguments.rows or [row.name])]
    result: Result = {
        "batch": 1, "threads": 1, "classes": arguments.classes, "absent": [], "trainings": [], "times": [],
    }  # fmt: skip
    for row in chosen:
        with tempfile.TemporaryDirectory() as place:
            entrants = prepare(row, arguments.classes, Path(place), bool(arguments.runtimes))
            entrants = tuple(one for one in entrants if one.runtime in ("bbg", *arguments.runtimes))
            found, absent = compare(row.name, 1, entrants, arguments.rounds, Path(place), LEAST)
        result["trainings"].append(figures(row))
        result["times"] += found
        result["absent"] += absent
        print(table(found, plain("network"), plain("runtime"), plain("precision"), figure("min_us")), flush=True)
    photographs = [row for row in planned(PHOTOGRAPHS, arguments.records) if row.recipe.task == "detection"]
    result["photographs"] = [figures(row) for row in photographs if row.record]
    return result


def points(result: Result) -> list[Result]:
    """A row per detector: of a real-valued one this engine and the fastest other one that runs it in int8, of a 1-bit
    one a row for each kind of edges.

    `accuracy` is the mAP of what is timed, or that of torch where the record has no other; None: not trained yet.
    """
    found = []
    for training in result["trainings"]:
        own = [row for row in result["times"] if row["network"] == training["network"]]
        if training["float"]:
            others = [row for row in own if row["runtime"] != "bbg"]
            own = [row for row in own if row["runtime"] == "bbg"] + ([min(others, key=cost)] if others else [])
        for row in own:
            packed = training["packed"][ONE_BIT.get(row["precision"], "int8")]
            accuracy = training["map"] if packed is None else packed
            found.append({**training, **row, "accuracy": accuracy})
    return found


def cost(row: Mapping[str, Any]) -> float:
    """What a row is judged by: the least time."""
    return float(row["min_us"])


def verdicts(result: Result) -> list[Result]:
    """For each int8 detector: the best 1-bit one of its epochs that is no slower, and the costs at its mAP."""
    known = [point for point in points(result) if point["accuracy"] is not None]
    found = []
    for peer in (point for point in known if point["float"] and point["runtime"] != "bbg"):
        ours = [point for point in known if not point["float"] and point["epochs"] == peer["epochs"]]
        fast = [point for point in ours if cost(point) <= cost(peer)]
        match = max(fast, key=lambda point: float(point["accuracy"]), default=None)
        same = {what: read_off(ours, peer["accuracy"], what) for what in ("min_us", "bytes")}
        found.append(
            {
                "peer": f"{peer['network']}, {peer['runtime']} {peer['precision']}",
                "min_us": peer["min_us"],
                "accuracy": peer["accuracy"],
                "ours": None if match is None else f"{match['network']}, {match['precision']}",
                "points": None if match is None else 100 * (match["accuracy"] - peer["accuracy"]),
                "faster": None if match is None else cost(peer) / cost(match),
                "times": None if same["min_us"] is None else cost(peer) / same["min_us"],
                "smaller": None if same["bytes"] is None else peer["bytes"] / same["bytes"],
            }
        )
    return found


def groups(result: Result) -> list[list[Result]]:
    """The trainings that differ by their method alone, where there are several of them, the best first."""
    by_shape: dict[tuple[Any, ...], list[Result]] = {}
    for row in result["trainings"]:
        key = tuple(str(row[name]) for name in ("architecture", "width", "stem", "size", "epochs", "seed"))
        by_shape.setdefault(key, []).append(row)
    several = [own for own in by_shape.values() if len({row["method"] for row in own}) >= METHODS]
    return [sorted(own, key=lambda row: -(row["map"] or 0)) for own in several]


def share(key: str, heading: str) -> Column:
    """A column of mAP."""

    def text(row: Any) -> str:
        return "not trained yet" if row[key] is None else f"{100 * row[key]:.2f} %"

    return heading, text


def packed_with(kind: str) -> Column:
    """A column of the mAP of a packed file."""

    def text(row: Any) -> str:
        value = row["packed"][kind]
        return "" if value is None else f"{100 * value:.2f} %"

    return f"packed, {kind} edges", text


def render(result: Result) -> str:
    """The points, who is better than whom, and the methods."""
    parts = [
        "One image, one thread. Times are those of the shapes, with untrained weights; mAP is that of the last epoch "
        "on all test images. A real-valued detector stands there with this engine and with the fastest other one that "
        "runs it in int8, both with the mAP of our packed file in 8 bits.",
        *([f"![mAP against latency]({PLOT})"] if drawn(result) else []),
        table(
            sorted(points(result), key=lambda row: (not row["float"], cost(row))),
            plain("network", "training"),
            plain("method"),
            plain("epochs"),
            plain("runtime"),
            plain("precision"),
            figure("min_us", "min, us"),
            figure("median_us", "median"),
            ("kB", lambda row: number(row["bytes"] / 1000)),
            share("accuracy", "mAP"),
        ),
    ]
    judged = verdicts(result)
    if judged:
        won = sum(row["points"] is not None and row["points"] >= 0 for row in judged)
        parts += [
            f"Of {len(judged)} int8 detectors, each in the fastest other engine, {won} have a 1-bit one of the same "
            "epochs that is no slower and at least as good. The best of ours at no more time, its distance in points, "
            "and the int8 detector's time and bytes over those of ours at its mAP, read off between two of ours.",
            table(
                judged,
                plain("peer", "int8"),
                figure("min_us", "min, us"),
                share("accuracy", "mAP"),
                ("best of ours", lambda row: row["ours"] or "none is as fast"),
                ("points", lambda row: "" if row["points"] is None else f"{row['points']:+.2f}"),
                figure("faster", "its time over ours"),
                figure("times", "time at its mAP"),
                figure("smaller", "bytes at its mAP"),
            ),
        ]
    for own in groups(result):
        first = own[0]
        parts += [
            f"Methods: {first['architecture']}, width {first['width']}, {first['size']}, {first['epochs']} epochs.",
            table(own, plain("method"), share("map", "mAP in torch"), packed_with("fp32"), packed_with("int8")),
        ]
    if result["photographs"]:
        parts += [
            "On a sample of Pascal VOC 2012 ([detection_voc.toml](../bench/detection_voc.toml)), last epoch. The "
            "training of 20 images is tested on these same 20: it shows that the network can learn them.",
            table(
                result["photographs"],
                plain("network", "training"),
                plain("images"),
                plain("epochs"),
                ("start", lambda row: row["start"] or "random"),
                share("map", "mAP, area"),
                share("map_11", "mAP, eleven points"),
            ),
        ]
    return "\n\n".join(parts) + not_measured(result["absent"])


def drawn(result: Result) -> list[Result]:
    """The points of the plot: what is trained."""
    return [point for point in points(result) if point["accuracy"] is not None]


def draw(result: Result, folder: Path) -> None:
    """The mAP against time, 1 bit and int8."""
    known = drawn(result)
    if not known:
        return
    with style.applied():
        picture = style.figure(7, 4.2)
        axis = picture.subplots()
        style.axis(axis, x="us per image, one thread", y="mAP, %")
        axis.set_xscale("log")
        kinds = {
            "1 bit": (style.GREEN, lambda p: not p["float"]),
            "int8, this engine": (style.VIOLET, lambda p: p["float"] and p["runtime"] == "bbg"),
            "int8, the fastest other": (style.ORANGE, lambda p: p["float"] and p["runtime"] != "bbg"),
        }
        for name, (colour, fits) in kinds.items():
            own = sorted(filter(fits, known), key=cost)
            axis.scatter([p["min_us"] for p in own], [100 * p["accuracy"] for p in own], s=18, color=colour, label=name)
        axis.legend(loc="lower right", fontsize=9)
        write_bytes(folder / PLOT, style.svg(picture))


def main() -> None:
    """The command line."""
    parser = parser_of("detectors", __doc__, rounds=20)
    parser.add_argument("--list", type=Path, default=LIST, help="the trainings; default: bench/detection.toml")
    parser.add_argument("--records", type=Path, default=RECORDS, help="default: bench/results/detection")
    parser.add_argument("--rows", nargs="+", metavar="NAME", help="of the list; default: all")
    names = [name for name in dict.fromkeys(entrant.runtime for entrant in EIGHT) if name != "bbg"]
    parser.add_argument("--runtimes", nargs="*", choices=names, default=names, help="the peers; default: all")
    parser.add_argument("--classes", type=int, default=3, help="without the background; default: %(default)s")
    run(parser, rows, ("numpy", "torch", "openvino", "onnxruntime"))


if __name__ == "__main__":
    main()
