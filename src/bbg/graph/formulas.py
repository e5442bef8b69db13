"""The accumulator of every op kind in plain numpy: what docs/format.md says, one line per formula.

Each formula takes the op's attributes and tensors, the shape of the result, and the operands as float64 `[N, C, H, W]`.
Sums are formed in float64: those of a binary convolution are exact integers.
"""

from __future__ import annotations

import math

import numpy as np

from bbg.graph.bits import unpack_bits
from bbg.graph.types import Attributes, Shape, Tensors
from bbg.maps import between


def per_channel(vector: np.ndarray) -> np.ndarray:
    """`[C]` as `[C, 1, 1]`."""
    return vector.reshape(-1, 1, 1)


# ---- windows --------------------------------------------------------------------------------------------------------


def taps(a: Attributes, x: np.ndarray, result: Shape) -> tuple[np.ndarray, np.ndarray]:
    """The windows of `x`, `[N, C, kh, kw, H', W']`, and which taps lie inside the map, `[kh, kw, H', W']`."""

    def positions(axis: int, count: int) -> np.ndarray:
        kernel, stride, padding = (a[name][axis] for name in ("kernel", "stride", "padding"))
        dilation = a.get("dilation", (1, 1))[axis]
        return np.asarray(np.arange(count) * stride - padding + np.arange(kernel)[:, None] * dilation)  # [k, count]

    ys, xs = positions(0, result[1])[:, None, :, None], positions(1, result[2])[None, :, None, :]
    height, width = x.shape[2:]
    inside = (ys >= 0) & (ys < height) & (xs >= 0) & (xs < width)
    return x[:, :, ys.clip(0, height - 1), xs.clip(0, width - 1)], inside


def filter_shape(a: Attributes, channels: int) -> tuple[int, int, int, int]:
    """`[O, kh, kw, I/g]` of a convolution of `channels` inputs."""
    return a["channels"], *a["kernel"], channels // a["groups"]


def correlate(a: Attributes, main: np.ndarray, weight: np.ndarray, result: Shape) -> np.ndarray:
    """PyTorch's convolution of `main` with `weight` `[O, kh, kw, I/g]`; a padded tap adds 0."""
    windows, inside = taps(a, main, result)
    windows = np.where(inside, windows, 0.0)
    groups = a["groups"]
    parts = [
        np.einsum("ncyxhw,oyxc->nohw", w, k, optimize=True)
        for w, k in zip(np.split(windows, groups, axis=1), np.split(weight, groups), strict=True)
    ]
    return np.concatenate(parts, axis=1)


def window_sums(a: Attributes, main: np.ndarray, result: Shape) -> np.ndarray:
    """The sum over each window, for every output channel of its group's inputs: the `S` of the epilogue."""
    return correlate(a, main, np.ones(filter_shape(a, main.shape[1])), result)


def tap_sums(a: Attributes, tap_bias: np.ndarray, main: np.ndarray, result: Shape) -> np.ndarray:
    """The sum of `tap_bias` `[kh*kw, O]` over the taps inside the map, `[O, H', W']`."""
    _, inside = taps(a, main, result)
    return np.asarray(np.einsum("yxhw,yxo->ohw", inside, tap_bias.reshape(*a["kernel"], -1)))


def conv(a: Attributes, t: Tensors, result: Shape, main: np.ndarray) -> np.ndarray:
    return correlate(a, main, t["weight"].astype(np.float64), result)


def binary_conv(a: Attributes, t: Tensors, result: Shape, main: np.ndarray) -> np.ndarray:
    shape = filter_shape(a, main.shape[1])
    weight = unpack_bits(t["weight"], math.prod(shape[1:])).reshape(shape)
    return correlate(a, main, weight.astype(np.float64), result)


def max_pool(a: Attributes, t: Tensors, result: Shape, main: np.ndarray) -> np.ndarray:
    windows, inside = taps(a, main, result)
    return np.asarray(np.where(inside, windows, -np.inf).max(axis=(2, 3)))


def max_pool_bits(a: Attributes, t: Tensors, result: Shape, main: np.ndarray) -> np.ndarray:
    windows, inside = taps(a, main, result)
    either = np.where(inside, windows, -1).max(axis=(2, 3))
    every = np.where(inside, windows, 1).min(axis=(2, 3))
    mask = unpack_bits(t["and_mask"][None], main.shape[1])[0]
    return np.asarray(np.where(per_channel(mask) > 0, every, either))


def avg_pool(a: Attributes, t: Tensors, result: Shape, main: np.ndarray) -> np.ndarray:
    windows, inside = taps(a, main, result)
    total = np.where(inside, windows, 0.0).sum(axis=(2, 3))
    if not a["count_include_pad"]:
        return np.asarray(total / inside.sum(axis=(0, 1)))

    def counted(axis: int, size: int, count: int) -> np.ndarray:
        """Taps up to the end of the padding: a window that `ceil_mode` lets hang over counts no more."""
        kernel, stride, padding = (a[name][axis] for name in ("kernel", "stride", "padding"))
        start = np.arange(count) * stride - padding
        return np.asarray(np.minimum(start + kernel, size + padding) - start)

    return np.asarray(total / np.outer(counted(0, main.shape[2], result[1]), counted(1, main.shape[3], result[2])))


def adaptive_avg_pool(a: Attributes, t: Tensors, result: Shape, main: np.ndarray) -> np.ndarray:
    def bounds(i: int, count: int, size: int) -> slice:
        return slice(i * size // count, -(-(i + 1) * size // count))

    out = np.empty((*main.shape[:2], *result[1:]))
    for y, x in np.ndindex(*result[1:]):
        rows, columns = bounds(y, result[1], main.shape[2]), bounds(x, result[2], main.shape[3])
        out[:, :, y, x] = main[:, :, rows, columns].mean(axis=(2, 3))
    return out


def bilinear(a: Attributes, t: Tensors, result: Shape, main: np.ndarray) -> np.ndarray:
    top, bottom, v = between(main.shape[2], result[1], a["align_corners"])
    left, right, h = between(main.shape[3], result[2], a["align_corners"])
    rows = main[:, :, top] * (1 - v[:, None]) + main[:, :, bottom] * v[:, None]
    return np.asarray(rows[..., left] * (1 - h) + rows[..., right] * h)


def take(a: Attributes, t: Tensors, result: Shape, main: np.ndarray) -> np.ndarray:
    rows, columns = np.split(t["index"], [result[1]])
    return main[:, :, rows[:, None], columns]


def depth_to_space(a: Attributes, t: Tensors, result: Shape, main: np.ndarray) -> np.ndarray:
    phases = main.reshape(len(main), *a["stride"], result[0], *main.shape[2:])  # [N, sy, sx, C, H, W]
    return phases.transpose(0, 3, 4, 1, 5, 2).reshape(len(main), *result)


# ---- numbers of one pixel -------------------------------------------------------------------------------------------


def match_channels(a: Attributes, t: Tensors, result: Shape, main: np.ndarray) -> np.ndarray:
    have, want = main.shape[1], a["channels"]
    if want >= have:
        return main[:, np.arange(want) % have]
    return np.stack([main[:, c::want].mean(axis=1) for c in range(want)], axis=1)


def pointwise(a: Attributes, t: Tensors, result: Shape, main: np.ndarray) -> np.ndarray:
    return main


def concat(a: Attributes, t: Tensors, result: Shape, *operands: np.ndarray) -> np.ndarray:
    return np.concatenate(operands, axis=1)


def select(a: Attributes, t: Tensors, result: Shape, main: np.ndarray) -> np.ndarray:
    return main[:, t["index"]]


def multiply(a: Attributes, t: Tensors, result: Shape, main: np.ndarray, factor: np.ndarray) -> np.ndarray:
    return np.asarray(main * factor)


def layer_norm(a: Attributes, t: Tensors, result: Shape, main: np.ndarray) -> np.ndarray:
    distance = main - main.mean(axis=1, keepdims=True)
    return np.asarray(distance / np.sqrt((distance**2).mean(axis=1, keepdims=True) + a["eps"]))


def max_channels(a: Attributes, t: Tensors, result: Shape, main: np.ndarray) -> np.ndarray:
    have, want = main.shape[1], a["channels"]
    return np.stack([main[:, c % have :: want].max(axis=1) for c in range(want)], axis=1)


def log_softmax(a: Attributes, t: Tensors, result: Shape, main: np.ndarray) -> np.ndarray:
    below = main - main.max(axis=1, keepdims=True)
    return np.asarray(below - np.log(np.exp(below).sum(axis=1, keepdims=True)))


def softmax(a: Attributes, t: Tensors, result: Shape, main: np.ndarray) -> np.ndarray:
    return np.asarray(np.exp(log_softmax(a, t, result, main)))


SMALLEST = 2.0**-126  # of the normal float32 numbers


def exp(x: np.ndarray) -> np.ndarray:
    """`exp(min(x, 88))`."""
    return np.asarray(np.exp(np.minimum(x, 88)))


def reciprocal(x: np.ndarray) -> np.ndarray:
    """`1 / x`, where x is as far from 0 as the smallest normal number at least."""
    return np.asarray(1 / np.where(x >= 0, np.maximum(x, SMALLEST), np.minimum(x, -SMALLEST)))


def rsqrt(x: np.ndarray) -> np.ndarray:
    """`1 / sqrt(x)`, where x is the smallest normal number at least."""
    return np.asarray(1 / np.sqrt(np.maximum(x, SMALLEST)))


def log(x: np.ndarray) -> np.ndarray:
    """`log(x)`: -inf of 0, NaN of what is negative, without a warning."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.log(x))


def log1p(x: np.ndarray) -> np.ndarray:
    """`log(1 + x)`, the same around -1."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.log1p(x))


def sigmoid(x: np.ndarray) -> np.ndarray:
    """`1 / (1 + exp(-x))`, without overflow."""
    return np.asarray(np.exp(-np.logaddexp(0, -x)))


def normal_cdf(x: np.ndarray) -> np.ndarray:
    """`(1 + erf(x / sqrt 2)) / 2`, the cumulative distribution of the standard normal."""
    return np.asarray(0.5 * (1 + np.vectorize(math.erf, otypes=[np.float64])(x / math.sqrt(2))))
