"""Random graphs of any kinds, attributes and epilogues that the format allows, and how near their bits are to a tie."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from bbg.errors import BbgError
from bbg.graph import Graph, Op, Output, Part, Structure, Value, pack_bits
from bbg.graph.file import PackedModel
from bbg.graph.formulas import per_channel
from bbg.graph.kinds import ATTRIBUTES, FUNCTIONS, KINDS, REQUIRED, TENSORS, Attribute, Kind
from bbg.graph.reference import byte_position, parameter, real_of
from bbg.image import Preprocess


def margin(graph: Graph, values: dict[str, np.ndarray]) -> float:
    """How near any bit or byte is to falling the other way: least `|y - bit_threshold|` over the op's largest `|y|`.

    Only bits formed from real values count: integer thresholds are exact, and so is a `y` of exactly the threshold, as
    sums of +-1 that cancel are. A byte falls at the middle between two. 0 where a real value is not finite.
    """
    least = 1.0
    for op in graph.ops:
        plain = op.bits is None and op.bytes is None
        if plain or not KINDS[op.kind].real_output or "acc_threshold" in op.tensors:
            continue
        real = values[op.real] if op.real is not None else run_real(op, values)
        if not np.isfinite(real).all():
            return 0.0
        threshold = parameter(op, "bit_threshold")
        distance = np.abs(real.astype(np.float64) - per_channel(threshold))
        near = distance[distance > 0] if op.bits is not None else np.empty(0)
        if op.bytes is not None:
            position = byte_position(op, real)
            steps = np.abs(position - np.floor(position) - 0.5)[(position > -0.5) & (position < 255.5)]
            scale = np.abs(parameter(op, "byte_scale"))
            near = np.append(near, steps / max(scale.max(), 1e-30))
        if near.size:
            least = min(least, float(near.min() / max(np.abs(real).max(), 1e-30)))
    return least


def run_real(op: Op, values: dict[str, np.ndarray]) -> np.ndarray:
    """The real value behind an op that stores only its bits."""
    channels, height, width = values[op.result].shape[1:]
    return real_of(op, [values[name] for name in op.inputs], Value("real", channels, height, width))


def random_graph(seed: int, ops: int = 6, channels: Sequence[int] = (1, 3, 8, 16, 33, 64, 70), size: int = 9) -> Graph:
    """A valid graph of `ops` random ops on small maps; every value that no op reads is a part of an output."""
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
        if op is not None and _has_numbers(op, drawn):
            drawn.append(op)
            values = Graph("x", first.shape, tuple(drawn), (), first.type).shapes(first.height, first.width)
    read = {name for op in drawn for name in op.inputs}
    last = [name for name in values if name not in read and name != "x"]
    structure, outputs = _random_outputs(rng, last, values)
    graph = Graph("x", first.shape, tuple(drawn), outputs, first.type, structure)
    graph.check()
    return graph


def random_joins(seed: int, ops: int = 14) -> Graph:
    """Concatenations of any values on one map, nested and of the same values, among ops that read them and add them.

    The outputs are the values that no op reads.
    """
    rng = np.random.default_rng(seed)
    channels = [(8, 16, 32), (1, 3, 8, 20), (5, 16, 24, 40)][seed % 3]
    height, width = (int(n) for n in rng.integers(1, 6, 2))
    drawn: list[Op] = []
    values = {"x": Value("real", int(rng.choice(channels)), height, width)}
    while len(drawn) < ops:
        real = [key for key, value in values.items() if value.type == "real"]
        bits = [key for key, value in values.items() if value.type == "bits"]
        name = f"op{len(drawn)}"
        kinds = ["conv", "depthwise", "concat", "concat", "concat", "max_pool", "pointwise", "match_channels"]
        kind = str(rng.choice([*kinds, *(["binary_conv"] * 3 if bits else [])]) if drawn else "conv")
        late = real[-6:] if rng.random() < 0.8 else real
        sources = [str(rng.choice(bits if kind == "binary_conv" else late))]
        main = values[sources[0]]
        attributes: dict[str, object] = {}
        if kind in ("conv", "depthwise", "binary_conv", "max_pool"):
            size = int(rng.choice([1, 3]))
            attributes = {"kernel": (size, size), "padding": (size // 2, size // 2)}
        if kind in ("conv", "depthwise", "binary_conv", "match_channels"):
            count = main.channels if kind == "depthwise" else int(rng.choice(channels)) * int(rng.integers(1, 3))
            attributes["channels"] = count
        if kind == "depthwise":
            kind, attributes["groups"] = "conv", main.channels
        if kind == "concat":
            sources += [str(key) for key in rng.choice(late, int(rng.integers(1, 4)))]
            if rng.random() < 0.9:  # else one may come twice
                sources = list(dict.fromkeys(sources))
            if len(sources) < 2 or sum(values[key].channels for key in sources) > 200:
                continue
        rule, operands = KINDS[kind], tuple(sources)
        attributes = dict(Op(name, kind, operands, attributes=attributes).attributes)
        shape = rule.shape(attributes, *(values[key].shape for key in operands))
        shortcuts = [key for key, value in values.items() if value == Value("real", *shape) and rule.shortcut]
        added = bool(shortcuts) and rng.random() < 0.7
        op = Op(
            name,
            kind,
            (*operands, str(rng.choice(shortcuts))) if added else operands,
            f"{name}.real" if not drawn or rng.random() < 0.9 else None,
            f"{name}.bits" if rng.random() < 0.5 else None,
            attributes,
            epilogue=("bit_threshold", "byte_bias") if rng.random() < 0.8 else ("scale",),
            bytes=f"{name}.bytes" if rng.random() < 0.2 else None,
        )
        if op.written:
            drawn.append(_with_tensors(rng, op, main, shape[0], False))
            values = Graph("x", values["x"].shape, tuple(drawn), ()).shapes(height, width)
    read = {key for op in drawn for key in op.inputs}
    last = [key for key in values if key not in read and key != "x"]
    return Graph("x", values["x"].shape, tuple(drawn), ()).with_outputs(last)


def random_moves(seed: int, ops: int = 14) -> Graph:
    """Shuffles, splits and joins of channels on one map that convolutions of bytes, max-pools and others read.

    The outputs are the values that no op reads.
    """
    rng = np.random.default_rng(seed)
    channels = [(8, 16, 32), (1, 3, 8, 20), (29, 58, 70)][seed % 3]
    height, width = (int(n) for n in rng.integers(1, 7, 2))
    roundings = [(40.0, 0.0), (40.0, 100.0), (-30.0, 90.0)][: int(rng.choice([1, 1, 2, 3]))]
    drawn: list[Op] = []
    values = {"x": Value("real", int(rng.choice(channels)), height, width)}
    while len(drawn) < ops:
        real = [key for key, value in values.items() if value.type == "real"]
        byte = [key for key, value in values.items() if value.type == "bytes"]
        name = f"op{len(drawn)}"
        kinds = ["conv", "concat", "concat", "select", "select", "select", "max_pool", "pointwise"]
        kind = str(rng.choice([*kinds, *(["byte_conv"] * 2 if byte else [])]) if drawn else "conv")
        late = real[-5:] if rng.random() < 0.8 else real
        sources = [str(rng.choice(byte if kind == "byte_conv" else late))]
        main = values[sources[0]]
        attributes: dict[str, object] = {}
        if kind in ("conv", "byte_conv", "max_pool"):
            size = int(rng.choice([1, 3]))
            attributes = {"kernel": (size, size), "padding": (size // 2, size // 2)}
        if kind in ("conv", "byte_conv", "select"):
            attributes["channels"] = int(rng.choice(channels))
        if kind == "concat":
            sources += [str(key) for key in rng.choice(late, int(rng.integers(1, 3)))]
            if sum(values[key].channels for key in sources) > 200:
                continue
        byte_only = kind in ("concat", "select", "max_pool") and rng.random() < 0.5
        both = not byte_only and rng.random() < 0.15
        plain = byte_only or kind in ("concat", "select") or rng.random() < 0.5
        rounded = byte_only or both
        rule = KINDS[kind]
        attributes = dict(Op(name, kind, tuple(sources), attributes=attributes).attributes)
        shape = rule.shape(attributes, *(values[key].shape for key in sources))
        shortcuts = [key for key, value in values.items() if value == Value("real", *shape) and rule.shortcut]
        added = [str(rng.choice(shortcuts))] if shortcuts and rng.random() < 0.25 else []
        op = Op(
            name,
            kind,
            (*sources, *added),
            None if byte_only else f"{name}.real",
            f"{name}.bits" if rng.random() < 0.1 else None,
            attributes,
            epilogue=(*(() if plain else ("scale",)), *(("byte_scale", "byte_bias") if rounded else ())),
            clip=(-1.0, None) if rng.random() < 0.1 else (None, None),
            bytes=f"{name}.bytes" if rounded else None,
        )
        op = _with_tensors(rng, op, main, shape[0], False)
        if rounded:  # few roundings, so that ops agree on them
            several = np.array(roundings)[rng.integers(len(roundings), size=shape[0] if rng.random() < 0.3 else 1)]
            op.tensors["epilogue"][-2:] = np.broadcast_to(several.T, (2, shape[0]))
        drawn.append(op)
        values = Graph("x", values["x"].shape, tuple(drawn), ()).shapes(height, width)
    read = {key for op in drawn for key in op.inputs}
    last = [key for key in values if key not in read and key != "x"]
    return Graph("x", values["x"].shape, tuple(drawn), ()).with_outputs(last)


def random_pools(seed: int) -> Graph:
    """Convolutions of bytes whose results max-pools alone read, of any window, stride, padding and dilation."""
    rng = np.random.default_rng(seed)
    height, width = (int(n) for n in rng.integers(1, 13, 2))
    source = Value("bytes", int(rng.choice((1, 3))), height, width)
    drawn: list[Op] = []
    values, last = {"x": source}, "x"

    def pair(most: int) -> tuple[int, int]:
        return int(rng.integers(1, most + 1)), int(rng.integers(1, most + 1))

    def add(op: Op) -> bool:
        """Add `op` with tensors, where its window fits the map."""
        main, rule = values[op.inputs[0]], KINDS[op.kind]
        try:
            shape = rule.shape(op.attributes, main.shape)
        except BbgError:
            return False
        if min(shape) < 1:
            return False
        drawn.append(_with_tensors(rng, op, main, shape[0], False))
        values.update(Graph("x", source.shape, tuple(drawn), (), "bytes").shapes(height, width))
        return True

    while len(drawn) < 4:
        name, kernel = f"op{len(drawn)}", pair(4)
        window = {"kernel": kernel, "stride": pair(2), "padding": tuple(int(rng.integers(0, k)) for k in kernel)}
        conv = {**window, "dilation": pair(2), "groups": 1, "channels": int(rng.choice((1, 5, 16, 33)))}
        if not add(Op(name, "byte_conv", (last,), f"{name}.real", attributes=conv, epilogue=("scale", "bias"))):
            continue
        main, tries = values[f"{name}.real"], 0
        while len(drawn) % 2 and tries < 20:
            kernel, tries = pair(4), tries + 1
            far = int(rng.integers(1, main.height + 1)), int(rng.integers(1, main.width + 1))
            window = {
                "kernel": kernel,
                "stride": pair(3),
                "padding": tuple(int(rng.integers(0, k // 2 + 1)) for k in kernel),
            }
            pool = {**window, "dilation": far if rng.random() < 0.5 else pair(2), "ceil_mode": bool(rng.integers(2))}
            written = {"real": f"{name}.pool", "bytes": f"{name}.bytes"}
            add(Op(f"{name}.p", "max_pool", (f"{name}.real",), attributes=pool, epilogue=("byte_scale",), **written))
        if len(drawn) % 2:
            break
        last = f"{name}.bytes"
    read = {key for op in drawn for key in op.inputs}
    return Graph("x", source.shape, tuple(drawn), (), "bytes").with_outputs(
        [key for key in values if key not in read and key != "x"]
    )


def packed(graph: Graph) -> PackedModel:
    """`graph` as a model, with a preprocessing where its input is bytes."""
    channels, *size = graph.input_shape
    if graph.input_type == "real":
        return PackedModel(graph)
    mode = {1: "L", 3: "RGB"}[channels]
    return PackedModel(graph, Preprocess(tuple(size), mode=mode, mean=(0.5,) * channels, std=(0.25,) * channels))


def random_input(graph: Graph, images: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """`[N, C, H, W]` for `run`, and the same images as an engine takes them."""
    shape = (images, *graph.input_shape)
    if graph.input_type == "real":
        x = rng.standard_normal(shape).astype(np.float32)
        return x, x
    x = rng.integers(0, 256, shape).astype(np.uint8)
    return x, np.ascontiguousarray(x.transpose(0, 2, 3, 1))


def _random_op(
    rng: np.random.Generator, name: str, kind: str, values: dict[str, Value], channels: Sequence[int], first: bool
) -> Op | None:
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
    }  # where not any integer fits; of the other attributes anything that their form allows
    given = [key for key in rule.attributes if ATTRIBUTES[key].default is REQUIRED or rng.random() < 0.7]
    attributes = {key: draw[key]() if key in draw else _of_form(rng, ATTRIBUTES[key]) for key in given}
    if kind in ("max_pool", "avg_pool", "max_pool_bits"):  # which allow no more, and would hardly ever be drawn
        kernel, padding = attributes["kernel"], attributes.get("padding", (0, 0))
        attributes["padding"] = tuple(min(p, k // 2) for p, k in zip(padding, kernel, strict=True))  # type: ignore[arg-type]
    operands = _operands(rng, rule, main, values)
    real, bits = [(True, True), (True, False), (False, True)][0 if first else int(rng.integers(3))]
    byte = bool(rng.random() < 0.15)
    if not rule.real_output:
        real, bits, byte = False, True, False
    try:
        attributes = dict(Op(name, kind, operands, attributes=attributes).attributes)
        shape = rule.shape(attributes, *(values[key].shape for key in operands))
    except BbgError:
        return None
    if min(shape) < 1 or math.prod(shape) > 50_000:
        return None
    shortcuts = [key for key, value in values.items() if value == Value("real", *shape)]
    integer = "acc_threshold" in rule.optional and not real and not byte and rng.random() < 0.5
    plain = integer or not rule.real_output
    added = bool(shortcuts) and not plain and rule.shortcut and rng.random() < 0.7
    inputs = (*operands, str(rng.choice(shortcuts))) if added else operands
    parameters = tuple(r for r in rng.permutation(rule.epilogue) if rng.random() < 0.5 and (r != "gate" or added))
    clip = (None, None) if plain or rng.random() < 0.3 else (-2.0, float(rng.integers(0, 4)))
    if clip[0] is not None and rng.random() < 0.2:
        clip = (0.1, 3.0)
    op = Op(
        name,
        kind,
        inputs,
        f"{name}.real" if real else None,
        f"{name}.bits" if bits else None,
        attributes,
        epilogue=() if plain else tuple(str(r) for r in parameters),
        clip=clip,
        bytes=f"{name}.bytes" if byte else None,
    )
    return _with_tensors(rng, op, values[main], shape[0], integer)


def _has_numbers(op: Op, drawn: Sequence[Op]) -> bool:
    """Whether the clip of what it reads keeps `op` from what its function has no number of."""
    least = FUNCTIONS[op.attributes["function"]].least if op.kind == "unary" else -math.inf
    lows = [other.clip[0] for other in drawn if other.real == op.inputs[0]]
    return least == -math.inf or any(low is not None and low > least for low in lows)


def _of_form(rng: np.random.Generator, attribute: Attribute) -> bool | float | str:
    """A value that the form of the attribute allows."""
    if attribute.form == "boolean":
        return bool(rng.integers(2))
    if attribute.form == "word":
        return str(rng.choice(attribute.words))
    assert attribute.form == "number"
    return float(np.clip(10 ** rng.uniform(-5, 0), attribute.least, attribute.most))


def _operands(rng: np.random.Generator, rule: Kind, main: str, values: dict[str, Value]) -> tuple[str, ...]:
    """`main` and what goes with it, of the kinds of several operands; a value may come more than once."""
    if rule.operands == 1:
        return (main,)

    def fits(other: str) -> bool:
        try:
            rule.shape({}, values[main].shape, values[other].shape)
        except BbgError:
            return False
        return True

    beside = [key for key, value in values.items() if value.type == rule.main and fits(key)]
    count = int(rng.integers(1, 4)) if rule.operands is None else rule.operands - 1
    return main, *(str(key) for key in rng.choice(beside, count))


def _random_outputs(
    rng: np.random.Generator, names: Sequence[str], values: dict[str, Value]
) -> tuple[Structure, tuple[Output, ...]]:
    """Outputs of one to three parts each, in any order of axes, flat or with a last axis of their own."""
    groups, rest = [], list(names)
    while rest:
        count = int(rng.choice([1, 1, 1, 2, 3]))
        groups.append(rest[:count])
        rest = rest[count:]
    structure: Structure = str(rng.choice(["tensor", "dict", "tuple", "list"]))  # type: ignore[assignment]
    if structure == "tensor":
        groups = [list(names)]
    outputs = []
    for i, group in enumerate(groups):
        parts = tuple(Part(name, "".join(rng.permutation(list("CHW")))) for name in group)
        numbers = sum(values[name].numbers for name in group)
        shape: tuple[int, ...] = (numbers,)
        if len(parts) == 1 and rng.random() < 0.5:
            shape = tuple(values[group[0]].shape["CHW".index(axis)] for axis in parts[0].order)
        elif rng.random() < 0.5:
            last = int(rng.choice([n for n in range(1, 17) if numbers % n == 0]))
            shape = (numbers // last, last)
        name = {"tensor": "", "dict": f"out{i}"}.get(structure, str(i))
        outputs.append(Output(name, parts, shape))
    return structure, tuple(outputs)


def _with_tensors(rng: np.random.Generator, op: Op, main: Value, channels: int, integer: bool) -> Op:
    """`op` with random tensors."""
    tensors: dict[str, np.ndarray] = {}
    rule, forms = KINDS[op.kind], op.tensor_forms(main, channels)
    for key, (dtype, shape) in forms.items():
        if key in rule.optional and (key != "acc_threshold") == integer:
            continue
        if key == "tap_bias" and rng.random() < 0.7:
            continue
        if dtype == "uint64":
            rows, bits = shape[0] if len(shape) > 1 else 1, TENSORS[key].bits(rule, op.attributes, main.shape)
            tensors[key] = pack_bits(rng.random((rows, bits)) < 0.5, rows).reshape(shape)
        elif dtype == "int8":
            tensors[key] = rng.integers(-128, 128, shape).astype(np.int8)
        elif key == "index" and "size" in op.attributes:
            below = np.repeat(main.shape[1:], op.attributes["size"])
            tensors[key] = rng.integers(0, below).astype(np.int32)
        elif key == "index":
            start = int(rng.integers(main.channels))
            side_by_side = (start + np.arange(channels)) % main.channels
            drawn = side_by_side if rng.random() < 0.5 else rng.integers(0, main.channels, channels)
            tensors[key] = drawn.astype(np.int32)
        elif dtype == "int32":
            tensors[key] = rng.integers(-5, 6, shape).astype(np.int32)
        else:
            tensors[key] = rng.normal(size=shape).astype(np.float32)
    for name, factor in (("byte_scale", 50.0), ("byte_bias", 100.0)):  # spread what becomes bytes over their range
        if name in op.epilogue:
            tensors["epilogue"][op.epilogue.index(name)] *= factor
    return Op(op.name, op.kind, op.inputs, op.real, op.bits, op.attributes, tensors, op.epilogue, op.clip, op.bytes)
