"""What a network costs before it is packed: bytes and multiply-accumulates by layer and bit width."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bbg.analysis.activity import observed, on_device
from bbg.layers import BinaryConv2d, BinaryLinear, ByteConv2d, ByteLinear
from bbg.layers.bits import WIDTHS


@dataclass(frozen=True)
class Cost:
    """What one module costs, those inside it left out (but a layer's binarizers are part of it).

    `weights` numbers of `bits` bits, 1, 8 or 32, and `vectors` numbers of 32 bits beside them: bias, BN, gates, the
    scales, shifts and thresholds of the binarizers, and scale and offset of each channel that becomes bytes. `macs`:
    multiply-accumulates for one image, taps in the padding included. `shape`: the output for one image, () where there
    is no product.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    bits: int
    weights: int
    vectors: int
    macs: int

    @property
    def packed(self) -> int:
        """Bytes of the weights, `bits` bits each (a packed file pads some rows to whole words)."""
        return -(-self.weights * self.bits // 8)

    @property
    def bytes(self) -> int:
        return self.packed + 4 * self.vectors


@dataclass(frozen=True)
class Summary:
    """The costs of a network: its rows, and their totals."""

    rows: tuple[Cost, ...]

    @property
    def bytes(self) -> dict[int, int]:
        """Bytes held in numbers of 1, 8 and 32 bits."""
        few = {bits: sum(row.packed for row in self.rows if row.bits == bits) for bits in WIDTHS if bits < 32}
        return {**few, 32: sum(row.bytes for row in self.rows) - sum(few.values())}

    @property
    def float_bytes(self) -> int:
        """Bytes if every number took 32 bits."""
        return sum(4 * (row.weights + row.vectors) for row in self.rows)

    @property
    def macs(self) -> dict[int, int]:
        """Multiply-accumulates for one image, by the bit width of the weight."""
        return {bits: sum(row.macs for row in self.rows if row.bits == bits) for bits in WIDTHS}


def costs(model: nn.Module, example: Tensor) -> Summary:
    """Memory and multiply-accumulates of `model` on images such as `example` `[N, ...]`, by bit width.

    Products are counted in convolutions (not transposed ones), linear layers and their binary twins: for each number
    of the output, one multiply-accumulate per weight of its filter. A layer that runs twice counts twice, its memory
    once. Raises BbgError for no images.
    """
    outputs: dict[nn.Module, list[torch.Size]] = {}
    forms: dict[nn.Module, int] = {}

    def leave(layer: Any, x: Tensor, y: Tensor) -> None:
        outputs.setdefault(layer, []).append(y.shape)
        if isinstance(layer, BinaryConv2d | BinaryLinear):
            form = layer.activation_binarizer.form(x)
            forms[layer] = _numel(form.threshold, form.scale, form.shift)

    products = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
    rows, counted, inside = [], set[int](), set[nn.Module]()
    with observed(model) as handles:
        for m in model.modules():
            if isinstance(m, products):
                handles.append(m.register_forward_hook(lambda m, x, y: leave(m, x[0], y)))
        model(on_device(model, example))
        for name, m in model.named_modules():
            if m in inside:
                continue
            held = {
                id(t): t
                for t in [*m.parameters(recurse=False), *m.buffers(recurse=False)]
                if t.is_floating_point() and id(t) not in counted
            }
            counted |= set(held)
            numbers = _numel(*held.values())
            if not isinstance(m, products):
                if numbers:
                    rows.append(Cost(name, type(m).__name__, (), 32, 0, numbers, 0))
                continue
            shapes = outputs.get(m, [])
            macs = sum(shape.numel() for shape in shapes) // len(example) * m.weight.shape[1:].numel()
            shape = tuple(shapes[0][1:]) if shapes else ()
            weights = _numel(held.get(id(m.weight)))
            vectors, bits = numbers - weights, 32
            if isinstance(m, BinaryConv2d | BinaryLinear):
                inside |= set(m.modules())
                form = m.weight_binarizer.form(m.weight)
                vectors += _numel(form.scale, form.shift) + forms.get(m, 0)
                bits = 1
            elif isinstance(m, ByteConv2d | ByteLinear):
                vectors, bits = vectors - 2 * len(m.low), 8  # four numbers per channel become two
            rows.append(Cost(name, type(m).__name__, shape, bits, weights, vectors, macs))
    return Summary(tuple(rows))


def _numel(*tensors: Tensor | None) -> int:
    return sum(t.numel() for t in tensors if t is not None)
