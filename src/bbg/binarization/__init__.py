"""Binarization: a network that was written elsewhere becomes binary, from its present weights."""

from __future__ import annotations

from bbg.binarization.binarized import Binarized
from bbg.binarization.proof import Proof
from bbg.binarization.report import BinarizeReport, LayerRow
from bbg.binarization.rewrite import binarize

__all__ = ["BinarizeReport", "Binarized", "LayerRow", "Proof", "binarize"]
