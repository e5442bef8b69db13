"""Binarization: a network that was written elsewhere becomes binary, from its present weights."""

from __future__ import annotations

from bbg.binarization.report import Surgery
from bbg.binarization.rewrite import Binarized, binarize

__all__ = ["Binarized", "Surgery", "binarize"]
