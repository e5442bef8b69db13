"""Which edges become bytes, by which ranges, and what that costs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bbg.conversion.oracle import Lowered
from bbg.conversion.quantize import Quantized, byte_sources, corrections_on, quantize_edges
from bbg.conversion.ranges import EVERY, Calibration, Ranges, calibration_images, clipped, measure
from bbg.conversion.report import Edges
from bbg.conversion.verify import Arrays, batches, difference
from bbg.engine import Engine
from bbg.errors import BbgError
from bbg.graph import Graph
from bbg.graph.file import PackedModel


@dataclass(frozen=True)
class ByteEdges:
    """The network with edges in 8 bits as far as ranges are known, and the images that judge what that costs.

    `wanted`: the outputs with float32 edges on these images, where they are known already.
    """

    quantized: Quantized
    ranges: Ranges | None
    judges: Tensor
    judged_on: str
    wanted: Arrays | None = None

    def judge(self, lowered: Lowered, graph: Graph, engine: Engine, exact_bytes: int) -> Edges | None:
        """What the bytes cost; None where nothing became bytes. `graph`: with float32 edges, of `exact_bytes`."""
        if self.quantized.graph == graph:
            return None
        wanted, outside = self.wanted, 0.0
        if wanted is None:
            wanted, outside = clipped(lowered, graph, self.quantized.quants, self.judges)
        given = engine.run(self.judges.numpy())
        ranges = str(self.ranges) if self.quantized.quants else "those of pixels"
        verified = not self.quantized.quants or (self.ranges is not None and self.ranges.verified)
        return Edges(exact_bytes, difference(given, wanted), ranges, verified, self.judged_on, outside)


def byte_edges(
    lowered: Lowered, packed: PackedModel, calibration: Calibration | None, example: Tensor, obeyed: bool
) -> ByteEdges:
    """The edges of `packed` in 8 bits, by the ranges of `calibration`; `obeyed`: by those of `example` without it."""
    graph, preprocess = packed.graph, packed.preprocess
    sources = byte_sources(graph, preprocess)
    ranges, judges, judged_on, wanted, seen = None, example, "the example", None, None
    if isinstance(calibration, Ranges):
        ranges = calibration
    elif calibration is not None:
        value = graph.values[graph.input_name]
        images = calibration_images(calibration, preprocess, value.shape)
        held_back = torch.zeros(len(images), dtype=torch.bool)
        held_back[EVERY - 1 :: EVERY] = True
        seen = images[~held_back]
        ranges, _ = measure(lowered, graph, sources, seen, "calibration")
        if held_back.any():
            judges, judged_on = images[held_back], "others of the calibration"
    elif obeyed:
        ranges, wanted = measure(lowered, graph, sources, example, "example")
        judged_on = "the example itself"
    quantized = quantize_edges(lowered, graph, ranges, preprocess)
    if seen is not None:
        corrections = corrections_on(lowered, quantized, (batch for _, batch in batches(graph, seen)))
        quantized = quantize_edges(lowered, graph, ranges, preprocess, corrections)
    if obeyed and quantized.real:
        named = ", ".join(quantized.real)
        raise BbgError(f"edges='int8': no range is known of what {named} read; give calibration=training images")
    return ByteEdges(quantized, ranges, judges, judged_on, wanted)
