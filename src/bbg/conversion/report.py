"""The report of a conversion: where the bytes went, and how closely the engine agrees with torch.

`Report` says it in three forms: attributes, sentences (`print(report)`), and entries for programs (`as_dict`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import nn

from bbg.conversion.verify import TOLERANCE, EndToEnd, LayerCheck
from bbg.graph.file import PackedModel
from bbg.tables import Row, Shown

if TYPE_CHECKING:
    from rich.text import Text

ENOUGH = 100  # images, below which ranges are not trusted
CHANGED = 0.01  # of the best classes: more than this is told as a warning


@dataclass(frozen=True)
class Part:
    """Bytes in float32 `before` and packed `after`, of the weights of a type of layer, or of something else."""

    name: str
    bits: int | None
    before: int
    after: int


@dataclass(frozen=True)
class Edges:
    """What 8-bit edges save and cost: `bytes` of the file with float32 edges, and how far the outputs are apart.

    `difference`: the engine with 8-bit edges against the network in torch, on the images `judged_on`; None where
    nothing judged it. `ranges`: where the ranges of the rounded inputs come from; `verified`: whether these were enough
    training images. `clipped`: the share of the rounded numbers that lay outside their range.
    """

    bytes: int
    difference: EndToEnd | None
    ranges: str
    verified: bool
    judged_on: str
    clipped: float = 0.0

    @property
    def warnings(self) -> tuple[str, ...]:
        """What should not pass in silence."""
        found = []
        if not self.verified:
            advice = f"give calibration=training images, {ENOUGH} or more"
            found.append(f"the ranges of the 8-bit layers are {self.ranges}; {advice}")
        judged = self.difference is not None and self.difference.images >= ENOUGH  # fewer say little of a per cent
        top1 = self.difference.top1 if judged and self.difference is not None else None
        if top1 is not None and 1 - top1 > CHANGED:
            changed = f"8-bit edges change the best class of {1 - top1:.1%} of the images (of {self.judged_on})"
            found.append(f'{changed}; edges="fp32" keeps it')
        return tuple(found)


@dataclass(frozen=True)
class Report:
    """`convert`'s answer. `before`, `after`: bytes of the network in float32 and of the packed file, sums of `parts`.

    `findings`: engine and torch layer by layer, one check per value of the graph. `agreement`: both end to end, on the
    example, with the same edges. `edges`: what 8-bit edges cost; None where they are in float32. `real`: layers that
    stayed in float32 because the range of what they read is not known.
    """

    path: str
    parts: tuple[Part, ...]
    findings: tuple[LayerCheck, ...]
    agreement: EndToEnd
    edges: Edges | None = None
    real: tuple[str, ...] = ()

    @property
    def warnings(self) -> tuple[str, ...]:
        """What should not pass in silence; `convert` logs them too."""
        return () if self.edges is None else self.edges.warnings

    @property
    def before(self) -> int:
        """Bytes in float32."""
        return sum(part.before for part in self.parts)

    @property
    def after(self) -> int:
        """Bytes of the packed file."""
        return sum(part.after for part in self.parts)

    @property
    def difference(self) -> float:
        """The largest difference of a real value, over its layer's largest, on the same inputs."""
        return max((found.difference for found in self.findings), default=0.0)

    @property
    def ties(self) -> int:
        """Bits that fell the other way, each within 1e-5 of its threshold, on the same inputs."""
        return sum(found.ties for found in self.findings)

    def as_dict(self) -> dict[str, Any]:
        """The report as entries and one table, for JSON.

        `output_diff_max`, `output_diff_p99`: engine against torch, of all numbers of the outputs; those that begin with
        `edges_`: 8-bit edges against float32 edges, on `edges_images` images.
        """
        table = [(part.name, part.bits, part.before, part.after) for part in (*self.parts, self._total)]
        entries = {
            "bytes": [dict(zip(("part", "bits", "float32", "packed"), row, strict=True)) for row in table],
            "file": self.path,
            "values_checked": len(self.findings),
            "layer_diff_max": self.difference,
            "near_ties": self.ties,
            "images": self.agreement.images,
            **_differences(self.agreement),
        }
        if self.edges is not None:
            entries |= {"edges_bytes_saved": self.edges.bytes - self.after, "edges_ranges": self.edges.ranges}
            if self.edges.difference is not None:
                judged = {"images": self.edges.difference.images, **_differences(self.edges.difference)}
                judged |= {"clipped": self.edges.clipped}
                entries |= {f"edges_{key}": value for key, value in judged.items()}
        if self.real:
            entries["edges_in_float32"] = ", ".join(self.real)
        if self.warnings:
            entries["warnings"] = "; ".join(self.warnings)
        return entries

    @property
    def _total(self) -> Part:
        return Part("total", None, self.before, self.after)

    @property
    def _shown(self) -> Shown:
        rows: list[Row] = [
            {
                "part": part.name,
                "bits": part.bits,
                "float32_bytes": part.before,
                "packed_bytes": part.after,
                "ratio": round(part.before / part.after, 1) if part.before and part.after else None,
            }
            for part in (*self.parts, self._total)
        ]
        return Shown(rows, self._lines, self.path)

    @property
    def _lines(self) -> list[str]:
        a = self.agreement
        lines = [
            f"layer by layer: {len(self.findings)} values agree; largest difference {self.difference:.1e} of the "
            f"layer's largest (allowed {TOLERANCE:.0e}), {self.ties} near-ties fell the other way",
            f"end to end: {a.images} images; outputs differ by at most {a.largest:.1e}, 99 % by {a.percentile99:.1e}",
        ]
        if a.diverged:
            lines.append(
                f"on {a.diverged} of them bits leave torch's path; the first to do so lie within {a.divergence:.1e} "
                "of the layer's largest value of their threshold"
            )
        if a.top1 is not None:
            lines.append(f"the best class is the same on {a.top1:.2%} of them")
        if self.edges is not None:
            saved = self.edges.bytes - self.after
            size = f"{abs(saved):,} bytes {'less' if saved >= 0 else 'more'}"
            lines.append(f"8-bit edges instead of float32: {size}; ranges: {self.edges.ranges}")
            if (cost := self.edges.difference) is None:
                lines.append("what 8 bits change was judged on no images")
            else:
                same = "" if cost.top1 is None else f"; the best class stays the same on {cost.top1:.2%}"
                lines.append(
                    f"on {cost.images} images (of {self.edges.judged_on}) outputs move by at most {cost.largest:.1e}, "
                    f"99 % by {cost.percentile99:.1e}{same}; {self.edges.clipped:.2%} of the rounded inputs are clipped"
                )
        if self.real:
            lines.append(
                f"in float32, since the range of their inputs is not known: {', '.join(self.real)}; give "
                "calibration=training images for 8 bits"
            )
        lines += [f"warning: {warning}" for warning in self.warnings]
        return lines

    def __rich__(self) -> Text:
        from rich.text import Text

        return Text(str(self))  # names come from people: as Text they are not read as rich's markup

    def __str__(self) -> str:
        return str(self._shown)

    def _repr_html_(self) -> str:
        return self._shown._repr_html_()


def _differences(compared: EndToEnd) -> dict[str, float | None]:
    return {
        "output_diff_max": compared.largest,
        "output_diff_p99": compared.percentile99,
        "top1_agreement": compared.top1,
    }


def parts(model: nn.Module, packed: PackedModel, layers: Mapping[str, str], size: int) -> tuple[Part, ...]:
    """Where the `size` bytes of the packed file went, the weights by type of layer (`layers`: of each op)."""
    before: Counter[tuple[str, int]] = Counter()
    after: Counter[tuple[str, int]] = Counter()
    for op, cost in zip(packed.graph.ops, packed.graph.costs(), strict=True):
        if cost.bits is not None:
            kind = layers[op.name], cost.bits
            before[kind] += 4 * cost.weights
            after[kind] += op.tensors["weight"].nbytes
    state = [*model.parameters(), *model.buffers()]
    numbers = sum(tensor.numel() for tensor in state if tensor.is_floating_point())
    tensors = sum(tensor.nbytes for op in packed.graph.ops for tensor in op.tensors.values())
    return (
        *(Part(f"{layer} weights", bits, before[layer, bits], after[layer, bits]) for layer, bits in before),
        Part("per channel", 32, max(4 * numbers - before.total(), 0), tensors - after.total()),
        Part("description", None, 0, size - tensors),
    )
