"""The oracle: what docs/format.md says, in plain numpy, one op at a time and one line per formula.

    values = run(graph, x)      # name -> array [N, C, H, W]: float32 for real values, int8 of +1 and -1 for bits,
                                # uint8 for bytes (x is uint8 where the input is)

Sums are formed in float64: those of a binary convolution are exact integers, the others are rounded once, to float32.
`random_graph(seed)` draws a graph of any kinds, attributes and epilogues that the format allows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from bbg.graph import Graph, Op, Output, Value, unpack_bits


def run(graph: Graph, x: np.ndarray) -> dict[str, np.ndarray]:
    """Every value of `graph` for the input `x`, float32 `[N, C, H, W]` of any height and width the graph allows."""
    shapes = graph.shapes(*x.shape[2:])
    values = {graph.input_name: x}
    for op in graph.ops:
        values |= run_op(op, [values[name] for name in op.inputs], shapes[op.result])
    return values


def outputs(graph: Graph, values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What the graph returns, by name, given its values: float32 `[N, *shape]` each."""

    def returned(output: Output) -> np.ndarray:
        parts = [values[p.value].transpose(0, *(1 + "CHW".index(axis) for axis in p.order)) for p in output.parts]
        flat = [part.reshape(len(part), -1).astype(np.float32) for part in parts]
        return np.concatenate(flat, axis=1).reshape(-1, *output.shape)

    return {output.name: returned(output) for output in graph.outputs}


def run_op(op: Op, inputs: Sequence[np.ndarray], result: Value) -> dict[str, np.ndarray]:
    """What the op writes, given what it reads."""
    main = inputs[0].astype(np.float64)
    if op.kind == "max_pool_bits":
        return {op.bits: max_pool_bits(op, main, result)}
    if "acc_threshold" in op.tensors:
        return {op.bits: signs(ACCUMULATORS[op.kind](op, main, result), op.tensors["acc_threshold"])}
    y = real_of(op, inputs, result)
    values = {} if op.real is None else {op.real: y}
    if op.bits is not None:
        values[op.bits] = signs(
            y, op.parameter("bit_threshold") if "bit_threshold" in op.epilogue else np.zeros(1, np.float32)
        )
    if op.bytes is not None:
        values[op.bytes] = np.rint(np.clip(byte_position(op, y), 0, 255)).astype(np.uint8)
    return values


def real_of(op: Op, inputs: Sequence[np.ndarray], result: Value) -> np.ndarray:
    """The real value of the op, whether it stores that or not."""
    arrays = [array.astype(np.float64) for array in inputs]
    main, *others = arrays[: len(op.operands)]
    acc = ACCUMULATORS[op.kind](op, main, result, *others)
    return epilogue(op, acc, main, 0.0 if op.shortcut is None else arrays[-1], result)


def byte_position(op: Op, y: np.ndarray) -> np.ndarray:
    """The number that is clipped and rounded to a byte."""
    scale, bias = (op.parameter(name) for name in ("byte_scale", "byte_bias"))
    y = y.astype(np.float64) * along(np.ones(1) if scale is None else scale.astype(np.float64))
    return y + along(np.zeros(1) if bias is None else bias.astype(np.float64))


def signs(y: np.ndarray, threshold: np.ndarray) -> np.ndarray:
    """+1 where `y >= threshold`, else -1."""
    return np.where(y >= along(threshold), 1, -1).astype(np.int8)


def epilogue(op: Op, acc: np.ndarray, main: np.ndarray, shortcut: np.ndarray | float, result: Value) -> np.ndarray:
    """The real value of the op, float32 `[N, O, H, W]`."""

    def row(name: str, neutral: float) -> np.ndarray:
        vector = op.parameter(name)
        return along(np.full(1, neutral) if vector is None else vector.astype(np.float64))

    v = row("scale", 1) * acc + row("bias", 0) + row("gate", 1) * shortcut
    if "shift" in op.epilogue:
        v = v + row("shift", 0) * correlate(op, main, np.ones(weight_shape(op, main)), result)
    if "tap_bias" in op.tensors:
        _, inside = taps(op, main, result)
        v = v + np.einsum("yxhw,yxo->ohw", inside, op.tensors["tap_bias"].reshape(*op.attributes["kernel"], -1))
    y = v * np.where(v >= 0, row("above", 1), row("below", 1)) + row("offset", 0)
    low, high = op.clip
    return np.clip(y, -np.inf if low is None else low, np.inf if high is None else high).astype(np.float32)


def along(vector: np.ndarray) -> np.ndarray:
    """`[C]` as `[C, 1, 1]`."""
    return vector.reshape(-1, 1, 1)


def taps(op: Op, x: np.ndarray, result: Value) -> tuple[np.ndarray, np.ndarray]:
    """The windows of `x`, `[N, C, kh, kw, H', W']`, and which taps lie inside the map, `[kh, kw, H', W']`."""

    def positions(axis: int, count: int) -> np.ndarray:
        kernel, stride, padding = (op.attributes[name][axis] for name in ("kernel", "stride", "padding"))
        dilation = op.attributes.get("dilation", (1, 1))[axis]
        return np.arange(count) * stride - padding + np.arange(kernel)[:, None] * dilation  # [k, count]

    ys, xs = positions(0, result.height)[:, None, :, None], positions(1, result.width)[None, :, None, :]
    height, width = x.shape[2:]
    inside = (ys >= 0) & (ys < height) & (xs >= 0) & (xs < width)
    return x[:, :, ys.clip(0, height - 1), xs.clip(0, width - 1)], inside


def weight_shape(op: Op, main: np.ndarray) -> tuple[int, int, int, int]:
    """`[O, kh, kw, I/g]`."""
    return op.attributes["channels"], *op.attributes["kernel"], main.shape[1] // op.attributes["groups"]


def correlate(op: Op, main: np.ndarray, weight: np.ndarray, result: Value) -> np.ndarray:
    """PyTorch's convolution of `main` with `weight` `[O, kh, kw, I/g]`; a padded tap adds 0."""
    windows, inside = taps(op, main, result)
    windows = np.where(inside, windows, 0.0)
    groups = op.attributes["groups"]
    parts = [
        np.einsum("ncyxhw,oyxc->nohw", w, k, optimize=True)
        for w, k in zip(np.split(windows, groups, axis=1), np.split(weight, groups), strict=True)
    ]
    return np.concatenate(parts, axis=1)


def conv(op: Op, main: np.ndarray, result: Value) -> np.ndarray:
    return correlate(op, main, op.tensors["weight"].astype(np.float64), result)


def byte_conv(op: Op, main: np.ndarray, result: Value) -> np.ndarray:
    return conv(op, main, result)


def binary_conv(op: Op, main: np.ndarray, result: Value) -> np.ndarray:
    shape = weight_shape(op, main)
    weight = unpack_bits(op.tensors["weight"], math.prod(shape[1:])).reshape(shape)
    return correlate(op, main, weight.astype(np.float64), result)


def max_pool(op: Op, main: np.ndarray, result: Value) -> np.ndarray:
    windows, inside = taps(op, main, result)
    return np.where(inside, windows, -np.inf).max(axis=(2, 3))


def max_pool_bits(op: Op, main: np.ndarray, result: Value) -> np.ndarray:
    windows, inside = taps(op, main, result)
    either = np.where(inside, windows, -1).max(axis=(2, 3))
    every = np.where(inside, windows, 1).min(axis=(2, 3))
    mask = unpack_bits(op.tensors["and_mask"][None], main.shape[1])[0]
    return np.where(along(mask) > 0, every, either).astype(np.int8)


def avg_pool(op: Op, main: np.ndarray, result: Value) -> np.ndarray:
    windows, inside = taps(op, main, result)
    total = np.where(inside, windows, 0.0).sum(axis=(2, 3))
    if not op.attributes["count_include_pad"]:
        return total / inside.sum(axis=(0, 1))

    def counted(axis: int, size: int, count: int) -> np.ndarray:
        """Taps up to the end of the padding: a window that `ceil_mode` lets hang over counts no more."""
        kernel, stride, padding = (op.attributes[name][axis] for name in ("kernel", "stride", "padding"))
        start = np.arange(count) * stride - padding
        return np.minimum(start + kernel, size + padding) - start

    return total / np.outer(counted(0, main.shape[2], result.height), counted(1, main.shape[3], result.width))


def adaptive_avg_pool(op: Op, main: np.ndarray, result: Value) -> np.ndarray:
    def bounds(i: int, count: int, size: int) -> slice:
        return slice(i * size // count, -(-(i + 1) * size // count))

    out = np.empty((*main.shape[:2], result.height, result.width))
    for y, x in np.ndindex(result.height, result.width):
        rows, columns = bounds(y, result.height, main.shape[2]), bounds(x, result.width, main.shape[3])
        out[:, :, y, x] = main[:, :, rows, columns].mean(axis=(2, 3))
    return out


def match_channels(op: Op, main: np.ndarray, result: Value) -> np.ndarray:
    have, want = main.shape[1], result.channels
    if want >= have:
        return main[:, np.arange(want) % have]
    return np.stack([main[:, c::want].mean(axis=1) for c in range(want)], axis=1)


def pointwise(op: Op, main: np.ndarray, result: Value) -> np.ndarray:
    return main


def concat(op: Op, main: np.ndarray, result: Value, *others: np.ndarray) -> np.ndarray:
    return np.concatenate([main, *others], axis=1)


def select(op: Op, main: np.ndarray, result: Value) -> np.ndarray:
    return main[:, op.tensors["index"]]


def multiply(op: Op, main: np.ndarray, result: Value, factor: np.ndarray) -> np.ndarray:
    return main * factor


def unary(op: Op, main: np.ndarray, result: Value) -> np.ndarray:
    return FUNCTIONS[op.attributes["function"]](main)


def layer_norm(op: Op, main: np.ndarray, result: Value) -> np.ndarray:
    distance = main - main.mean(axis=1, keepdims=True)
    return distance / np.sqrt((distance**2).mean(axis=1, keepdims=True) + op.attributes["eps"])


ACCUMULATORS = {
    f.__name__: f
    for f in (
        conv,
        byte_conv,
        binary_conv,
        max_pool,
        avg_pool,
        adaptive_avg_pool,
        match_channels,
        pointwise,
        concat,
        select,
        multiply,
        unary,
        layer_norm,
    )
}

FUNCTIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "tanh": np.tanh,
    "sigmoid": lambda x: 0.5 * (1 + np.tanh(x / 2)),
    "silu": lambda x: x * 0.5 * (1 + np.tanh(x / 2)),
    "hardswish": lambda x: x * np.clip(x / 6 + 0.5, 0, 1),
    "gelu": lambda x: x * 0.5 * (1 + np.vectorize(math.erf, otypes=[np.float64])(x / math.sqrt(2))),
}
