"""`bbg.check`: whether a network will convert, before it is trained, and what would become of it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor, nn

from bbg.binarization.planned import Planned, planned
from bbg.binarization.report import LayerRow
from bbg.conversion.given import float32_copy, images_of
from bbg.conversion.lowering import Examined, examine
from bbg.conversion.passes import fold_graph
from bbg.graph.file import PackedModel
from bbg.layers import ByteConv2d, ByteLinear
from bbg.tracing.neutral import single_threaded
from bbg.tracing.refusals import Refusals


@dataclass(frozen=True)
class Checked:
    """A network that will convert. `str()` prints it.

    `input`: the shape of an image, `[C, H, W]`. `outputs`: those of what it returns for one, by name; '' for one tensor
    alone. `rows`: what becomes of its layers, as in the report of `bbg.binarize` with its defaults; of a network that
    has binary or 8-bit layers, what they are. `note`: why `bbg.binarize` would refuse it.
    """

    input: tuple[int, ...]
    outputs: Mapping[str, tuple[int, ...]]
    rows: tuple[LayerRow, ...]
    note: str = ""

    def of(self, action: str) -> tuple[str, ...]:
        """The names of the layers with one action: binary, rounded, kept, replaced, added or dropped."""
        return tuple(row.name for row in self.rows if row.action == action)

    @property
    def binary(self) -> tuple[str, ...]:
        """The layers of 1 bit."""
        return self.of("binary")

    @property
    def kept(self) -> tuple[str, ...]:
        """The layers that stay real-valued."""
        return self.of("kept")

    @property
    def replaced(self) -> tuple[str, ...]:
        """The activations in whose place another one stands."""
        return self.of("replaced")

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain data."""
        return {
            "input": list(self.input),
            "outputs": {name: list(shape) for name, shape in self.outputs.items()},
            "rows": [asdict(row) for row in self.rows],
            "note": self.note,
        }

    def __str__(self) -> str:
        returned = ", ".join(f"{name} {list(shape)}".strip() for name, shape in self.outputs.items())
        counts = {action: len(self.of(action)) for action in dict.fromkeys(row.action for row in self.rows)}
        layers = ", ".join(f"{count} {action}" for action, count in counts.items())
        lines = [f"it converts, from images {list(self.input)} to {returned}", layers or "no layers"]
        return "\n".join([*lines, f"bbg.binarize would refuse it: {self.note}"] if self.note else lines)


def check(model: nn.Module, example: Tensor) -> Checked:
    """What will become of `model`; BbgError where it cannot be converted, with all causes at once.

    To be called before a training: ranges of 8-bit layers may still be missing. What `bbg.binarize` takes away (an
    activation that is never negative, before a binary layer) is no cause. `example`: float `[N, C, H, W]`; its shape
    counts. The network does not run, as far as torch knows the shapes without that; nothing is written, and the model
    stays as it is.

    Each cause names the module, the file and line of the network's code that calls it, and what to change;
    `BbgError.causes` has them one by one. The same cause at many modules is told once, with their number.
    """
    with single_threaded():
        images = images_of(example)[:2]
        network = float32_copy(model)
        for layer in network.modules():
            if isinstance(layer, (ByteConv2d, ByteLinear)):
                layer.batches.clamp_(min=1)
        found = examine(network, images)
        plan = planned(network, images)
        found = _beside_replaced(found, plan, images)
        if found.refusals:
            raise found.refusals.error()
        if found.lowered is not None:
            PackedModel(fold_graph(found.lowered.graph)).check()
    return Checked(tuple(images.shape[1:]), found.outputs, plan.rows, plan.reason)


def _beside_replaced(found: Examined, plan: Planned, images: Tensor) -> Examined:
    """What is refused of a network beside the activations that binarization replaces.

    Where these are all, the network with others in their places is judged.
    """
    rest = [one for one in found.refusals.found if (re.sub(r"_\d+$", "", one.where), one.place) not in plan.replaced]
    if len(rest) == len(found.refusals.found):
        return found
    if rest or plan.module is None:
        return Examined(None, Refusals(rest))
    again = examine(plan.module.eval(), images)
    named = {one.where for one in again.refusals.found}  # one of several calls at a line may stay
    lines = [one for one in found.refusals.found if one.where in named]
    return Examined(None, Refusals(lines)) if lines else again
