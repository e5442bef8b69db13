"""Mean and standard deviation of the colours of a set."""

from __future__ import annotations

import numpy as np

from bbg.data.sets import Dataset, read_batch

MEASURED = 1000  # images, evenly spread over the set


def statistics(data: Dataset) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of the pixels / 255 of each channel, over up to `MEASURED` images, to 4 decimals.

    A channel that is the same everywhere gets the standard deviation 1.
    """
    spread = np.linspace(0, len(data) - 1, min(len(data), MEASURED)).round().astype(int)
    count, total, squares = 0, np.zeros(()), np.zeros(())
    for part in np.array_split(spread, -(-len(spread) // 50)):
        pixels = read_batch(data, part)[0].astype(np.float64) / 255
        count += pixels[..., 0].size
        total = total + pixels.sum((0, 1, 2))
        squares = squares + (pixels**2).sum((0, 1, 2))
    mean = total / count
    std = np.sqrt(np.maximum(squares / count - mean**2, 0))
    return tuple(mean.round(4).tolist()), tuple(np.where(std < 1e-3, 1, std.round(4)).tolist())
