"""The ranges of the numbers that become bytes: where they come from, and what was seen of them.

A range taken from noise, zeros or one picture cuts off what real images reach: that cost up to 84 points of accuracy.
So ranges come from training images: recorded at the end of a training, or given to `convert` as `calibration`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from bbg.conversion.oracle import INPUT, Lowered, QuantParams, run_free
from bbg.conversion.report import ENOUGH
from bbg.conversion.search import MANY, Histogram
from bbg.conversion.verify import Arrays, batches, concatenated, outputs_of
from bbg.data.sets import Dataset, ImageSet, read_batch
from bbg.errors import BbgError
from bbg.graph import Graph
from bbg.image import Preprocess
from bbg.log import track
from bbg.sources import SUFFIXES, files_below

RECORDED = 512  # images that ranges are recorded on where there are that many
MARGIN = 1 / 8  # of a range, added at both ends where few numbers were seen of a channel
SLACK = 1 / 20  # of the range of pixels, by which images may lie beside it (interpolation, other roundings)
EVERY = 5  # one image of so many judges the ranges of the others


@dataclass(frozen=True)
class Ranges:
    """The ends of the range that the bytes of each channel cover, `[C]`, by the name of the value in the graph.

    `source`: "training", "calibration", or "example" for ranges that nobody vouches for. `images`: how many they were
    seen on, of which no two are the same.
    """

    low: Mapping[str, Tensor]
    high: Mapping[str, Tensor]
    images: int
    source: str

    @property
    def verified(self) -> bool:
        """Whether they are those of enough training images."""
        return self.source != "example" and self.images >= ENOUGH

    def __str__(self) -> str:
        images = f"{self.images} image{'s' if self.images != 1 else ''}"
        if self.source == "example":
            return f"unverified, taken from the {images} of the example"
        came = "recorded in training on" if self.source == "training" else "taken from"
        doubt = "" if self.verified else f"unverified (fewer than {ENOUGH} images), "
        return f"{doubt}{came} {images}{' of the calibration' if self.source == 'calibration' else ''}"

    def covers(self, name: str, channels: int) -> bool:
        """Whether the range of each channel of the value `name` is known."""
        return name in self.low and len(self.low[name]) == channels

    def quant(self, name: str) -> QuantParams:
        """The bytes of the value `name`.

        A channel that is always the same has the width of the others: by its scale, too, the weights are rounded.
        """
        low, high = self.low[name].double(), self.high[name].double()
        moves = high > low
        usual = (high - low)[moves].median() if moves.any() else 255.0
        return QuantParams(torch.where(moves, high - low, usual) / 255, low)

    def to_dict(self) -> dict[str, Any]:
        """As a checkpoint holds them."""
        return {"low": dict(self.low), "high": dict(self.high), "images": self.images, "source": self.source}

    @staticmethod
    def from_dict(stored: Mapping[str, Any]) -> Ranges | None:
        """What `to_dict` gave; None where nothing is stored. BbgError where it is something else."""
        if not stored:
            return None
        try:
            low, high = ({str(k): v.float().reshape(-1) for k, v in stored[end].items()} for end in ("low", "high"))
            ranges = Ranges(low, high, int(stored["images"]), str(stored["source"]))
            if all(low[k].shape == high[k].shape and bool((low[k] <= high[k]).all()) for k in (*low, *high)):
                return ranges
        except (AttributeError, LookupError, TypeError, ValueError):
            pass
        raise BbgError(
            "the stored ranges are damaged; give training images with calibration=, or on the command line --data"
        )


Calibration: TypeAlias = Ranges | Dataset | Tensor | np.ndarray | str | os.PathLike[str]


def measure(lowered: Lowered, graph: Graph, names: set[str], images: Tensor, source: str) -> tuple[Ranges, Arrays]:
    """The ranges of the values `names` on the images, and the network's outputs on them, by torch in float32.

    The images go through twice: for the least and the largest number of each channel, and for how often each number
    between comes, which gives the range of least error (search.py). Where few numbers were seen of a channel, its range
    is theirs and `MARGIN` beyond.
    """
    low: dict[str, Tensor] = {}
    high: dict[str, Tensor] = {}
    outputs = []
    parts = batches(graph, images)
    for _, batch in track(parts, "measuring ranges"):
        values = run_free(lowered.oracle, {INPUT: batch})
        outputs.append(outputs_of(graph, values))
        for name in names:
            least, most = values[name].amin((0, 2, 3)), values[name].amax((0, 2, 3))
            low[name] = torch.minimum(low.get(name, least), least)
            high[name] = torch.maximum(high.get(name, most), most)
    different = len({hash(image.numpy().tobytes()) for image in images})
    seen = {name: different * math.prod(graph.values[name].shape[1:]) for name in names}
    histograms = {name: Histogram(low[name], high[name]) for name in names if seen[name] >= MANY}
    for _, batch in track(parts if histograms else [], "searching ranges"):
        values = run_free(lowered.oracle, {INPUT: batch})
        for name, histogram in histograms.items():
            histogram.add(values[name])
    for name in names:
        ends = histograms[name].best_range() if name in histograms else _with_margin(low[name], high[name])
        low[name], high[name] = (end.float() for end in ends)
    return Ranges(low, high, different, source), concatenated(outputs)


def _with_margin(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """The range and `MARGIN` beyond, but not across 0 where the numbers are all on one side."""
    margin = MARGIN * (high - low)
    least = torch.where(low >= 0, (low - margin).clamp(min=0), low - margin)
    return least, torch.where(high <= 0, (high + margin).clamp(max=0), high + margin)


def clipped(lowered: Lowered, graph: Graph, quants: Mapping[str, QuantParams], images: Tensor) -> tuple[Arrays, float]:
    """The network's outputs in float32, and the share of the numbers of `quants` that lie outside their bytes."""
    outputs, outside, total = [], 0, 0
    for _, batch in batches(graph, images):
        values = run_free(lowered.oracle, {INPUT: batch})
        outputs.append(outputs_of(graph, values))
        for name, quant in quants.items():
            position = (values[name].double() - quant.bias[:, None, None]) / quant.scale[:, None, None]
            outside += int(((position < -0.5) | (position > 255.5)).sum())
            total += position.numel()
    return concatenated(outputs), outside / max(total, 1)


def calibration_images(
    calibration: Any, preprocess: Preprocess | None, shape: tuple[int, int, int] | None = None
) -> Tensor:
    """The images of `calibration`, normalised float32 `[N, C, H, W]` of `shape` `(C, H, W)`, at most `RECORDED`.

    Of a set or a folder they are taken evenly spread, so that every class has its part.
    """
    if isinstance(calibration, (str, os.PathLike)):
        calibration = _folder(Path(calibration), preprocess)
    if isinstance(calibration, Tensor):
        calibration = calibration.detach().cpu().numpy()
    if hasattr(calibration, "read") and hasattr(calibration, "__len__"):
        count = len(calibration)
        pixels, _ = read_batch(calibration, np.linspace(0, count - 1, min(count, RECORDED)).round().astype(int))
        calibration = (preprocess or calibration.preprocess).normalize(pixels)
    if isinstance(calibration, np.ndarray) and calibration.ndim == 4 and len(calibration):
        calibration = calibration[
            np.linspace(0, len(calibration) - 1, min(len(calibration), RECORDED)).round().astype(int)
        ]
    came = (
        f"{calibration.dtype} {list(calibration.shape)}"
        if isinstance(calibration, np.ndarray)
        else type(calibration).__name__
    )
    if isinstance(calibration, np.ndarray) and calibration.dtype == np.uint8 and calibration.ndim == 4 and preprocess:
        calibration = preprocess.normalize(calibration)
    wanted = "N, C, H, W" if shape is None else f"N, {', '.join(map(str, shape))}"
    if not (
        isinstance(calibration, np.ndarray)
        and np.issubdtype(calibration.dtype, np.floating)
        and calibration.ndim == 4
        and calibration.size
        and shape in (None, calibration.shape[1:])
    ):
        raise BbgError(
            f"calibration is {came}; give training images: a data set, a folder, uint8 [N, H, W, C] with a preprocess, "
            f"or normalised float32 [{wanted}]"
        )
    if not np.isfinite(calibration).all():
        raise BbgError("calibration holds numbers that are not finite; give normalised images")
    if preprocess is not None:
        _check_pixels(calibration, preprocess)
    return torch.from_numpy(np.ascontiguousarray(calibration, dtype=np.float32))


def _check_pixels(images: np.ndarray, preprocess: Preprocess) -> None:
    """Raise BbgError where `images` hold what no normalised pixel can be: noise, or pixels that are not normalised."""
    scale, bias = (np.array(values).reshape(-1, 1, 1) for values in preprocess.affine())
    pixels = (images - bias) / scale
    if pixels.min() < -SLACK * 255 or pixels.max() > (1 + SLACK) * 255:
        came = f"{images.min():.3g} to {images.max():.3g}"
        black, white = float(bias.min()), float((255 * scale + bias).max())
        raise BbgError(
            f"calibration holds numbers from {came}, which are no pixels: the preprocess makes {black:.3g} to "
            f"{white:.3g} of them; give training images as it normalises them, or as uint8 [N, H, W, C]"
        )


def _folder(folder: Path, preprocess: Preprocess | None) -> ImageSet:
    """The images below `folder`, evenly spread, as a data set without classes."""
    if preprocess is None:
        raise BbgError("calibration by a folder needs a preprocess, which brings its images to the network's inputs")
    files = [p for p in files_below(folder) if p.suffix.lower() in SUFFIXES and p.is_file()]
    if not files:
        raise BbgError(f"calibration: no images below {str(folder)!r}; give a folder of training images")
    spread = np.linspace(0, len(files) - 1, min(len(files), RECORDED)).round().astype(int)
    images = np.stack([preprocess.apply(files[i]) for i in spread])
    return ImageSet(images, np.zeros(len(images), np.int64), (), preprocess)
