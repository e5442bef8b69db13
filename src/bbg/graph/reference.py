"""The oracle: what docs/format.md says, in plain numpy, one op at a time and one line per formula.

    values = run(graph, x)      # name -> array [N, C, H, W]: float32 for real values, int8 of +1 and -1 for bits,
                                # uint8 for bytes (x is uint8 where the input is)

Sums are formed in float64: those of a binary convolution are exact integers, the others are rounded once, to float32.
`random_graph(seed)` draws a graph of any kinds, attributes and epilogues that the format allows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from bbg.errors import BbgError
from bbg.graph import Graph, Op, Output, Value, pack_bits, unpack_bits
from bbg.image import Preprocess
from bbg.graph.kinds import ATTRIBUTES, KINDS, REQUIRED
from bbg.graph.file import Model


def run(graph: Graph, x: np.ndarray) -> dict[str, np.ndarray]:
    """Every value of `graph` for the input `x`, float32 `[N, C, H, W]` of any height and width the graph allows."""
    shapes = graph.shapes(*x.shape[2:])
    values = {graph.input_name: x}
    for op in graph.ops:
        values |= run_op(op, [values[name] for name in op.inputs], shapes[op.result])
    return values


def run_op(op: Op, inputs: Sequence[np.ndarray], result: Value) -> dict[str, np.ndarray]:
    """What the op writes, given what it reads."""
    main = inputs[0].astype(np.float64)
    if op.kind == "max_pool_bits":
        return {op.bits: max_pool_bits(op, main, result)}
    if "threshold" in op.tensors:
        return {op.bits: signs(ACCUMULATORS[op.kind](op, main, result), op.tensors["threshold"])}
    y = real_of(op, inputs, result)
    values = {} if op.real is None else {op.real: y}
    if op.bits is not None:
        values[op.bits] = signs(y, op.row("sign") if "sign" in op.epilogue else np.zeros(1, np.float32))
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
    scale, bias = (op.row(name) for name in ("byte_scale", "byte_bias"))
    y = y.astype(np.float64) * along(np.ones(1) if scale is None else scale.astype(np.float64))
    return y + along(np.zeros(1) if bias is None else bias.astype(np.float64))


def signs(y: np.ndarray, threshold: np.ndarray) -> np.ndarray:
    """+1 where `y >= threshold`, else -1."""
    return np.where(y >= along(threshold), 1, -1).astype(np.int8)


def epilogue(op: Op, acc: np.ndarray, main: np.ndarray, shortcut: np.ndarray | float, result: Value) -> np.ndarray:
    """The real value of the op, float32 `[N, O, H, W]`."""

    def row(name: str, neutral: float) -> np.ndarray:
        vector = op.row(name)
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


def tanh(op: Op, main: np.ndarray, result: Value) -> np.ndarray:
    return np.tanh(main)


def sigmoid(op: Op, main: np.ndarray, result: Value) -> np.ndarray:
    return 0.5 * (1 + np.tanh(main / 2))


def silu(op: Op, main: np.ndarray, result: Value) -> np.ndarray:
    return main * sigmoid(op, main, result)


def hardswish(op: Op, main: np.ndarray, result: Value) -> np.ndarray:
    return main * np.clip(main / 6 + 0.5, 0, 1)


def gelu(op: Op, main: np.ndarray, result: Value) -> np.ndarray:
    return main * 0.5 * (1 + np.vectorize(math.erf, otypes=[np.float64])(main / math.sqrt(2)))


def layer_norm(op: Op, main: np.ndarray, result: Value) -> np.ndarray:
    distance = main - main.mean(axis=1, keepdims=True)
    return distance / np.sqrt((distance**2).mean(axis=1, keepdims=True) + op.attributes["eps"])


ACCUMULATORS = {
    f.__name__: f
    for f in (conv, byte_conv, binary_conv, max_pool, avg_pool, adaptive_avg_pool, match_channels, pointwise,
              concat, select, multiply, tanh, sigmoid, silu, hardswish, gelu, layer_norm)
}  # fmt: skip


def margin(graph: Graph, values: dict[str, np.ndarray]) -> float:
    """How near any bit or byte is to falling the other way: least `|y - sign|` over the op's largest `|y|`.

    Only bits formed from real values count: integer thresholds are exact, and so is a `y` of exactly `sign`, as sums of
    +-1 that cancel are. A byte falls at the middle between two. 0 where a real value is not finite.
    """
    least = 1.0
    for op in graph.ops:
        plain = op.bits is None and op.bytes is None
        if plain or op.kind == "max_pool_bits" or "threshold" in op.tensors:
            continue
        real = values[op.real] if op.real is not None else run_real(op, values)
        if not np.isfinite(real).all():
            return 0.0
        threshold = op.row("sign") if "sign" in op.epilogue else np.zeros(1, np.float32)
        distance = np.abs(real.astype(np.float64) - along(threshold))
        near = distance[distance > 0] if op.bits is not None else np.empty(0)
        if op.bytes is not None:
            position = byte_position(op, real)
            steps = np.abs(position - np.floor(position) - 0.5)[(position > -0.5) & (position < 255.5)]
            scale = np.ones(1) if op.row("byte_scale") is None else np.abs(op.row("byte_scale"))
            near = np.append(near, steps / max(scale.max(), 1e-30))
        if near.size:
            least = min(least, float(near.min() / max(np.abs(real).max(), 1e-30)))
    return least


def run_real(op: Op, values: dict[str, np.ndarray]) -> np.ndarray:
    """The real value behind an op that stores only its bits."""
    channels, height, width = values[op.result].shape[1:]
    return real_of(op, [values[name] for name in op.inputs], Value("real", channels, height, width))


def random_graph(seed: int, ops: int = 6, channels: Sequence[int] = (1, 3, 8, 16, 33, 64, 70), size: int = 9) -> Graph:
    """A valid graph of `ops` random ops on small maps; every value that no op reads is an output."""
    rng = np.random.default_rng(seed)
    byte_input = rng.random() < 0.2
    height, width = (int(n) for n in rng.integers(1, size + 1, 2))
    first = Value("real", int(rng.choice(channels[:4])), height, width)
    if byte_input:
        first = Value("bytes", int(rng.choice((1, 3))), height, width)
    values, drawn = {"x": first}, []
    while len(drawn) < ops:
        types = {value.type for value in values.values()}
        allowed = [name for name, kind in KINDS.items() if kind.main in types]
        kind = "binary_conv" if "bits" in types and rng.random() < 0.4 else str(rng.choice(allowed))
        begin = "byte_conv" if byte_input else "conv"
        op = _random_op(rng, f"op{len(drawn)}", kind if drawn else begin, values, channels, first=not drawn)
        if op is not None:
            drawn.append(op)
            values = Graph("x", first.shape, tuple(drawn), (), first.type).shapes(first.height, first.width)
    read = {name for op in drawn for name in op.inputs}
    last = [name for name in values if name not in read and name != "x"]
    outputs = tuple(Output(f"out{i}", name, bool(rng.integers(2))) for i, name in enumerate(last))
    graph = Graph("x", first.shape, tuple(drawn), outputs, first.type)
    graph.check()
    return graph


def packed(graph: Graph) -> Model:
    """`graph` as a model, with a preprocessing where its input is bytes."""
    channels, *size = graph.input_shape
    if graph.input_type == "real":
        return Model(graph)
    mode = {1: "L", 3: "RGB"}[channels]
    return Model(graph, Preprocess(tuple(size), mode=mode, mean=(0.5,) * channels, std=(0.25,) * channels))


def random_input(graph: Graph, images: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """`[N, C, H, W]` for `run`, and the same images as an engine takes them."""
    shape = (images, *graph.input_shape)
    if graph.input_type == "real":
        x = rng.standard_normal(shape).astype(np.float32)
        return x, x
    x = rng.integers(0, 256, shape).astype(np.uint8)
    return x, np.ascontiguousarray(x.transpose(0, 2, 3, 1))


def _random_op(rng: np.random.Generator, name: str, kind: str, values: dict[str, Value], channels: Sequence[int],
               first: bool) -> Op | None:  # fmt: skip
    """One op on what exists, or None where the attributes drawn do not fit the map."""
    rule = KINDS[kind]
    main = str(rng.choice([key for key, value in values.items() if value.type == rule.main]))
    draw = {
        "kernel": lambda: tuple(int(k) for k in rng.integers(1, 5, 2)),
        "stride": lambda: tuple(int(s) for s in rng.integers(1, 3, 2)),
        "padding": lambda: tuple(int(p) for p in rng.integers(0, 4, 2)),
        "dilation": lambda: tuple(int(d) for d in rng.integers(1, 3, 2)),
        "groups": lambda: int(rng.choice([1, 1, 1, 2, values[main].channels])),
        "channels": lambda: int(rng.choice(channels)),
        "size": lambda: tuple(int(s) for s in rng.integers(1, 8, 2)),
        "ceil_mode": lambda: bool(rng.integers(2)),
        "count_include_pad": lambda: bool(rng.integers(2)),
        "eps": lambda: float(10 ** rng.uniform(-5, 0)),
    }
    given = [key for key in rule.attributes if ATTRIBUTES[key].default is REQUIRED or rng.random() < 0.7]
    attributes = {key: draw[key]() for key in given}
    operands = _operands(rng, kind, main, values)
    real, bits = [(True, True), (True, False), (False, True)][0 if first else int(rng.integers(3))]
    byte = bool(rng.random() < 0.15)
    if not rule.epilogue:
        real, bits, byte = False, True, False
    try:
        attributes = dict(Op(name, kind, operands, attributes=attributes).attributes)
        shape = rule.shape(attributes, *(values[key].shape for key in operands))
    except BbgError:
        return None
    if min(shape) < 1 or math.prod(shape) > 50_000:
        return None
    shortcuts = [key for key, value in values.items() if value == Value("real", *shape)]
    integer = "threshold" in rule.optional and not real and not byte and rng.random() < 0.5
    plain = integer or not rule.epilogue
    added = bool(shortcuts) and not plain and rule.operands is not None and rng.random() < 0.7
    inputs = (*operands, str(rng.choice(shortcuts))) if added else operands
    rows = tuple(r for r in rng.permutation(rule.rows) if rng.random() < 0.5 and (r != "gate" or added))
    clip = (None, None) if plain or rng.random() < 0.3 else (-2.0, float(rng.integers(0, 4)))
    op = Op(name, kind, inputs, f"{name}.real" if real else None, f"{name}.bits" if bits else None, attributes,
            epilogue=() if plain else tuple(str(r) for r in rows), clip=clip,
            bytes=f"{name}.bytes" if byte else None)  # fmt: skip
    return _with_tensors(rng, op, values[main], shape[0], integer)


def _operands(rng: np.random.Generator, kind: str, main: str, values: dict[str, Value]) -> tuple[str, ...]:
    """`main` and what goes with it; a value may come more than once."""
    if KINDS[kind].operands == 1:
        return (main,)
    real = [key for key, value in values.items() if value.type == "real"]
    if kind == "multiply":
        c, h, w = values[main].shape
        return main, str(rng.choice([key for key in real if values[key].shape in ((c, h, w), (c, 1, 1))]))
    beside = [key for key in real if values[key].shape[1:] == values[main].shape[1:]]
    return main, *(str(key) for key in rng.choice(beside, int(rng.integers(1, 4))))


def _with_tensors(rng: np.random.Generator, op: Op, main: Value, channels: int, integer: bool) -> Op:
    """`op` with random tensors."""
    tensors = {}
    taps_too = op.kind in ("binary_conv", "byte_conv") and not integer and rng.random() < 0.3
    wanted = {"epilogue": bool(op.epilogue), "tap_bias": taps_too}
    for key, (dtype, shape) in op._tensor_forms(main, channels).items():
        if key == "and_mask" and op.kind == "max_pool_bits":
            tensors[key] = pack_bits(rng.random(main.channels) < 0.5, 1)[0]
        elif key == "weight" and dtype == "uint64":
            tensors[key] = pack_bits(rng.random((channels, op.fan_in(main))) < 0.5, channels)
        elif key == "weight" and dtype == "int8":
            tensors[key] = rng.integers(-128, 128, shape).astype(np.int8)
        elif key == "index" and op.kind == "select":
            start = int(rng.integers(main.channels))
            side_by_side = (start + np.arange(channels)) % main.channels
            drawn = side_by_side if rng.random() < 0.5 else rng.integers(0, main.channels, channels)
            tensors[key] = drawn.astype(np.int32)
        elif key == "threshold" and integer:
            tensors[key] = rng.integers(-5, 6, shape).astype(np.int32)
        elif dtype == "float32" and wanted.get(key, True):
            tensors[key] = rng.normal(size=shape).astype(np.float32)
            if key == "epilogue":  # spread what becomes bytes over their range
                for row, factor in (("byte_scale", 50.0), ("byte_bias", 100.0)):
                    if row in op.epilogue:
                        tensors[key][op.epilogue.index(row)] *= factor
    return Op(op.name, op.kind, op.inputs, op.real, op.bits, op.attributes, tensors, op.epilogue, op.clip, op.bytes)
