"""The graph: what a packed network computes, as plain data (docs/format.md is the contract, this file its checker).

    real value -> conv -> real value and its sign bits -> binary_conv (+ shortcut) -> ... -> outputs

A `Graph` is a list of `Op`s in execution order. Each op reads earlier values, forms an accumulator, passes it through
one epilogue per output channel and writes the real value, its sign bits, its bytes, or several of them.
`Graph.check()` enforces the rules of the format and returns the shape of every value; kinds.py lists what an engine
must know.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal, NamedTuple, get_args

import numpy as np

from bbg.errors import BbgError
from bbg.graph.kinds import ATTRIBUTES, KINDS, REQUIRED, TENSORS, Kind
from bbg.graph.shapes import check_shape
from bbg.graph.types import Attributes, Shape, Type

Structure = Literal["tensor", "dict", "tuple", "list"]  # what the network returns: one tensor, or several
STRUCTURES: tuple[str, ...] = get_args(Structure)


# The engine sums over taps as differences of sums in double precision, whose last bit is 2^-23 then.
LARGEST_TAP_BIAS = 2**30


@dataclass(frozen=True)
class Value:
    """What one image has at a point of the network, channels x height x width: float32, signs, or 8-bit numbers."""

    type: Type
    channels: int
    height: int
    width: int

    @property
    def shape(self) -> Shape:
        """`(C, H, W)`."""
        return self.channels, self.height, self.width

    @property
    def numbers(self) -> int:
        """`C * H * W`."""
        return math.prod(self.shape)


@dataclass(frozen=True, eq=False)
class Op:
    """One operation: it reads `inputs` (its operands, then a shortcut if any), writes `real`, `bits` and `bytes`.

    `tensors`: arrays keyed "weight", "epilogue" (float32 `[len(epilogue), O]`), "acc_threshold", "tap_bias",
    "and_mask", "index". Attributes left out get their defaults.
    """

    name: str
    kind: str
    inputs: tuple[str, ...]
    real: str | None = None
    bits: str | None = None
    attributes: Attributes = field(default_factory=dict)
    tensors: Mapping[str, np.ndarray] = field(default_factory=dict)
    epilogue: tuple[str, ...] = ()
    clip: tuple[float | None, float | None] = (None, None)
    bytes: str | None = None

    def __post_init__(self) -> None:
        given = {key: tuple(v) if isinstance(v, list) else v for key, v in self.attributes.items()}
        names = KINDS[self.kind].attributes if self.kind in KINDS else ()
        defaults = {n: ATTRIBUTES[n].default for n in names if ATTRIBUTES[n].default is not REQUIRED}
        object.__setattr__(self, "attributes", {**defaults, **given})
        tensors = {name: np.asarray(array, order="C") for name, array in self.tensors.items()}
        object.__setattr__(self, "tensors", tensors)
        object.__setattr__(self, "clip", tuple(None if v is None else float(v) for v in self.clip))

    @property
    def operands(self) -> tuple[str, ...]:
        """The values that the accumulator is formed of."""
        return self.inputs[: KINDS[self.kind].operands if self.kind in KINDS else 1]

    @property
    def shortcut(self) -> str | None:
        """The value that is added to the accumulator, real or for a `byte_conv` also bytes, or None."""
        behind = self.inputs[len(self.operands) :]
        return behind[0] if behind else None

    @property
    def written(self) -> dict[str, Type]:
        """The names of the values that the op writes, the real one first."""
        named: dict[Type, str | None] = {"real": self.real, "bits": self.bits, "bytes": self.bytes}
        return {name: type_ for type_, name in named.items() if name is not None}

    @property
    def result(self) -> str:
        """The first of the values that the op writes; '' where it writes none."""
        return next(iter(self.written), "")

    def parameter(self, name: str) -> np.ndarray | None:
        """The epilogue's parameter `name`, float32 `[O]`, or None where the op has none of that name."""
        return self.tensors["epilogue"][self.epilogue.index(name)] if name in self.epilogue else None

    def error(self, reason: str) -> BbgError:
        """The error that names this op."""
        return BbgError(f"op {self.name!r} ({self.kind}): {reason}")

    def _check_form(self) -> None:
        """Everything that needs neither shapes nor tensors."""
        kind = KINDS.get(self.kind)
        if kind is None:
            raise self.error(f"unknown kind; allowed are {', '.join(KINDS)}")
        for name, value in self.attributes.items():
            if name not in kind.attributes:
                raise self.error(f"unknown attribute {name!r}; allowed are {', '.join(kind.attributes) or 'none'}")
            if not ATTRIBUTES[name].allows(value):
                raise self.error(f"attribute {name!r} is {value!r}, allowed is {ATTRIBUTES[name]}")
        for name in kind.attributes:
            if name not in self.attributes:
                raise self.error(f"attribute {name!r} is missing; it must be {ATTRIBUTES[name]}")
        if kind.operands is None and len(self.inputs) < 2:
            raise self.error(f"{len(self.inputs)} inputs; two or more are allowed")
        if kind.operands is not None and len(self.inputs) not in (kind.operands, kind.operands + kind.shortcut):
            number = ("one", "two")[kind.operands - 1]
            allowed = f"{number}, or {number} and a shortcut, are" if kind.shortcut else f"{number} is"
            raise self.error(f"{len(self.inputs)} inputs; {allowed} allowed")
        if not self.written:
            raise self.error("writes nothing; give it a real value, bits or bytes")
        self._check_epilogue(kind)

    def _check_epilogue(self, kind: Kind) -> None:
        for name in self.epilogue:
            if name not in kind.epilogue:
                raise self.error(
                    f"unknown epilogue parameter {name!r}; allowed are {', '.join(kind.epilogue) or 'none'}"
                )
        if len(set(self.epilogue)) != len(self.epilogue):
            raise self.error(f"epilogue parameters {list(self.epilogue)} repeat; each may come once")
        if "gate" in self.epilogue and self.shortcut is None:
            raise self.error("has a gate but no shortcut; add the shortcut as last input or drop the gate")
        low, high = self.clip
        if any(v is not None and not abs(v) <= float(np.finfo(np.float32).max) for v in self.clip):
            raise self.error(f"clip {list(self.clip)} is not finite in float32")
        if low is not None and high is not None and low > high:
            raise self.error(f"clip {list(self.clip)} must rise")
        only_bits = self.real is None and self.bytes is None
        plain = not self.epilogue and self.clip == (None, None) and self.shortcut is None and only_bits
        if not kind.real_output and not plain:
            raise self.error("writes bits only: no epilogue, clip, shortcut, real value or bytes are allowed")
        if "acc_threshold" in self.tensors and (not plain or "tap_bias" in self.tensors):
            raise self.error("has integer thresholds: only bits, no epilogue, clip, shortcut or tap_bias are allowed")

    def _result(self, values: Mapping[str, Value]) -> Shape:
        """Shape of the result, given the values written before."""
        kind, main = KINDS[self.kind], values[self.inputs[0]]
        for name in self.operands:
            if values[name].type != kind.main:
                raise self.error(f"operand {name!r} is {values[name].type}, it must be {kind.main}")
        try:
            shape = kind.shape(self.attributes, *(values[name].shape for name in self.operands))
            check_shape(shape)
        except BbgError as error:
            raise self.error(f"on a map {list(main.shape)}: {error}") from None
        if self.shortcut is not None:
            shortcut = values[self.shortcut]
            types = ("real", "bytes") if self.kind == "byte_conv" else ("real",)
            if shortcut.type not in types or shortcut.shape != shape:
                came = f"{shortcut.type} {list(shortcut.shape)}"
                wanted = f"{' or '.join(types)} {list(shape)}"
                raise self.error(f"shortcut {self.shortcut!r} is {came}, it must be {wanted}")
        return shape

    def tensor_forms(self, main: Value, channels: int) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Dtype and shape of every tensor that this op may have, given its operand and the channels of its result."""
        kind = KINDS[self.kind]
        forms: dict[str, tuple[str, tuple[int, ...]]] = {}
        if self.epilogue:
            forms["epilogue"] = ("float32", (len(self.epilogue), channels))
        try:
            for name in kind.required + kind.optional:
                forms[name] = TENSORS[name].form(kind, self.attributes, main.shape, channels)
        except BbgError as error:
            raise self.error(str(error)) from None
        return forms

    def _check_tensors(self, main: Value, channels: int) -> None:
        kind, forms = KINDS[self.kind], self.tensor_forms(main, channels)
        for name in forms:
            if name not in self.tensors and name not in kind.optional:
                raise self.error(f"tensor {name!r} is missing")
        for name, array in self.tensors.items():
            if name not in forms:
                raise self.error(f"tensor {name!r} is not used; allowed are {', '.join(forms) or 'none'}")
            dtype, shape = forms[name]
            if array.dtype != dtype or array.shape != shape:
                came = f"{array.dtype} {list(array.shape)}"
                raise self.error(f"tensor {name!r} is {came}, it must be {dtype} {list(shape)}")
            if dtype == "float32" and not np.isfinite(array).all():
                raise self.error(f"tensor {name!r} holds numbers that are not finite")
            if name == "tap_bias" and np.abs(array).max() >= LARGEST_TAP_BIAS:
                raise self.error(f"tensor {name!r} reaches {np.abs(array).max():.3g}, it must be below 2^30")
            if name == "index":
                self._check_index(array, main)
            if dtype == "uint64":
                bits = TENSORS[name].bits(kind, self.attributes, main.shape)
                if bits % 64 and (array[..., -1] >> np.uint64(bits % 64)).any():
                    raise self.error(f"tensor {name!r} has bits set behind the last of {bits}")

    def _check_index(self, index: np.ndarray, main: Value) -> None:
        """Raise BbgError unless `index` names channels of the operand, or rows and then columns of its map."""
        channels, height, width = main.shape
        bounds: np.ndarray | int = channels
        what = f"the channels of the operand, 0 to {channels - 1}"
        if "size" in self.attributes:
            bounds = np.repeat((height, width), self.attributes["size"])
            what = f"the rows of the operand, 0 to {height - 1}, then its columns, 0 to {width - 1}"
        if not ((index >= 0) & (index < bounds)).all():
            raise self.error(f"tensor 'index' reaches from {index.min()} to {index.max()}, allowed are {what}")

    def fan_in(self, main: Value) -> int:
        """Products per number of the result: `kh * kw * I / groups`; 0 for ops without a weight."""
        return KINDS[self.kind].products(self.attributes, main.shape)

    def reach(self, operands: Sequence[np.ndarray]) -> float:
        """How large the op's numbers could be on such operands, whatever they are; 0 where they tell that themselves.

        Errors are judged relative to the largest of both: far out, a function's numbers may all be nearly 0.
        """
        scale = self.parameter("scale")
        reach = KINDS[self.kind].reach(self.attributes, operands)
        return reach if scale is None else reach * float(np.abs(scale).max())


@dataclass(frozen=True)
class Part:
    """A value that an output returns, its axes in the given `order`: a permutation of the letters of "CHW"."""

    value: str
    order: str = "CHW"


@dataclass(frozen=True)
class Output:
    """What the network returns under a name: for each image, the numbers of all `parts`, one part after another.

    They are returned as float32 `[N, *shape]`; bits are +1 and -1.
    """

    name: str
    parts: tuple[Part, ...]
    shape: tuple[int, ...]

    @classmethod
    def of_map(cls, name: str, value: str, shape: Shape) -> Output:
        """`value`, whose shape is `shape`, as `[N, C, H, W]`."""
        return cls(name, (Part(value),), shape)

    @classmethod
    def of_flat(cls, name: str, value: str, numbers: int) -> Output:
        """`value`, which has so many `numbers` per image, as `[N, numbers]`."""
        return cls(name, (Part(value),), (numbers,))

    @property
    def values(self) -> tuple[str, ...]:
        """The values that the parts are read from."""
        return tuple(part.value for part in self.parts)


class Cost(NamedTuple):
    """What one op costs for one image.

    `shape`: of the result. `bytes`: of its tensors. `macs`: multiply-accumulates. `bits`: of a number of the weight,
    None where there is no weight. `weights`: numbers of the weight.
    """

    name: str
    kind: str
    shape: Shape
    bytes: int
    macs: int
    bits: int | None
    weights: int


@dataclass(frozen=True, eq=False)
class Graph:
    """A network: one input `[N, *input_shape]`, real or bytes, ops in execution order, outputs."""

    input_name: str
    input_shape: Shape
    ops: tuple[Op, ...]
    outputs: tuple[Output, ...]
    input_type: Type = "real"
    structure: Structure = "tensor"

    @cached_property
    def values(self) -> dict[str, Value]:
        """Each value by name, at the graph's own input size. The rest of the graph must have passed `check`."""
        return self.shapes(*self.input_shape[1:])

    def with_outputs(self, names: Iterable[str]) -> Graph:
        """The graph that returns the values `names` as maps `[N, C, H, W]`, each under its name."""
        outputs = tuple(Output.of_map(name, name, self.values[name].shape) for name in names)
        return replace(self, outputs=outputs, structure="dict")

    def check(self) -> dict[str, Value]:
        """Enforce every rule of docs/format.md; returns each value by name. BbgError names the op and the rule."""
        for op in self.ops:
            op._check_form()
        self._check_names()
        values = self.values
        self._check_outputs()
        for op in self.ops:
            op._check_tensors(values[op.inputs[0]], values[op.result].channels)
        return values

    def shapes(self, height: int, width: int) -> dict[str, Value]:
        """Each value by name for an input of `height` x `width`. The rest of the graph must have passed `check`."""
        shape = (self.input_shape[0], height, width)
        try:
            check_shape(shape)
        except BbgError as error:
            raise BbgError(f"input {self.input_name!r}: {error}") from None
        values = {self.input_name: Value(self.input_type, *shape)}
        for op in self.ops:
            result = op._result(values)
            values.update({name: Value(type_, *result) for name, type_ in op.written.items()})
        return values

    def costs(self) -> list[Cost]:
        """The cost of every op, in order, at the graph's own input size."""
        values, rows = self.values, []
        for op in self.ops:
            result, fan_in, weight = values[op.result], op.fan_in(values[op.inputs[0]]), KINDS[op.kind].weight
            size, bits = sum(tensor.nbytes for tensor in op.tensors.values()), None if weight is None else weight.bits
            macs, weights = result.numbers * fan_in, result.channels * fan_in
            rows.append(Cost(op.name, op.kind, result.shape, size, macs, bits, weights))
        return rows

    def _check_names(self) -> None:
        """Op names are unique, every value is written once, and before it is read."""
        writers = {name: op for op in self.ops for name in op.written}
        written, ops = {self.input_name}, set()
        for op in self.ops:
            if op.name in ops:
                raise op.error("another op has the same name; names must be unique")
            ops.add(op.name)
            for name in op.inputs:
                if name not in written and name in writers:
                    late = f"reads {name!r} before op {writers[name].name!r} writes it"
                    raise op.error(f"{late}: the graph has a cycle or its ops are out of order")
                if name not in written:
                    raise op.error(f"reads {name!r}, which no op writes; the graph's input is {self.input_name!r}")
            for value in (name for name in (op.real, op.bits, op.bytes) if name is not None):
                if value in written:
                    raise op.error(f"writes {value!r}, which is written already; each value is written once")
                written.add(value)

    def _check_outputs(self) -> None:
        names = [output.name for output in self.outputs]
        if self.structure not in STRUCTURES:
            raise BbgError(f"the outputs' structure is {self.structure!r}, allowed are {', '.join(STRUCTURES)}")
        if self.structure == "tensor" and names != [""]:
            raise BbgError(f"outputs are named {names}; a network that returns one tensor has one output, named ''")
        if self.structure in ("tuple", "list") and (not names or names != [str(i) for i in range(len(names))]):
            raise BbgError(f"outputs are named {names}; those of a {self.structure} are named '0', '1' and so on")
        if self.structure == "dict" and (not names or "" in names or len(set(names)) != len(names)):
            raise BbgError(f"outputs are named {names}; those of a dict have different names that are not empty")
        written = {name for op in self.ops for name in op.written}
        for output in self.outputs:
            self._check_output(output, written)

    def _check_output(self, output: Output, written: Collection[str]) -> None:
        what = f"output {output.name!r}"
        if not output.parts:
            raise BbgError(f"{what} has no parts; it must return at least one value")
        for part in output.parts:
            if part.value not in written:
                raise BbgError(f"{what} returns {part.value!r}, which no op writes")
            if sorted(part.order) != ["C", "H", "W"]:
                raise BbgError(f"{what}: the order of {part.value!r} is {part.order!r}, allowed are the orders of CHW")
        numbers = sum(self.values[name].numbers for name in output.values)
        if not 1 <= len(output.shape) <= 6 or min(output.shape) < 1 or math.prod(output.shape) != numbers:
            came = f"{what} has the shape {list(output.shape)}"
            raise BbgError(f"{came}; allowed are 1 to 6 sizes whose product is {numbers}, the numbers of its parts")
