"""The whole way on one page: train a small BBG network on handwritten digits, convert it, run it at 1 bit.

    python examples/digits.py --out runs/demo      (or: make demo)

Prints one table that sets torch beside the engine, and draws `digits.png`. Latency: one image, one thread, best of 200.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
import timeit
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

import bbg
from bbg.data import Split, open_data
from bbg.layers import BinaryConv2d
from bbg.recipe import Recipe
from bbg.training.evaluate import logits_of
from bbg.training.loop import train

GREEN, ORANGE, GREY, INK = "#1b9e77", "#d95f02", "#c9ced6", "#22303c"


class Side(NamedTuple):
    """One side of the comparison: its logits on the held-out digits, its bytes, the seconds for one image."""

    logits: np.ndarray
    bytes: int
    seconds: float

    def accuracy(self, labels: np.ndarray) -> float:
        """Share of the digits named rightly."""
        return float((self.logits.argmax(1) == labels).mean())


def run(out: Path, **changes: Any) -> tuple[Side, Side]:
    """Train, convert and compare in the folder `out`; returns (torch, engine). `changes` are recipe keys."""
    torch.set_num_threads(1)  # 8x8 images give a second thread nothing to do
    recipe = Recipe.find("digits_resnet8").changed(changes)
    split = open_data(recipe.dataset, None)
    trained = train(recipe, split, out, progress=sys.stdout.isatty())
    model = trained.network()

    first = torch.from_numpy(split.preprocess.normalize(split.test.images[:32]))
    # So small a network has few weights at its edges: in float32 they cost a kilobyte and change nothing.
    bbg.convert(model, out / "digits.bbg", first, edges="fp32", preprocess=split.preprocess, labels=list(split.classes))
    engine = bbg.load(str(out / "digits.bbg"), threads=1)

    logits = logits_of(model, split.test, split.preprocess).numpy()
    with torch.inference_mode():
        in_torch = Side(logits, float_bytes(model), best_time(lambda: model(first[:1])))
    one = split.test.images[:1]
    packed = (out / "digits.bbg").stat().st_size
    in_engine = Side(engine(split.test.images), packed, best_time(lambda: engine(one)))

    print_table(in_torch, in_engine, split)
    draw(out / "digits.png", in_torch, in_engine, split, trained.history, model)
    return in_torch, in_engine


def float_bytes(model: torch.nn.Module) -> int:
    """Bytes of all weights and statistics in float32."""
    return sum(4 * tensor.numel() for tensor in model.state_dict().values() if tensor.is_floating_point())


def best_time(call: Callable[[], object], runs: int = 200) -> float:
    """Seconds of the fastest of `runs` calls."""
    return min(timeit.repeat(call, number=1, repeat=runs))


def print_table(in_torch: Side, in_engine: Side, split: Split) -> None:
    """The comparison on the terminal."""
    labels, count = split.test.labels, len(split.test.labels)
    table = Table(title=f"BBG on {count} held-out digits", box=None, header_style="bold", pad_edge=False)
    for heading in ("", "torch, float32", "engine, 1 bit", "ratio"):
        table.add_column(heading, justify="left" if heading == "" else "right")
    table.add_row("accuracy", *(f"{100 * side.accuracy(labels):.2f} %" for side in (in_torch, in_engine)), "")
    table.add_row("bytes", f"{in_torch.bytes:,}", f"{in_engine.bytes:,}", f"{in_torch.bytes / in_engine.bytes:.1f}")
    micro = [1e6 * side.seconds for side in (in_torch, in_engine)]
    table.add_row("one image", f"{micro[0]:,.0f} us", f"{micro[1]:,.1f} us", f"{micro[0] / micro[1]:.0f}")
    other = int((in_torch.logits.argmax(1) != in_engine.logits.argmax(1)).sum())
    Console().print("", table, f"other class named on {other} of {count} digits", "", sep="\n", highlight=False)


def draw(
    path: Path, in_torch: Side, in_engine: Side, split: Split, history: list[dict[str, float]], model: torch.nn.Module
) -> None:
    """One picture: digits with the engine's answers, the learning curve, learned weight bits, and the comparison."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.rcParams.update(
        {
            "font.size": 10,
            "axes.titlesize": 11.5,
            "axes.titleweight": "bold",
            "axes.titlepad": 9,
            "axes.titlelocation": "left",
            "axes.edgecolor": GREY,
            "text.color": INK,
            "axes.labelcolor": INK,
            "xtick.color": INK,
            "ytick.color": INK,
        }
    )
    figure = plt.figure(figsize=(13, 7), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.2, h_pad=0.2, wspace=0.03, hspace=0.05)
    grid = figure.add_gridspec(2, 3, width_ratios=(1.35, 1.1, 1), height_ratios=(1.6, 1))
    draw_digits(figure.add_subplot(grid[:, 0]), in_engine, split)
    draw_curve(figure.add_subplot(grid[0, 1]), history)
    draw_bits(figure.add_subplot(grid[0, 2]), model)
    bars = grid[1, 1:].subgridspec(1, 2)
    draw_pair(figure.add_subplot(bars[0]), "Size:", in_torch.bytes, in_engine.bytes, lambda v: f"{v / 1e3:,.1f} kB")
    draw_pair(
        figure.add_subplot(bars[1]),
        "Time for one image:",
        in_torch.seconds,
        in_engine.seconds,
        lambda v: f"{1e6 * v:,.0f} µs",
    )
    figure.savefig(path, dpi=150)
    plt.close(figure)


def draw_digits(axis: Any, side: Side, split: Split, columns: int = 10, rows: int = 14) -> None:
    """The first held-out digits, the engine's answer in the corner of each: green where right."""
    images, labels = split.test.images[..., 0], split.test.labels
    answers = side.logits.argmax(1)
    cell = 11
    sheet = np.zeros((rows * cell, columns * cell))
    for i in range(rows * columns):
        y, x = divmod(i, columns)
        sheet[y * cell + 1 : y * cell + 9, x * cell + 1 : x * cell + 9] = images[i]
        right = answers[i] == labels[i]
        axis.text(
            x * cell + 9.6,
            y * cell + 9.6,
            split.classes[answers[i]],
            color=GREEN if right else ORANGE,
            ha="center",
            va="center",
            fontsize=9,
            fontweight="bold",
        )
    axis.imshow(sheet, cmap="Greys", vmin=0, vmax=255, interpolation="nearest")
    axis.set_title(f"The engine on held-out digits: {100 * side.accuracy(labels):.1f} % right")
    axis.set_anchor("N")
    axis.axis("off")


def draw_curve(axis: Any, history: list[dict[str, float]]) -> None:
    """Accuracy by epoch."""
    epochs = [row["epoch"] for row in history]
    axis.plot(epochs, [100 * row["accuracy"] for row in history], color=GREY, lw=2, label="training")
    axis.plot(epochs, [100 * row["test_accuracy"] for row in history], color=GREEN, lw=2, label="held-out")
    axis.set(xlabel="epoch", ylabel="accuracy, %", title="Learning")
    axis.grid(axis="y", color=GREY, alpha=0.5)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, loc="lower right")


def draw_bits(axis: Any, model: torch.nn.Module) -> None:
    """The weight signs of the first binary convolution: a row per filter, a 3x3 square per input channel."""
    layer = next(m for m in model.modules() if isinstance(m, BinaryConv2d))
    with torch.no_grad():
        bits = layer.weight_binarizer(layer.weight).gt(0).numpy()
    filters, channels, height, width = bits.shape
    sheet = np.full((filters * (height + 1), channels * (width + 1)), np.nan)
    for o, c in np.ndindex(filters, channels):
        sheet[o * (height + 1) : o * (height + 1) + height, c * (width + 1) : c * (width + 1) + width] = bits[o, c]
    axis.imshow(sheet, cmap="Greens", vmin=-0.35, vmax=1.25, interpolation="nearest")
    axis.set_title(f"{bits.size:,} learned weights in {bits.size // 8} bytes")
    axis.set_anchor("NW")
    axis.set(xlabel=f"{channels} input channels", ylabel=f"{filters} filters", xticks=[], yticks=[])
    axis.spines[:].set_visible(False)


def draw_pair(axis: Any, title: str, float_value: float, bit_value: float, text: Callable[[float], str]) -> None:
    """Two bars, torch above the engine."""
    axis.barh(["torch", "engine"], [float_value, bit_value], color=[GREY, GREEN], height=0.5)
    for y, value in enumerate((float_value, bit_value)):
        axis.text(value + 0.02 * float_value, y, text(value), va="center", fontweight="bold")
    axis.set(title=f"{title} {float_value / bit_value:.0f} times less", xticks=[], xlim=(0, 1.35 * float_value))
    axis.invert_yaxis()
    axis.spines[["top", "right", "bottom"]].set_visible(False)
    axis.tick_params(length=0)


def main() -> None:
    """Run the demo from scratch."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/demo"))
    out = parser.parse_args().out
    if (out / "last.ckpt").exists():
        shutil.rmtree(out)  # yesterday's demo
    began = time.monotonic()
    run(out)
    print(f"{time.monotonic() - began:.0f} s; model {out / 'digits.bbg'}, picture {out / 'digits.png'}")


if __name__ == "__main__":
    main()
