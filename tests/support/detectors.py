"""A small network whose boxes are known: the cells of a grid that are red or green."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import bbg
from bbg.boxes import Level
from bbg.heads import Detection

LABELS = ("red", "green")
CELLS = 4  # across and down


def head() -> Detection:
    """One prior for each cell, as large as the cell."""
    return Detection((Level((CELLS, CELLS), ((1 / CELLS, 1 / CELLS),)),))


class Spots(nn.Module):
    """The logit of a class is ten times its colour, that of the background is 5; boxes lie at the priors."""

    def __init__(self, side: int = 8) -> None:
        super().__init__()
        self.scores, self.boxes = nn.Conv2d(3, 3, side, side), nn.Conv2d(3, 4, side, side)
        with torch.no_grad():
            for weight in (self.scores.weight, self.scores.bias, self.boxes.weight, self.boxes.bias):
                weight.zero_()  # type: ignore[union-attr]
            self.scores.weight[1, 0], self.scores.weight[2, 1] = 10 / side**2, 10 / side**2
            self.scores.bias[0] = 5  # type: ignore[index]

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Images `[N, 3, H, W]` to offsets and logits."""
        scores, boxes = self.scores(x), self.boxes(x)
        return {
            "boxes": boxes.permute(0, 2, 3, 1).flatten(1, 2),
            "scores": scores.permute(0, 2, 3, 1).flatten(1, 2),
        }


def write_spots(path: Path | str, resize: int | None = None, labels: tuple[str, ...] | None = LABELS) -> None:
    """`Spots` as a packed file, for pictures that are resized to 32 x 32."""
    preprocess = bbg.Preprocess(32, resize)
    bbg.convert(
        Spots(), path, torch.rand(2, 3, 32, 32), preprocess=preprocess, labels=labels, head=head(), edges="fp32"
    )


def picture(cells: dict[tuple[int, int], str], side: int = 16) -> np.ndarray:
    """A black picture of 4 x 4 cells, those of `cells` (row, column) in their colour."""
    found = np.zeros((CELLS * side, CELLS * side, 3), np.uint8)
    for (row, column), colour in cells.items():
        found[row * side : (row + 1) * side, column * side : (column + 1) * side, LABELS.index(colour)] = 255
    return found
