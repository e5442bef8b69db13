"""The epilogue of an op as named vectors, and the joining of two ops into one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from bbg.graph import Graph, Op
from bbg.graph.kinds import EPILOGUE, KINDS

Rows = dict[str, np.ndarray]


NEUTRAL = {name: np.array(name in ("scale", "gate", "above", "below", "byte_scale"), np.float64) for name in EPILOGUE}


OPEN = (None, None)


def rows_of(op: Op) -> Rows:
    """Every row, `[O]`, or its neutral number where the op has none. An offset without slopes is a bias."""
    rows = {**NEUTRAL, **{name: op.tensors["epilogue"][i] for i, name in enumerate(op.epilogue)}}
    if _neutral(rows, "above", "below"):
        rows["bias"], rows["offset"] = rows["bias"] + rows["offset"], NEUTRAL["offset"]
    return rows


def with_rows(op: Op, rows: Mapping[str, np.ndarray]) -> Op:
    """The op with these rows, without those that are neutral in every channel."""
    kept = {name: rows[name] for name in EPILOGUE if not _neutral(rows, name)}
    tensors = {name: array for name, array in op.tensors.items() if name != "epilogue"}
    if kept:
        tensors["epilogue"] = np.stack(list(kept.values()))
    return replace(op, tensors=tensors, epilogue=tuple(kept))


def _neutral(rows: Mapping[str, np.ndarray], *names: str) -> bool:
    return all((rows[name] == NEUTRAL[name]).all() for name in names)


def readers(graph: Graph) -> Counter[str]:
    """How often each value is read, as an output too."""
    return Counter(
        [name for op in graph.ops for name in op.inputs] + [name for output in graph.outputs for name in output.values]
    )


def join(first: Op, then: Op) -> Op | None:
    """One op for `first` and the pointwise `then` that reads it, or None where the form has no room for both.

    With s, t, g, x the scale, bias, gate and shortcut of `then`:
    - `first` is a sum: s (scale acc + bias + shift S + tap_bias + gate x) + t + g x. One of the two may have a
      shortcut, `then` not where the kind of `first` has none;
    - `first` bends, `then` is s y + t: the slopes and the offset take s and t;
    - `first` clips, `then` does nothing but clip: one clip does both.
    """
    a, b = rows_of(first), rows_of(then)
    s, t = b["scale"], b["bias"]
    tensors = dict(first.tensors)
    affine = then.shortcut is None and _neutral(b, "above", "below")
    clip = then.clip
    room = then.shortcut is None or (first.shortcut is None and KINDS[first.kind].shortcut)
    if _neutral(a, "above", "below") and first.clip == OPEN and room:
        gate = s * a["gate"] if first.shortcut is not None else b["gate"]
        rows = {**b, "scale": s * a["scale"], "bias": s * a["bias"] + t, "shift": s * a["shift"], "gate": gate}
        if "tap_bias" in tensors:
            tensors["tap_bias"] = s * tensors["tap_bias"]
    elif affine and first.clip == OPEN:
        rows = {
            **a,
            "above": s * a["above"],
            "below": s * a["below"],
            "offset": s * a["offset"] + t,
            "bit_threshold": b["bit_threshold"],
        }
    elif affine and _neutral(b, "scale", "bias"):
        rows = {**a, "bit_threshold": b["bit_threshold"]}
        low, high = first.clip
        clip = (_clipped(-np.inf if low is None else low, clip), _clipped(np.inf if high is None else high, clip))
    else:
        return None
    inputs = first.inputs + then.inputs[1:]
    return with_rows(replace(first, inputs=inputs, real=then.real, bits=then.bits, tensors=tensors, clip=clip), rows)


def _clipped(bound: float, clip: tuple[float | None, float | None]) -> float | None:
    low, high = clip
    bound = min(max(bound, -np.inf if low is None else low), np.inf if high is None else high)
    return bound if np.isfinite(bound) else None


def _is_affine(op: Op) -> bool:
    """Whether the op is `scale x + bias`."""
    plain = op.kind == "pointwise" and op.real is not None and op.shortcut is None and op.clip == OPEN
    return plain and _neutral(rows_of(op), "above", "below")


def _is_sign(op: Op) -> bool:
    """Whether the op is nothing but `x >= sign`."""
    plain = op.kind == "pointwise" and op.real is None and op.shortcut is None and op.clip == OPEN
    return plain and set(op.epilogue) <= {"bit_threshold"}
