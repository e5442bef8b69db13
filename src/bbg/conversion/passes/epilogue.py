"""The epilogue of an op as named parameters, and the fusion of two ops into one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from bbg.graph import Graph, Op
from bbg.graph.kinds import EPILOGUE, KINDS

Parameters = dict[str, np.ndarray]

NEUTRAL = {name: np.array(name in ("scale", "gate", "above", "below", "byte_scale"), np.float64) for name in EPILOGUE}
OPEN = (None, None)  # a clip that clips nothing


def parameters_of(op: Op) -> Parameters:
    """Every parameter, `[O]`, or its neutral number where the op has none. An offset without slopes is a bias."""
    parameters = {**NEUTRAL, **{name: op.tensors["epilogue"][i] for i, name in enumerate(op.epilogue)}}
    if is_neutral(parameters, "above", "below"):
        parameters["bias"], parameters["offset"] = parameters["bias"] + parameters["offset"], NEUTRAL["offset"]
    return parameters


def with_parameters(op: Op, parameters: Mapping[str, np.ndarray]) -> Op:
    """The op with these parameters, without those that are neutral in every channel."""
    kept = {name: parameters[name] for name in EPILOGUE if not is_neutral(parameters, name)}
    tensors = {name: array for name, array in op.tensors.items() if name != "epilogue"}
    if kept:
        tensors["epilogue"] = np.stack(list(kept.values()))
    return replace(op, tensors=tensors, epilogue=tuple(kept))


def is_neutral(parameters: Mapping[str, np.ndarray], *names: str) -> bool:
    """Whether these parameters change nothing in any channel."""
    return all((parameters[name] == NEUTRAL[name]).all() for name in names)


def readers(graph: Graph) -> Counter[str]:
    """How often each value is read, as an output too."""
    read = [name for op in graph.ops for name in op.inputs]
    return Counter(read + [name for output in graph.outputs for name in output.values])


def is_affine(op: Op) -> bool:
    """Whether the op is `scale x + bias`."""
    plain = op.kind == "pointwise" and op.real is not None and op.shortcut is None and op.clip == OPEN
    return plain and is_neutral(parameters_of(op), "above", "below")


def is_sign(op: Op) -> bool:
    """Whether the op is nothing but `x >= bit_threshold`."""
    plain = op.kind == "pointwise" and op.real is None and op.shortcut is None and op.clip == OPEN
    return plain and set(op.epilogue) <= {"bit_threshold"}


def is_rounding(op: Op) -> bool:
    """Whether the op does nothing but write bytes."""
    plain = op.kind == "pointwise" and op.real is None and op.bits is None and op.shortcut is None and op.clip == OPEN
    return plain and set(op.epilogue) <= {"byte_scale", "byte_bias"}


def fuse(first: Op, then: Op) -> Op | None:
    """One op for `first` and the pointwise `then` that reads it, or None where the form has no room for both.

    `then` computes s y + t + g x, with a shortcut x or without, and goes on with slopes, clip and bits of its own.
    Three cases have room:

    1. `first` is a sum v without slopes and clip. One of the two may have a shortcut, `then` not where the kind of
       `first` has none. Everything in v takes the factor s:

           s (scale acc + bias + shift S + tap_bias + gate x) + t  =
               (s scale) acc + (s bias + t) + (s shift) S + (s tap_bias) + (s gate) x

    2. `first` has slopes but no clip, and `then` is s y + t. The slopes and the offset take s and t, v stays:

           s (v (above | below) + offset) + t  =  v (s above | s below) + (s offset + t)

    3. `first` clips, and `then` only clips (s = 1, t = 0): one clip does both.
    """
    a, b = parameters_of(first), parameters_of(then)
    s, t = b["scale"], b["bias"]
    tensors = dict(first.tensors)
    only_affine = then.shortcut is None and is_neutral(b, "above", "below")
    outputs = {name: b[name] for name in ("bit_threshold", "byte_scale", "byte_bias")}
    clip = then.clip
    has_room = then.shortcut is None or (first.shortcut is None and KINDS[first.kind].shortcut)
    if is_neutral(a, "above", "below") and first.clip == OPEN and has_room:
        gate = s * a["gate"] if first.shortcut is not None else b["gate"]
        fused = {**b, "scale": s * a["scale"], "bias": s * a["bias"] + t, "shift": s * a["shift"], "gate": gate}
        if "tap_bias" in tensors:
            tensors["tap_bias"] = s * tensors["tap_bias"]
    elif only_affine and first.clip == OPEN:
        slopes = {"above": s * a["above"], "below": s * a["below"], "offset": s * a["offset"] + t}
        fused = {**a, **slopes, **outputs}
    elif only_affine and is_neutral(b, "scale", "bias"):
        fused = {**a, **outputs}
        low, high = first.clip
        clip = (_clipped(-np.inf if low is None else low, clip), _clipped(np.inf if high is None else high, clip))
    else:
        return None
    inputs = first.inputs + then.inputs[1:]
    merged = replace(first, inputs=inputs, real=then.real, bits=then.bits, bytes=then.bytes, tensors=tensors, clip=clip)
    return with_parameters(merged, fused)


def _clipped(bound: float, clip: tuple[float | None, float | None]) -> float | None:
    """A bound of the first clip behind the second one; None: infinite."""
    low, high = clip
    bound = min(max(bound, -np.inf if low is None else low), np.inf if high is None else high)
    return bound if np.isfinite(bound) else None
