"""Histograms of weights, gates and thresholds as a picture."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bbg import style
from bbg.analysis.weights import binary_layers, gates, weight_entropy
from bbg.errors import BbgError
from bbg.files import write_bytes
from bbg.layers import BinaryConv2d, BinaryLinear


@torch.no_grad()
def histograms(model: nn.Module, path: Path, *, title: str = "") -> Path:
    """Draw the binary layers of `model` as PNG; returns the file written: `path`, or `histograms.png` in a folder.

    Three panels, a line per layer: the entropy of its filters (mean, and from least to largest); a histogram of its
    unit's gates; one of its latent weights `w - threshold`, in multiples of their mean magnitude. A histogram is a
    line of cells, the darker the fuller. Raises BbgError where there is no binary layer or the file cannot be written.
    """
    entropies = weight_entropy(model)
    if not entropies:
        raise BbgError("the network has no binary layer, and only those are drawn; give a network of another method")
    learned = gates(model)
    latent = {name: _latent(layer) for name, layer in binary_layers(model).items()}
    with style.applied():
        figure = style.figure(13, max(3.2, 0.24 * len(entropies) + 1.7))
        left, middle, right = figure.subplots(1, 3)
        if title:
            figure.suptitle(title, x=0.012, ha="left", fontsize=13, fontweight="bold")
        lines = range(len(entropies))
        least, most = [e.least for e in entropies], [float(e.filters.max()) for e in entropies]
        left.hlines(lines, least, most, color=style.PALE, lw=4)
        left.plot([e.mean for e in entropies], lines, "o", color=style.GREEN, markersize=5)
        _named(
            left, "entropy of the signs", "bits; the mean filter, from least to largest", [e.name for e in entropies]
        )
        below = max(1 - min(least), 1e-3)  # one bit is the most that there can be
        left.set_xlim(1 - 1.08 * below, 1 + 0.04 * below)
        _cells(middle, {g.name: g.values for g in learned})
        _named(middle, "gates", "" if learned else "no unit has a learned one", [g.name for g in learned])
        _cells(right, latent)
        _named(right, "latent weights", "multiples of their mean magnitude", list(latent))
        drawn = style.png(figure)
    path = path / "histograms.png" if os.path.isdir(path) else path
    write_bytes(path, drawn)
    return path


def _latent(layer: BinaryConv2d | BinaryLinear) -> Tensor:
    """The weights without their threshold, in multiples of their mean magnitude."""
    binarizer = layer.weight_binarizer
    threshold = binarizer.form(layer.weight).threshold
    w = layer.weight if threshold is None else layer.weight - binarizer.broadcast(threshold, layer.weight)
    return (w / w.abs().mean().clamp(min=1e-30)).cpu()


def _span(values: Tensor) -> tuple[float, float]:
    """From where to where a direction goes: all of `values` but one in a thousand at either end, and some room."""
    ordered = values.flatten().double().sort().values
    beyond = len(ordered) // 1000
    low, high = float(ordered[beyond]), float(ordered[-1 - beyond])
    room = max(0.06 * (high - low), 0.01 * max(abs(low), abs(high)), 1e-6)  # gates that are all alike have some too
    return low - room, high + room


def _cells(axis: Any, rows: dict[str, Tensor], bins: int = 60) -> None:
    """A histogram of each row, scaled to its fullest cell; what lies beyond the span is in the outermost cells."""
    if not rows:
        return
    low, high = _span(torch.cat([row.flatten().float().cpu() for row in rows.values()]))
    counts = [torch.histc(row.float().cpu().clamp(low, high), bins, low, high) for row in rows.values()]
    shares = torch.stack([c / c.max() for c in counts])
    extent = (low, high, len(rows) - 0.5, -0.5)
    axis.imshow(shares.numpy(), cmap=style.shades(), aspect="auto", interpolation="nearest", extent=extent)
    if low < 0 < high:
        axis.axvline(0, color=style.INK, linewidth=0.6)


def _named(axis: Any, title: str, unit: str, names: list[str]) -> None:
    style.axis(axis, title=title, x=unit)
    axis.grid(visible=False)
    axis.locator_params("x", nbins=6)
    axis.set_yticks(range(len(names)), names, fontsize=8)
    axis.set_ylim(max(len(names), 1) - 0.5, -0.5)
    axis.spines["left"].set_visible(False)
