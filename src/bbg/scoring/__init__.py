"""A source of images through a network: what is in them (`predictions`), and how good that is (`Evaluation`)."""

from __future__ import annotations

from bbg.scoring.detection import BOX_COLUMNS, SHOWN, BoxEvaluation, BoxScore, box_scores, row_of_boxes
from bbg.scoring.evaluation import COLUMNS, Evaluation, ImageScore, image_scores, row_of
from bbg.scoring.pictures import boxes, masks
from bbg.scoring.segmentation import MASK_COLUMNS, MaskEvaluation, MaskScore, mask_scores, row_of_mask
from bbg.scoring.stages import Stages
from bbg.scoring.stream import BATCH, predictions

__all__ = [
    "BATCH",
    "BOX_COLUMNS",
    "COLUMNS",
    "MASK_COLUMNS",
    "SHOWN",
    "BoxEvaluation",
    "BoxScore",
    "Evaluation",
    "ImageScore",
    "MaskEvaluation",
    "MaskScore",
    "Stages",
    "box_scores",
    "boxes",
    "image_scores",
    "mask_scores",
    "masks",
    "predictions",
    "row_of",
    "row_of_boxes",
    "row_of_mask",
]
