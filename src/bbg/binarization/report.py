"""What `bbg.binarize` did to a network, layer by layer, and the share of its work that runs at 1 bit."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

FIRST = "first: it reads the images"
LAST = "last: the output comes from it"
DEPTHWISE = "depthwise: one input channel per filter"


@dataclass(frozen=True)
class Row:
    """What became of one layer; `what`: binary, kept, replaced, added or dropped. `macs`: for one image."""

    name: str
    layer: str
    what: str
    why: str
    macs: int = 0


@dataclass(frozen=True)
class Surgery:
    """The table of what `binarize` did. `str()` prints it."""

    method: str
    rows: tuple[Row, ...]

    def of(self, what: str) -> list[Row]:
        """The rows of one kind."""
        return [row for row in self.rows if row.what == what]

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

    def _share(self, *without: str) -> float:
        counted = [row for row in self.rows if row.why not in without]
        return sum(row.macs for row in counted if row.what == "binary") / max(sum(row.macs for row in counted), 1)

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain data."""
        return {
            "method": self.method,
            "rows": [asdict(row) for row in self.rows],
            "share": self.share,
            "share_beside_depthwise": self.share_beside_depthwise,
        }

    def __str__(self) -> str:
        head = ("name", "layer", "what", "why", "MACs")
        lines = [head, *((r.name, r.layer, r.what, r.why, f"{r.macs:,}" if r.macs else "") for r in self.rows)]
        widths = [max(len(line[i]) for line in lines) for i in range(5)]
        table = [
            "  ".join(c.rjust(w) if i == 4 else c.ljust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True)))
            for line in lines
        ]
        total = f"{self.share:.1%} of the multiply-accumulates outside the first and the last layer run at 1 bit"
        if any(row.why == DEPTHWISE for row in self.rows):
            total += f"; {self.share_beside_depthwise:.1%} beside the depthwise ones"
        return "\n".join([*(line.rstrip() for line in table), f"method {self.method}: {total}"])
