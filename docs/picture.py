"""Draws docs/bbg.svg: the BBG unit as it is trained, and the same unit as the engine runs it.

python docs/picture.py
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch, Rectangle

from bbg.files import write_bytes
from bbg.style import GREEN, INK, LIGHT, PAPER, applied, svg
from bbg.style import PALE as GREY

BITS = 32


def box(
    axis: Any, x: float, y: float, text: str, *, width: float = 1.5, color: str = "white", edge: str = GREY
) -> None:
    """A rounded box centred at (x, y)."""
    style = "round,pad=0,rounding_size=0.12"
    axis.add_patch(FancyBboxPatch((x - width / 2, y - 0.3), width, 0.6, boxstyle=style, fc=color, ec=edge, lw=1.4))
    axis.text(x, y, text, ha="center", va="center", fontsize=11)


def circle(axis: Any, x: float, y: float, text: str) -> None:
    """An operator on the line."""
    axis.add_patch(Circle((x, y), 0.2, fc="white", ec=INK, lw=1.4, zorder=3))
    axis.text(x, y - 0.015, text, ha="center", va="center", fontsize=13, zorder=4)


def arrow(axis: Any, *points: tuple[float, float], color: str = INK) -> None:
    """A line through `points` that ends in an arrow."""
    for start, end in pairwise(points[:-1]):
        axis.plot(*zip(start, end, strict=True), color=color, lw=1.4, solid_capstyle="round")
    head = FancyArrowPatch(*points[-2:], arrowstyle="-|>", mutation_scale=11, color=color, lw=1.4, shrinkA=0, shrinkB=0)
    axis.add_patch(head)


def word(axis: Any, x: float, y: float, name: str, bits: np.ndarray) -> None:
    """A strip of bits, its name at the left."""
    axis.text(x - 0.15, y + 0.14, name, ha="right", va="center", fontsize=11)
    for i, bit in enumerate(bits):
        axis.add_patch(Rectangle((x + 0.19 * i, y), 0.165, 0.28, fc=GREEN if bit else LIGHT, ec="none"))


def panel(axis: Any, bottom: float, top: float, title: str, formula: str) -> None:
    """A background with its heading."""
    style = "round,pad=0,rounding_size=0.2"
    axis.add_patch(FancyBboxPatch((0.1, bottom), 13.8, top - bottom, boxstyle=style, fc=PAPER, ec="none", zorder=-1))
    axis.text(0.4, top - 0.4, title, fontsize=13, fontweight="bold", va="center")
    axis.text(13.6, top - 0.4, formula, fontsize=11.5, ha="right", va="center")


def trained(axis: Any) -> None:
    """The unit in torch."""
    panel(
        axis,
        3.85,
        7.4,
        "trained in torch",
        "$y$ = act( BN( $\\alpha$ · conv( sign($x$), sign($w - \\bar{w}$) ) ) + gate · shortcut($x$) )",
    )
    y = 4.9
    axis.text(0.75, y, "$x$", fontsize=15, ha="center", va="center")
    arrow(axis, (0.95, y), (1.75, y))
    box(axis, 2.35, y, "sign", width=1.2, color=LIGHT, edge=GREEN)
    arrow(axis, (2.95, y), (3.7, y), color=GREEN)
    box(axis, 4.55, y, "conv", width=1.7, color=LIGHT, edge=GREEN)
    arrow(axis, (5.4, y), (6.3, y))
    circle(axis, 6.5, y, "×")
    axis.text(7.05, y - 0.55, "$\\alpha$ = mean|$w - \\bar{w}$|", fontsize=10.5, ha="center", va="center")
    arrow(axis, (6.7, y), (7.7, y))
    box(axis, 8.2, y, "BN", width=1.0)
    arrow(axis, (8.7, y), (9.7, y))
    circle(axis, 9.9, y, "+")
    arrow(axis, (10.1, y), (11.1, y))
    box(axis, 11.7, y, "act", width=1.2)
    arrow(axis, (12.3, y), (13.1, y))
    axis.text(13.4, y, "$y$", fontsize=15, ha="center", va="center")
    caption = "sign($w - \\bar{w}$): balanced bits"
    axis.text(4.55, y - 0.55, caption, fontsize=10.5, ha="center", va="center")
    arrow(axis, (1.3, y), (1.3, 6.15), (3.75, 6.15))
    box(axis, 4.55, 6.15, "shortcut", width=1.6)
    arrow(axis, (5.35, 6.15), (6.3, 6.15))
    circle(axis, 6.5, 6.15, "×")
    axis.text(6.5, 6.55, "gate, one per channel", fontsize=10.5, ha="center", va="center")
    arrow(axis, (6.7, 6.15), (9.9, 6.15), (9.9, y + 0.2))


def run(axis: Any) -> None:
    """The unit in the engine, on one window of real bits."""
    panel(axis, 0.1, 3.45, "run at 1 bit", "acc = $K$ − 2 · popcount($a$ xor $w$)")
    rng = np.random.default_rng(3)
    a, w = rng.integers(0, 2, (2, BITS))
    x = 1.35
    word(axis, x, 2.1, "$a$", a)
    word(axis, x, 1.65, "$w$", w)
    word(axis, x, 1.0, "xor", a ^ w)
    right = x + 0.19 * BITS
    axis.plot((x, right - 0.03), (1.47, 1.47), color=INK, lw=1.2)
    ones = int((a ^ w).sum())
    axis.text(x, 0.6, f"popcount {ones},  acc = {BITS} − 2 · {ones} = {BITS - 2 * ones}", fontsize=11, va="center")
    arrow(axis, (right + 0.15, 1.65), (right + 0.75, 1.65))
    style = "round,pad=0,rounding_size=0.12"
    axis.add_patch(FancyBboxPatch((8.25, 0.9), 3.15, 1.5, boxstyle=style, fc="white", ec=GREY, lw=1.4))
    axis.text(9.82, 2.1, "one pass", fontsize=11, ha="center", va="center", fontweight="bold")
    axis.text(9.82, 1.66, "scale · acc + bias + gate · shortcut", fontsize=10, ha="center", va="center")
    axis.text(9.82, 1.24, "act, sign", fontsize=10.5, ha="center", va="center")
    arrow(axis, (11.4, 1.95), (11.9, 1.95))
    arrow(axis, (11.4, 1.3), (11.9, 1.3), color=GREEN)
    axis.text(12.0, 1.95, "$y$, real", fontsize=11, va="center")
    for i, bit in enumerate(rng.integers(0, 2, 7)):
        axis.add_patch(Rectangle((12.0 + 0.19 * i, 1.16), 0.165, 0.28, fc=GREEN if bit else LIGHT, ec="none"))
    axis.text(12.0, 0.86, "its signs, packed", fontsize=10.5, va="center")


def main() -> None:
    """Draw both panels."""
    with applied(), mpl.rc_context({"mathtext.fontset": "dejavusans"}):
        figure = Figure(figsize=(12, 6.4))
        axis = figure.add_axes((0, 0, 1, 1))
        axis.set(xlim=(0, 14), ylim=(0, 7.5), aspect="equal")
        axis.axis("off")
        trained(axis)
        run(axis)
        arrow(axis, (7.0, 3.8), (7.0, 3.5))
        axis.text(7.15, 3.65, "bbg convert", fontsize=11, va="center", family="monospace")
        axis.add_patch(Rectangle((11.95, 3.51), 0.28, 0.28, fc=LIGHT, ec=GREEN, lw=1.4))
        axis.text(12.35, 3.65, "green: 1 bit", fontsize=11, va="center")
        write_bytes(Path(__file__).with_name("bbg.svg"), svg(figure))


if __name__ == "__main__":
    main()
