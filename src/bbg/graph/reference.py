"""The oracle: what docs/format.md says, in plain numpy, one op at a time.

    values = run(graph, x)          # name -> array [N, C, H, W]: float32 for real values, int8 of +1 and -1 for bits,
                                    # uint8 for bytes (x is uint8 where the input is)
    arrays = outputs(graph, values) # what the network returns, by name

The accumulators are the formulas of graph/kinds.py; this file adds the epilogue. Sums are formed in float64 and
rounded once, to float32.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from bbg.graph.formulas import per_channel, tap_sums, window_sums
from bbg.graph.graph import Graph, Op, Output, Value
from bbg.graph.kinds import EPILOGUE, KINDS


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
    values = {}
    if "acc_threshold" in op.tensors:
        y, threshold = accumulator(op, inputs, result), op.tensors["acc_threshold"]
    else:
        y, threshold = real_of(op, inputs, result), parameter(op, "bit_threshold")
    if op.real is not None:
        values[op.real] = y
    if op.bits is not None:
        values[op.bits] = np.where(y >= per_channel(threshold), 1, -1).astype(np.int8)
    if op.bytes is not None:
        values[op.bytes] = np.rint(np.clip(byte_position(op, y), 0, 255)).astype(np.uint8)
    return values


def accumulator(op: Op, inputs: Sequence[np.ndarray], result: Value) -> np.ndarray:
    """What the op's formula gives, in float64, before the epilogue."""
    operands = [array.astype(np.float64) for array in inputs[: len(op.operands)]]
    return KINDS[op.kind].formula(op.attributes, op.tensors, result.shape, *operands)


def real_of(op: Op, inputs: Sequence[np.ndarray], result: Value) -> np.ndarray:
    """The real value of the op, whether it stores that or not: float32 `[N, O, H, W]`."""
    main, acc = inputs[0].astype(np.float64), accumulator(op, inputs, result)
    shortcut = 0.0 if op.shortcut is None else inputs[-1].astype(np.float64)
    p = {name: per_channel(parameter(op, name).astype(np.float64)) for name in EPILOGUE}
    v = p["scale"] * acc + p["bias"] + p["gate"] * shortcut
    if "shift" in op.epilogue:
        v = v + p["shift"] * window_sums(op.attributes, main, result.shape)
    if "tap_bias" in op.tensors:
        v = v + tap_sums(op.attributes, op.tensors["tap_bias"], main, result.shape)
    y = v * np.where(v >= 0, p["above"], p["below"]) + p["offset"]
    low, high = op.clip
    return np.asarray(np.clip(y, -np.inf if low is None else low, np.inf if high is None else high).astype(np.float32))


def byte_position(op: Op, y: np.ndarray) -> np.ndarray:
    """The number that is clipped and rounded to a byte."""
    scale, bias = (per_channel(parameter(op, name).astype(np.float64)) for name in ("byte_scale", "byte_bias"))
    return np.asarray(y.astype(np.float64) * scale + bias)


def parameter(op: Op, name: str) -> np.ndarray:
    """The epilogue's parameter `name`, `[O]`, or its neutral value, `[1]`, where the op has none."""
    given = op.parameter(name)
    return np.full(1, EPILOGUE[name], np.float32) if given is None else given
