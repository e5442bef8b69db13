"""The oracle: how torch computes each value of the graph. The engine is judged by it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from bbg.conversion.views import TracedTensor, to_value
from bbg.graph import Graph
from bbg.graph.types import Shape

INPUT = "input"  # the name of the images in the graph


@dataclass(frozen=True)
class QuantParams:
    """The byte u of channel c stands for `scale[c] * u + bias[c]`; both `[C]` of one dtype, no scale is 0."""

    scale: Tensor
    bias: Tensor

    def position(self, x: Tensor) -> Tensor:
        """Where the float32 numbers `x` `[N, C, H, W]` lie between the bytes, 0 to 255 in the dtype of the scale."""
        return ((x - self.bias[:, None, None]) / self.scale[:, None, None]).clamp(0, 255)

    def quantize(self, x: Tensor) -> Tensor:
        """The bytes of the numbers `x`, as float32."""
        return self.position(x).round().float()

    def parameters(self) -> dict[str, np.ndarray]:
        """Those of the epilogue that writes the bytes: `byte = byte_scale x + byte_bias`, float64 `[C]`."""
        scale, bias = self.scale.double().numpy(), self.bias.double().numpy()
        return {"byte_scale": 1 / scale, "byte_bias": -bias / scale}

    def of_inputs(self, filters: int, groups: int) -> tuple[np.ndarray, np.ndarray]:
        """Scale and bias of the inputs as each of the filters meets them, `[O, 1, 1, I/g]`."""

        def spread(vector: Tensor) -> np.ndarray:
            return vector.double().numpy().reshape(groups, 1, 1, -1).repeat(filters // groups, axis=0)

        return spread(self.scale), spread(self.bias)

    def dequantize(self, u: Tensor) -> Tensor:
        """What the bytes `u` stand for, in float64."""
        return u.double() * self.scale.double()[:, None, None] + self.bias.double()[:, None, None]


@dataclass(frozen=True)
class TorchOp:
    """How torch computes a value of the graph: `function` of the tensors at `inputs`, whose result has `layout`.

    `threshold`, `[C]`, is given where the value is bits, those of `inputs[0] >= threshold`; `quant` where it is the
    bytes of `inputs[0]`. `in_place`: the function changes its inputs, so it gets copies. Each image is computed for
    itself: the result does not depend on the others in the batch.
    """

    function: Callable[..., Tensor]
    inputs: tuple[TracedTensor, ...]
    shape: Shape
    threshold: Tensor | None = None
    quant: QuantParams | None = None
    layout: Tensor | None = None
    in_place: bool = False

    def __call__(self, *values: Tensor) -> Tensor:
        """The value, given those at `inputs` as `[N, C, H, W]`, which stay as they are."""
        given = [x.arrange(value) for x, value in zip(self.inputs, values, strict=True)]
        if self.in_place:
            given = [tensor.clone() for tensor in given]
        return to_value(self.function(*given), self.layout, self.shape)

    def behind(self, first: TorchOp) -> TorchOp:
        """How torch computes the value from the inputs of `first`, which gives the only input as it is."""
        function = self.function
        composed = replace(self, function=lambda *given: function(first.function(*given)), inputs=first.inputs)
        return replace(composed, in_place=first.in_place)

    @property
    def is_discrete(self) -> bool:
        """Whether the value is bits or bytes: a number of the input near a tie may become either of two."""
        return self.threshold is not None or self.quant is not None

    def divergence(self, value: Tensor, x: Tensor, terms: Tensor | None = None) -> Tensor:
        """Where `value` is not what the input `x` becomes: how far x is from the tie, over the largest |x|; else 0.

        `terms`, `[C]`: how large the numbers are that x is a sum of; where one is larger than |x|, over that. A
        difference at distance 0 counts as the least positive number.
        """
        if self.quant is not None:
            position = self.quant.position(x)
            differs = value != position.round()
        else:
            assert self.threshold is not None
            differs = (x >= self.threshold[:, None, None]) != (value > 0)
        if not differs.any():
            return torch.zeros_like(x)
        if self.quant is not None:
            distance = ((position - value).abs() - 0.5) * self.quant.scale[:, None, None]
        else:
            assert self.threshold is not None
            distance = (x - self.threshold[:, None, None]).abs()
        tiny = torch.finfo(x.dtype).tiny
        largest = x.abs().max() if terms is None else torch.maximum(x.abs().max(), terms[:, None, None])
        relative = (distance.to(x.dtype) / largest).clamp(min=tiny)
        return torch.where(differs, relative, torch.zeros(()))


@dataclass(frozen=True)
class Lowered:
    """The unfolded graph, how torch computes each of its values, and the type of layer that each op came from."""

    graph: Graph
    oracle: Mapping[str, TorchOp]
    layers: Mapping[str, str]


def run_free(oracle: Mapping[str, TorchOp], values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Every value that torch computes from its own earlier ones, beginning with those given: the input of the graph."""
    computed = dict(values)
    for name, op in oracle.items():
        if name not in computed:
            computed[name] = op(*(computed[x.name] for x in op.inputs))
    return computed


def run_where_different(op: TorchOp, inputs: list[Tensor], differs: Tensor, result: Tensor) -> Tensor:
    """`op(*inputs)`, given its `result` on inputs that differ only in the images `differs`, a mask `[N]`."""
    if differs.all():
        return op(*inputs)
    if differs.any():
        result = result.clone()
        result[differs] = op(*(x[differs] for x in inputs))
    return result
