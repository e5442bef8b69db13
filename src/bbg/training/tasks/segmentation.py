"""Segmentation: cross-entropy at each pixel, mean intersection over union, and distillation from a teacher."""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bbg import heads, metrics
from bbg.data.loader import Loader
from bbg.errors import BbgError
from bbg.log import track
from bbg.maps import IGNORED
from bbg.recipe import Recipe
from bbg.training.processes import ALONE, Processes
from bbg.training.tasks.classification import distillation

PIXELS = 2**18  # that are evaluated at a time: a network that segments keeps large maps


class Segmentation:
    """Logits `[N, classes, h, w]` against masks, uint8 `[N, H, W]`, where 255 does not count.

    Maps of another size are brought to that of the mask, bilinearly with half-pixel centres, as the head does it.
    `teacher`: a network whose logits are learned too.
    """

    head: heads.Head | None = heads.Segmentation()
    figure = "miou"
    processes: Processes = ALONE

    def __init__(self, recipe: Recipe, classes: int, teacher: nn.Module | None = None) -> None:
        self.recipe, self.classes = recipe, classes
        # A copy, so that the caller's network keeps its mode and its place.
        self.teacher = None if teacher is None else copy.deepcopy(teacher).eval().requires_grad_(False)

    def loss(self, outputs: Any, targets: Tensor, inputs: Tensor) -> Tensor:
        """Cross-entropy, the mean over the pixels that count; with a teacher, the recipe's share `distill` of the
        divergence from its logits, over all pixels.

        Raises BbgError where the network returns something else than one map for each class.
        """
        maps = self._maps(outputs, targets)
        total = self._cross_entropy(maps, targets, self.recipe.label_smoothing)
        loss = total / self.processes.add((targets != IGNORED).sum()).clamp(min=1)
        if self.teacher is None:
            return loss
        with torch.no_grad():
            taught = self._maps(self.teacher.to(inputs.device)(inputs), targets)
        ours, theirs = (x.movedim(1, -1).flatten(0, 2) for x in (maps, taught))
        share = self.recipe.distill
        learned = distillation(ours, theirs, self.recipe.temperature)
        return (1 - share) * loss + share * self.processes.part(learned, len(targets))

    def metrics(self, outputs: Any, targets: Tensor) -> dict[str, Tensor]:
        """The share of the pixels that count whose class is right."""
        answers, counts = self._maps(outputs, targets).detach().argmax(1), targets != IGNORED
        return {"pixel_accuracy": ((answers == targets) & counts).sum().float() / counts.sum().clamp(min=1)}

    @torch.no_grad()
    def evaluate(self, model: nn.Module, loader: Loader) -> dict[str, float]:
        """Cross-entropy without smoothing, mIoU (`bbg.metrics.Overlap`) and pixel accuracy, over all pixels that count.

        They are those at the size of the network's input.
        """
        model.eval()
        count = self.classes
        # The sums stay on the device: reading one makes the processor wait for it.
        loss, table = torch.zeros((), dtype=torch.float64), torch.zeros(count * count, dtype=torch.int64)
        for images, masks in track(loader.epoch(), "evaluating", loader.steps):
            some = max(1, PIXELS // (masks.shape[1] * masks.shape[2]))
            for x, targets in zip(images.split(some), masks.split(some), strict=True):
                maps = self._maps(model(x), targets)
                counts = targets != IGNORED
                loss = loss.to(x.device) + self._cross_entropy(maps, targets, 0.0)
                pairs = targets[counts].long() * count + maps.argmax(1)[counts]
                table = table.to(x.device) + torch.bincount(pairs, minlength=count * count)
        table = self.processes.add(table.cpu())
        found = metrics.overlap(table.reshape(count, count).numpy())
        pixels = max(int(table.sum()), 1)
        return {"loss": self.processes.total(loss)[0] / pixels, "miou": found.mean, "pixel_accuracy": found.accuracy}

    def _maps(self, outputs: Any, targets: Tensor) -> Tensor:
        """The logits in float32, at the size of the masks."""
        if not isinstance(outputs, Tensor) or outputs.ndim != 4 or outputs.shape[1] != self.classes:
            came = list(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
            wanted = f"[N, {self.classes}, H, W], a map for each class"
            advice = f"give it {self.classes} maps" if isinstance(outputs, Tensor) else "return the maps alone"
            if isinstance(outputs, Tensor) and outputs.shape[1:2] == (1,):
                advice += f": {heads.ONE_MAP}"
            raise BbgError(f"the network returns {came}; a segmentation takes {wanted}: {advice}")
        size = targets.shape[1:]
        maps = outputs.float()
        return maps if maps.shape[2:] == size else F.interpolate(maps, size, mode="bilinear", align_corners=False)

    def _cross_entropy(self, maps: Tensor, targets: Tensor, smoothing: float) -> Tensor:
        """The sum over the pixels that count."""
        return F.cross_entropy(maps, targets.long(), ignore_index=IGNORED, reduction="sum", label_smoothing=smoothing)
