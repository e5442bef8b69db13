"""Classification: cross-entropy, top-1 accuracy, and distillation from a teacher."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bbg import heads
from bbg.data.loader import Loader
from bbg.log import track
from bbg.recipe import Recipe
from bbg.training.processes import ALONE, Processes


def distillation(logits: Tensor, taught: Tensor, temperature: float) -> Tensor:
    """`T^2 KL(softmax(taught / T) || softmax(logits / T))`, mean over the batch (Hinton et al., arXiv 1503.02531)."""
    ours, theirs = F.log_softmax(logits / temperature, 1), F.log_softmax(taught / temperature, 1)
    return F.kl_div(ours, theirs, reduction="batchmean", log_target=True) * temperature**2


class Classification:
    """Logits `[N, classes]` against labels `[N]`; `teacher`: a network whose logits are learned too.

    The labels of mixed images are the shares of the classes, `[N, classes]`.
    """

    head: heads.Head | None = heads.Classification()
    figure = "accuracy"
    processes: Processes = ALONE

    def __init__(self, recipe: Recipe, classes: int, teacher: nn.Module | None = None) -> None:
        self.recipe, self.classes = recipe, classes
        # A copy, so that the caller's network keeps its mode and its place.
        self.teacher = None if teacher is None else copy.deepcopy(teacher).eval().requires_grad_(False)

    def loss(self, outputs: Tensor, targets: Tensor, inputs: Tensor) -> Tensor:
        """Cross-entropy; with a teacher, the recipe's share `distill` of the divergence from its logits."""
        logits = outputs.float()
        loss = F.cross_entropy(logits, targets, label_smoothing=self.recipe.label_smoothing)
        if self.teacher is None:
            return self.processes.part(loss, len(targets))
        with torch.no_grad():
            taught = self.teacher.to(inputs.device)(inputs)
        share = self.recipe.distill
        loss = (1 - share) * loss + share * distillation(logits, taught.float(), self.recipe.temperature)
        return self.processes.part(loss, len(targets))

    def metrics(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Top-1 accuracy; the label of a mixed image is the class with the largest share."""
        labels = targets if targets.ndim == 1 else targets.argmax(1)
        return {"accuracy": (outputs.detach().argmax(1) == labels).float().mean()}

    @torch.no_grad()
    def evaluate(self, model: nn.Module, loader: Loader) -> dict[str, float]:
        """Cross-entropy without smoothing, and top-1 accuracy."""
        model.eval()
        # The sums stay on the device: reading one makes the processor wait for it.
        loss, right = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.int64)
        for x, labels in track(loader.epoch(), "evaluating", loader.steps):
            logits = model(x).float()
            loss = loss.to(x.device) + F.cross_entropy(logits, labels, reduction="sum")
            right = right.to(x.device) + (logits.argmax(1) == labels).sum()
        total, count = self.processes.total(loss, right)
        return {"loss": total / len(loader.data), "accuracy": count / len(loader.data)}
