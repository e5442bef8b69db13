"""Maps brought to other sizes, in plain numpy: real numbers by bilinear interpolation, classes by the nearest.

answers = best_classes(logits, (height, width))     # float32 [N, C, h, w] -> uint8 [N, height, width]
shown = classes[np.ix_(nearest(h, height), nearest(w, width))]
"""

from __future__ import annotations

import numpy as np

IGNORED = 255  # of a map of classes: a pixel that has none (VOC's convention)
STRIP = 2**22  # numbers that are interpolated at a time


def between(have: int, want: int, align_corners: bool = False) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each of `want` lines made of `have`: the lines before and behind it, and the share of the latter.

    Line i lies, in float32, at `i (have - 1) / (want - 1)` with `align_corners`, else at
    `max(0, (i + 1/2) have / want - 1/2)`; what would lie behind the last line is that line.
    """
    line = np.arange(want, dtype=np.float32)
    if align_corners:
        place = line * np.float32((have - 1) / max(want - 1, 1))
    else:
        place = np.maximum(np.float32(have / want) * (line + np.float32(0.5)) - np.float32(0.5), 0)
    first = np.minimum(place.astype(np.int64), have - 1)
    return first, np.minimum(first + 1, have - 1), np.minimum(place - first, 1).astype(np.float64)


def nearest(have: int, want: int) -> np.ndarray:
    """For each of `want` lines made of `have`, the line whose part of the whole its middle lies in, int64 `[want]`."""
    found: np.ndarray = (2 * np.arange(want, dtype=np.int64) + 1) * have // (2 * want)
    return found


def best_classes(logits: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The class of the largest number at each pixel, uint8 `[N, *size]`; of equal ones the first.

    `logits`: float32 `[N, C, h, w]`, at most 255 classes. They are brought to `size` (H, W) at first, bilinearly with
    half-pixel centres, as `torch.nn.functional.interpolate(..., align_corners=False)` does. No more than a few million
    numbers are interpolated at a time, however large the size is.
    """
    count, classes, high, wide = logits.shape
    if (high, wide) == size:
        best: np.ndarray = logits.argmax(1).astype(np.uint8)
        return best
    found = np.empty((count, *size), np.uint8)
    top, bottom, down = between(high, size[0])
    left, right, aside = between(wide, size[1])
    v, h = down.astype(np.float32)[:, None], aside.astype(np.float32)
    rows = max(1, STRIP // (classes * max(size[1], wide)))
    for image in range(count):
        for begin in range(0, size[0], rows):
            part = slice(begin, begin + rows)
            lines = logits[image][:, top[part]] * (1 - v[part]) + logits[image][:, bottom[part]] * v[part]
            found[image, part] = (lines[..., left] * (1 - h) + lines[..., right] * h).argmax(0)
    return found
