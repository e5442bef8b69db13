"""A source of images through a network: what is in them (`predictions`), and how good that is (`Evaluation`)."""

from __future__ import annotations

from bbg.scoring.evaluation import COLUMNS, Evaluation, ImageScore, image_scores, row_of
from bbg.scoring.masks import masks
from bbg.scoring.stream import BATCH, predictions

__all__ = ["BATCH", "COLUMNS", "Evaluation", "ImageScore", "image_scores", "masks", "predictions", "row_of"]
