"""What `bbg.binarize` did to a network, layer by layer, and the share of its work that runs at 1 bit."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from bbg.binarization.proof import Proof
from bbg.tables import Row, Shown

FIRST = "first: it reads the images"
LAST = "last: the output comes from it"
DEPTHWISE = "depthwise: one input channel per filter"
ACTIONS = {1: "binary", 8: "rounded", 32: "kept"}  # of a layer, by the bits that it comes to have


@dataclass(frozen=True)
class LayerRow:
    """What became of one layer. `action`: binary, rounded (to 8 bits), kept, replaced, added or dropped.

    `macs`: for one image. `bits`: the width of a convolution or linear layer, else None.
    """

    name: str
    layer: str
    action: str
    why: str
    macs: int = 0
    bits: int | None = None


@dataclass(frozen=True)
class BinarizeReport:
    """The table of what `binarize` did. `str()` prints it.

    `assumptions`: what it took for granted, one sentence each: of operations that it does not know, where signs of the
    binary layers depend on them, and of the size of the images, where a forward decides by it. `proof`: how close the
    network comes to the given one with all of this undone.
    """

    method: str
    rows: tuple[LayerRow, ...]
    assumptions: tuple[str, ...] = ()
    proof: Proof | None = None

    def of(self, action: str) -> list[LayerRow]:
        """The rows with one action."""
        return [row for row in self.rows if row.action == action]

    @property
    def share(self) -> float:
        """Of the multiply-accumulates outside the first and the last layer, the share that runs at 1 bit.

        Those of convolutions and linear layers are counted, as the network was traced for its example.
        """
        return self._share(FIRST, LAST)

    @property
    def share_beside_depthwise(self) -> float:
        """The same, the depthwise convolutions left out."""
        return self._share(FIRST, LAST, DEPTHWISE)

    @property
    def macs(self) -> dict[int, int]:
        """Multiply-accumulates of all layers for one image, by their bits."""
        return {bits: sum(row.macs for row in self.rows if row.bits == bits) for bits in ACTIONS}

    def _share(self, *without: str) -> float:
        counted = [row for row in self.rows if not any(why in row.why for why in without)]
        return sum(row.macs for row in counted if row.action == "binary") / max(sum(row.macs for row in counted), 1)

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain data."""
        return {
            "method": self.method,
            "rows": [asdict(row) for row in self.rows],
            "macs": {str(bits): macs for bits, macs in self.macs.items()},
            "assumptions": list(self.assumptions),
            "proof": None if self.proof is None else asdict(self.proof),
            "share": self.share,
            "share_beside_depthwise": self.share_beside_depthwise,
        }

    @property
    def _shown(self) -> Shown:
        rows: list[Row] = [
            {
                "name": r.name,
                "layer": r.layer,
                "action": r.action,
                "bits": r.bits,
                "why": r.why,
                "MACs": r.macs or None,
            }
            for r in self.rows
        ]
        total = f"{self.share:.1%} of the multiply-accumulates outside the first and the last layer run at 1 bit"
        if any(row.why == DEPTHWISE for row in self.rows):
            total += f"; {self.share_beside_depthwise:.1%} beside the depthwise ones"
        if self.of("rounded"):
            whole = max(sum(self.macs.values()), 1)
            parts = [f"{macs / whole:.1%} at {bits}" for bits, macs in self.macs.items() if macs]
            total += f"; of all, by bits: {', '.join(parts)}"
        assumed = [f"assumed: {sentence}" for sentence in self.assumptions]
        proved = [f"proved: {self.proof}"] if self.proof is not None else []
        return Shown(rows, [*assumed, *proved, f"method {self.method}: {total}"])

    def __str__(self) -> str:
        return str(self._shown)

    def _repr_html_(self) -> str:
        return self._shown._repr_html_()
