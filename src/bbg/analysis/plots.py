"""Histograms of weights, gates and thresholds as a picture."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bbg.analysis.weights import binary_layers, gates, weight_entropy
from bbg.errors import BbgError


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
    from matplotlib.figure import Figure

    learned = gates(model)
    figure = Figure(figsize=(13, max(3.0, 0.22 * len(entropies) + 1.5)), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    figure.suptitle(title)
    lines = range(len(entropies))
    left.hlines(lines, [e.least for e in entropies], [float(e.filters.max()) for e in entropies], color="tab:gray")
    left.plot([e.mean for e in entropies], lines, "o", color="tab:blue", markersize=4)
    left.set(xlim=(-0.02, 1.02), xlabel="entropy of a filter's signs (bits)")
    _label(left, [e.name for e in entropies])
    reach = max((float(g.values.abs().max()) for g in learned), default=1.0) * 1.05
    _lines(middle, {g.name: g.values for g in learned}, (-reach, reach))
    middle.set(xlabel="gate" if learned else "gate (no unit has a learned one)")
    latent = {}
    for name, layer in binary_layers(model).items():
        binarizer = layer.weight_binarizer
        threshold = binarizer.form(layer.weight).threshold
        w = layer.weight if threshold is None else layer.weight - binarizer.broadcast(threshold, layer.weight)
        latent[name] = (w / w.abs().mean().clamp(min=1e-30)).cpu()
    _lines(right, latent, (-4.0, 4.0))
    right.set(xlabel="latent weight / mean magnitude")
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=110)
    path = path / "histograms.png" if path.is_dir() else path
    try:
        path.write_bytes(drawn.getvalue())
    except OSError as e:
        raise BbgError(f"cannot write {str(path)!r}: {e.strerror}; give a file in a writable folder") from e
    return path


def _lines(axis: Any, rows: dict[str, Tensor], span: tuple[float, float], bins: int = 60) -> None:
    """A histogram of each row over `span`, values beyond it in the outermost cells, each scaled to its fullest cell."""
    counts = [torch.histc(row.float().clamp(*span), bins, *span) for row in rows.values()]
    if counts:
        shares = torch.stack([c / c.max() for c in counts])
        axis.imshow(
            shares.numpy(), cmap="Blues", aspect="auto", interpolation="nearest", extent=(*span, len(rows) - 0.5, -0.5)
        )
        axis.axvline(0, color="black", linewidth=0.6)
    _label(axis, list(rows))


def _label(axis: Any, names: list[str]) -> None:
    axis.locator_params("x", nbins=6)
    axis.set_yticks(range(len(names)), names, fontsize=7)
    axis.set_ylim(max(len(names), 1) - 0.5, -0.5)
