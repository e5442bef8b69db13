"""The appender: names the ops of a graph and appends them, each with how torch computes its value; refuses too."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bbg.conversion.oracle import QuantParams, TorchOp
from bbg.conversion.views import TracedTensor, to_value, value_layout
from bbg.errors import BbgError
from bbg.graph import Op
from bbg.graph.kinds import KINDS
from bbg.graph.types import Shape
from bbg.tracing.places import Place
from bbg.tracing.refusals import Refusal

IMAGES = 2  # of the example while it is lowered, so that nothing takes the axis of the images for another

Clip = tuple[float | None, float | None]
Parameters = Mapping[str, np.ndarray | None]


@dataclass
class Appender:
    """The graph so far. `qualname` and `layer`: qualified name and type of the module that is being lowered, `place`
    the line that calls it. `dry`: nothing is computed, and all numbers are 0.
    """

    qualname: str = ""
    layer: str = ""
    place: Place | None = None
    dry: bool = False
    refusal: Refusal | None = None
    ops: list[Op] = field(default_factory=list)
    oracle: dict[str, TorchOp] = field(default_factory=dict)
    layers: dict[str, str] = field(default_factory=dict)

    def error(self, reason: str, of_input: bool = False) -> BbgError:
        """The error that names the module, to be raised; `of_input`: for how its input is arranged."""
        self.refusal = Refusal(self.qualname, self.layer, reason, self.place, of_input)
        return BbgError(self.refusal.text())

    def add(
        self,
        kind: str,
        inputs: tuple[TracedTensor, ...],
        function: Callable[..., Tensor],
        /,
        *,
        suffix: str = "",
        parameters: Parameters | None = None,
        clip: Clip = (None, None),
        tensors: Mapping[str, np.ndarray] | None = None,
        layout: Tensor | None = None,
        **attributes: Any,
    ) -> TracedTensor:
        """Append an op that writes a real value; returns the tensor that torch has there.

        `function` computes the same in torch, from the tensors at `inputs` as torch has them. `parameters`: of the
        epilogue, float64 `[C]`; None: it has none. `layout`: that of the result; None: as the first input where the
        shapes are equal, else the value's own.
        """
        name = self._new_name(suffix)
        names = tuple(x.name for x in inputs)
        op = Op(name, kind, names, name, None, attributes, *_epilogue(parameters, tensors), clip)
        shape = self._shape(op, inputs)
        self.ops.append(op)
        if self.dry and (layout is not None or inputs[0].layout is None or shape == inputs[0].shape):
            layout = inputs[0].layout if layout is None else layout
            return self._zeros(name, TorchOp(function, inputs, shape, layout=layout))
        given = [x.tensor.clone() for x in inputs]
        result = function(*given)
        in_place = any(tensor._version for tensor in given)
        layout = _result_layout(result, inputs[0]) if layout is None else layout
        return self._record(name, TorchOp(function, inputs, shape, layout=layout, in_place=in_place), result)

    def add_sign(
        self, x: TracedTensor, function: Callable[[Tensor], Tensor], threshold: np.ndarray | None
    ) -> TracedTensor:
        """Append an op that writes the bits `x >= threshold`, float64 `[C]`; None: 0."""
        name = self._new_name(".sign")
        self.ops.append(
            Op(name, "pointwise", (x.name,), None, name, {}, *_epilogue({"bit_threshold": threshold}, None))
        )
        numbers = torch.zeros(x.shape[0]) if threshold is None else torch.from_numpy(threshold).float()
        torch_op = TorchOp(function, (x,), x.shape, threshold=numbers, layout=x.layout)
        return self._zeros(name, torch_op) if self.dry else self._record(name, torch_op, function(x.tensor.clone()))

    def add_bytes(self, x: TracedTensor, quant: QuantParams) -> TracedTensor:
        """Append an op that writes the bytes of `x`."""
        name = self._new_name(".bytes")
        parameters = quant.parameters()
        self.ops.append(Op(name, "pointwise", (x.name,), None, None, {}, *_epilogue(parameters, None), bytes=name))
        torch_op = TorchOp(quant.quantize, (TracedTensor(x.name, x.value),), x.shape, quant=quant)
        given = self._zeros(name, torch_op) if self.dry else self._record(name, torch_op, quant.quantize(x.value))
        return replace(given, layout=x.layout)

    def _new_name(self, suffix: str) -> str:
        """The module's name; one that is used more than once gets a mark for each further use."""
        name = self.qualname + suffix
        while name in self.layers:
            name += "'"
        return name

    def _shape(self, op: Op, inputs: tuple[TracedTensor, ...]) -> Shape:
        on = f"on a map {list(inputs[0].shape)}"
        try:
            shape = KINDS[op.kind].shape(op.attributes, *(x.shape for x in inputs[: len(op.operands)]))
        except BbgError as error:
            raise self.error(f"{on}: {error}", of_input=True) from None
        if 0 in shape:
            raise self.error(f"{on} gives {list(shape)}, no number; leave it out, or give larger images", of_input=True)
        return shape

    def _record(self, name: str, torch_op: TorchOp, result: Tensor) -> TracedTensor:
        """Keep how torch computes the value `name`, and wrap its `result` for the example."""
        self.layers[name] = self.layer
        self.oracle[name] = torch_op
        return TracedTensor(name, to_value(result, torch_op.layout, torch_op.shape), torch_op.layout)

    def _zeros(self, name: str, torch_op: TorchOp) -> TracedTensor:
        """The same without numbers: zeros that take no memory."""
        self.layers[name] = self.layer
        self.oracle[name] = torch_op
        return TracedTensor(name, torch.zeros(()).expand(IMAGES, *torch_op.shape), torch_op.layout)

    def unknown(self, tensor: Tensor) -> TracedTensor | None:
        """A view of what torch has where the op is refused, arranged as it most often is; None where it has no images.

        Of maps `[N, C, H, W]` and features `[N, C]` that is what torch says of them; of `[N, L, C]` it is a guess.
        """
        if not 2 <= tensor.ndim <= 4 or len(tensor) != IMAGES or not tensor.is_floating_point() or not tensor.numel():
            return None
        shape: Shape = (*tensor.shape[1:], 1, 1)[:3]
        layout = None if tensor.ndim == 4 else value_layout(shape).reshape(tensor.shape[1:])
        return TracedTensor(self._new_name(".refused"), tensor.reshape(IMAGES, *shape), layout)


def _epilogue(
    parameters: Parameters | None, tensors: Mapping[str, np.ndarray] | None
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """The tensors of an op, those of its epilogue stacked, and the names of the parameters."""
    given = {name: vector for name, vector in (parameters or {}).items() if vector is not None}
    return {**(tensors or {}), **({"epilogue": np.stack(list(given.values()))} if given else {})}, tuple(given)


def _result_layout(result: Tensor, first: TracedTensor) -> Tensor | None:
    if first.layout is not None and result.shape == first.tensor.shape:
        return first.layout
    return torch.arange(result[0].numel()) if result.ndim == 2 else None
