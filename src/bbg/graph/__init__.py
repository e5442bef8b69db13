"""The graph of a packed network: its op kinds, its rules, its file, and each op in plain numpy. No torch."""

from __future__ import annotations

from bbg.graph.bits import pack_bits, unpack_bits, words
from bbg.graph.graph import Cost, Graph, Op, Output, Part, Structure, Value

__all__ = ["Cost", "Graph", "Op", "Output", "Part", "Structure", "Value", "pack_bits", "unpack_bits", "words"]
