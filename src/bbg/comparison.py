"""Methods beside each other: the same network, data and budget for each of them.

    bbg compare cifar10_resnet20_short --data DIR --methods bbg,xnor --seeds 3 --out runs/compare

Each (method, seed) is one training in a folder of its own, `<out>/<method>-s<seed>`. A training that was interrupted
goes on, one that is finished is not repeated, and the result file is written anew behind each of them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch

from bbg import style
from bbg.analysis import gates, weight_entropy
from bbg.data import Split
from bbg.errors import BbgError
from bbg.files import refuse_overlap, write_bytes, write_json
from bbg.log import LOGGER
from bbg.methods import get
from bbg.reading import TEXT, contents
from bbg.recipe import Recipe, keys_of_recipes
from bbg.training.checkpoint import Checkpoint
from bbg.training.folder import LAST
from bbg.training.loop import train

MOST_SEEDS = 1000
VARIED = ("method", "seed")  # keys of the recipe that differ between the rows


def compare(
    recipe: Recipe,
    split: Split,
    methods: Sequence[str],
    seeds: int,
    out: Path,
    result: Path,
    *,
    parallel: int = 1,
    progress: bool = True,
    data: str | None = None,
) -> dict[str, Any]:
    """Train `recipe` once for each of `methods` and each of `seeds` seeds, those of the recipe and the ones behind it.

    `data`: what the images are called, for the title of the picture; None: the name of the data set.

    `parallel`: how many train at a time, each in a process of its own. This pays on a GPU, which one small network
    does not fill. On CPUs they share the cores, and the number of threads is part of a training's bits.

    Returns what it writes to the file `result` (JSON) after each training: `recipe`, `classes`, `test_images`,
    `test_set` (a digest of them), `torch`, `data`, `studied` (the method that the picture sets apart: that of the
    recipe, or the first of `methods`), and `rows`, one per training (see `row_of`). Rows of other trainings by the
    same recipe that the file has already are kept. The curves are drawn beside it, as PNG.

    Raises BbgError for an unknown method or one that comes twice, for a `result` that holds rows of another recipe or
    of other test images, and as `train` does.
    """
    names = [get(name).name for name in methods]
    if len(set(names)) != len(names) or not names:
        raise BbgError(f"methods are {', '.join(names) or 'none'}; give one or more names, each once")
    if recipe.factory is not None or recipe.network is None:
        raise BbgError(
            "a comparison builds its networks by method; give a recipe with a network, and without a factory"
        )
    if not 1 <= seeds <= MOST_SEEDS:
        raise BbgError(f"seeds is {seeds}, allowed are 1 to {MOST_SEEDS}")
    common = {key: value for key, value in recipe.to_dict().items() if key not in VARIED}
    report: dict[str, Any] = {
        "recipe": common,
        "classes": len(split.classes),
        "test_images": len(split.test),
        "test_set": split.test.digest(),
        "torch": str(torch.__version__),
        "data": data or recipe.dataset,
        "studied": recipe.method if recipe.method in names else names[0],
    }
    report["rows"] = _known(result, report)
    plot = result.with_suffix(".png")
    refuse_overlap([("the result", result), ("its curves", plot)], ())
    if plot.exists() and not result.exists():
        raise BbgError(f"the curves of {str(result)!r} would replace {str(plot)!r}; move it, or give another result")
    if parallel < 1:
        raise BbgError(f"parallel is {parallel}, allowed are 1 and more")
    trainings = [
        (recipe.changed({"method": name, "seed": seed}), out / f"{name}-s{seed}")
        for seed in range(recipe.seed, recipe.seed + seeds)
        for name in names
    ]
    for row in _rows(trainings, split, parallel, progress):
        key = (row["method"], row["seed"])
        others = [other for other in report["rows"] if (other["method"], other["seed"]) != key]
        report["rows"] = [*others, row]
        if parallel > 1:  # their own lines stay in their processes
            LOGGER.info("%s, seed %d  test accuracy %.4f", row["method"], row["seed"], row["accuracy"])
        write_json(report, result)
    draw(report, plot)
    return report


def _rows(
    trainings: list[tuple[Recipe, Path]], split: Split, parallel: int, progress: bool
) -> Iterator[dict[str, Any]]:
    """The row of each training, as it is finished."""
    parallel = min(parallel, len(trainings))
    if parallel == 1:
        yield from (_row(recipe, split, folder, progress) for recipe, folder in trainings)
        return
    threads = max(1, torch.get_num_threads() // parallel)
    # Not forked: a process that has used torch's threads, or a GPU, leaves its children with broken ones.
    start = ProcessPoolExecutor(parallel, get_context("spawn"), initializer=_take, initargs=(split, threads))
    with start as processes:
        running = [processes.submit(_row_of_taken, recipe, folder) for recipe, folder in trainings]
        try:
            for future in as_completed(running):
                yield future.result()
        except BaseException:
            processes.shutdown(cancel_futures=True)
            raise


def _row(recipe: Recipe, split: Split, folder: Path, progress: bool) -> dict[str, Any]:
    name = f"{recipe.method}, seed {recipe.seed}"
    return row_of(train(recipe, split, folder, resume=(folder / LAST).exists(), progress=progress, name=name))


_TAKEN: list[Split] = []  # of a process of its own: the images that all its trainings are on


def _take(split: Split, threads: int) -> None:
    _TAKEN.append(split)
    torch.set_num_threads(threads)


def _row_of_taken(recipe: Recipe, folder: Path) -> dict[str, Any]:
    return _row(recipe, _TAKEN[0], folder, progress=False)


def row_of(state: Checkpoint) -> dict[str, Any]:
    """What a finished training says of its method.

    `accuracy`: top-1 over all test images after the last epoch; `curve`: that of each epoch; `seconds`: of all epochs.
    `entropy`: of each binary layer, the entropy of its weight signs in bits. `gates`: of each unit with learned gates,
    their mean, standard deviation and share of negative ones.
    """
    network, last = state.network(), state.history[-1]
    return {
        "method": state.recipe.method,
        "seed": state.recipe.seed,
        "epochs": state.epoch,
        "accuracy": last["test_accuracy"],
        "train_accuracy": last["accuracy"],
        "seconds": sum(row["seconds"] for row in state.history),
        "curve": [row["test_accuracy"] for row in state.history],
        "entropy": {row.name: row.layer for row in weight_entropy(network)},
        "gates": {row.name: {"mean": row.mean, "std": row.std, "negative": row.negative} for row in gates(network)},
    }


def table(report: dict[str, Any]) -> list[dict[str, Any]]:
    """One row per method, best first: mean and standard deviation over its seeds, entropy, gates, time."""
    rows = []
    for name in dict.fromkeys(row["method"] for row in report["rows"]):
        runs = [row for row in report["rows"] if row["method"] == name]
        accuracies = [row["accuracy"] for row in runs]
        entropies = [value for row in runs for value in row["entropy"].values()]
        learned = [gate for row in runs for gate in row["gates"].values()]
        rows.append(
            {
                "method": name,
                "seeds": len(runs),
                "epochs": runs[0]["epochs"],
                "accuracy": mean(accuracies),
                "spread": stdev(accuracies) if len(runs) > 1 else None,
                "least_entropy_of_a_layer": min(entropies, default=None),
                "mean_entropy": mean(entropies) if entropies else None,
                "mean_gate": mean(gate["mean"] for gate in learned) if learned else None,
                "negative_gates": mean(gate["negative"] for gate in learned) if learned else None,
                "seconds": mean(row["seconds"] for row in runs),
            }
        )
    return sorted(rows, key=lambda row: -row["accuracy"])


def draw(report: dict[str, Any], path: Path) -> None:
    """Test accuracy by epoch and after the last one, mean and range over the seeds, as PNG.

    The method under study has the accent's colour; every line is named at its end.
    """
    rows = table(report)
    studied = report.get("studied", rows[0]["method"])
    runs = {row["method"]: [run for run in report["rows"] if run["method"] == row["method"]] for row in rows}
    seeds = max(len(of_method) for of_method in runs.values())
    others = [name for name in runs if name != studied]
    colours = {name: style.SHADES[i % len(style.SHADES)] for i, name in enumerate(others)} | {studied: style.GREEN}
    with style.applied():
        figure = style.figure(11, max(3.8, 0.34 * len(rows) + 1.6))
        left, right = figure.subplots(1, 2, width_ratios=(1.15, 1))
        style.axis(left, title="test accuracy by epoch", x="epoch")
        style.axis(right, title="after the last epoch" + (f", {seeds} seeds" if seeds > 1 else ""))
        right.grid(visible=False)
        right.grid(axis="x")
        ends = []
        for i, (name, of_method) in enumerate(runs.items()):
            curves = [run["curve"] for run in of_method]
            low, middle, high = ([pick(points) for points in zip(*curves, strict=False)] for pick in (min, mean, max))
            epochs, front = range(1, len(middle) + 1), 3 if name == studied else 2
            left.plot(
                epochs,
                middle,
                color=colours[name],
                lw=2.4 if name == studied else 1.3,
                zorder=front,
                marker="o" if len(middle) == 1 else None,
            )
            left.fill_between(epochs, low, high, alpha=0.15, color=colours[name], lw=0, zorder=front)
            ends.append((len(middle), middle[-1]))
            reached = [run["accuracy"] for run in of_method]
            right.hlines(i, min(reached), max(reached), color=colours[name], lw=5, alpha=0.3)
            if len(reached) > 1:
                right.plot(reached, [i] * len(reached), "|", color=colours[name], markersize=9, markeredgewidth=1.2)
            right.plot(mean(reached), i, "o", color=colours[name], markersize=8 if name == studied else 6)
            right.annotate(
                f"{100 * mean(reached):.1f}", (max(reached), i), (7, 0), textcoords="offset points", va="center",
                color=colours[name], fontweight="bold" if name == studied else "normal",
            )  # fmt: skip
        style.percent(left)
        style.percent(right, "x")
        style.whole_numbers(left)
        style.label_ends(left, max(x for x, _ in ends), [y for _, y in ends], list(runs), [colours[n] for n in runs])
        right.set_yticks(range(len(runs)), list(runs))
        for text, name in zip(right.get_yticklabels(), runs, strict=True):
            text.set(color=colours[name], fontweight="bold" if name == studied else "normal")
        right.set_ylim(len(runs) - 0.5, -0.5)
        right.margins(x=0.14)
        right.spines["left"].set_visible(False)
        title = style.run_title({**report["recipe"], "method": None}, report.get("data", report["recipe"]["dataset"]))
        figure.suptitle(title, x=0.012, ha="left", fontsize=13, fontweight="bold")
        write_bytes(path, style.png(figure))


def _known(result: Path, report: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows that the file has already; BbgError where they are of another recipe or other test images."""
    if not result.exists():
        return []
    try:
        old = json.loads(contents(result, TEXT))
        rows = [{**row, "method": row["method"], "seed": row["seed"]} for row in old["rows"]]
        ours = json.loads(json.dumps({**report["recipe"], "test_set": report["test_set"]}))  # lists, as in the file
        newer = {
            key.key: key.default for key in keys_of_recipes() if key.key not in VARIED
        }  # keys that results of older versions do not have
        theirs = {**json.loads(json.dumps(newer)), **old["recipe"], "test_set": old["test_set"]}
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as e:
        raise BbgError(f"{str(result)!r} is no result of a comparison; give another file") from e
    for key in {**ours, **theirs}:
        if ours.get(key) != theirs.get(key):
            came = f"{key} = {theirs.get(key)!r}, this comparison has {ours.get(key)!r}"
            raise BbgError(f"{str(result)!r} compares with {came}; give another file")
    return rows
