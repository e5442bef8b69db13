"""Detection: priors matched with true boxes, smooth L1 and cross-entropy with hard negatives, average precision, and
distillation from a teacher.
"""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bbg import heads
from bbg.average_precision import Matches
from bbg.boxes import corners, count, encode, iou, priors
from bbg.data.loader import Loader
from bbg.errors import BbgError
from bbg.log import track
from bbg.recipe import Recipe
from bbg.scoring.detection import OVERLAP, SURE, truth_of
from bbg.training.processes import ALONE, Processes

LEAST = 0.5  # the IoU from which on a prior is taken for a box
NEGATIVES = 3  # priors of the background that are learned for each that is taken
OF_NOTHING = 10  # and at least so many of an image
PIXELS = 2**20  # of the images that are evaluated at a time


class Match(NamedTuple):
    """What each prior is to learn: its class `[N, P]`, 0 for the background, and the box `[N, P, 4]` of the others."""

    classes: Tensor
    boxes: Tensor


def match(targets: Tensor, all_priors: Tensor) -> Match:
    """The boxes of `targets` `[N, M, 6]` (`bbg.data.boxed`) by priors `[P, 4]`.

    A prior is taken for the box that it overlaps most, where the IoU is at least 1/2; and each box takes the prior that
    overlaps it most, whatever their IoU (SSD, section 2.2).
    """
    real = targets[:, None, :, 0] >= 0
    overlaps = iou(corners(all_priors, torch)[None], targets[..., 1:5], torch).masked_fill(~real, 0)
    best = F.one_hot(overlaps.argmax(1), len(all_priors)).transpose(1, 2).bool() & real & (overlaps > 0)
    nearest, place = torch.where(best, overlaps + 2, overlaps).max(2)
    boxes = targets[..., 1:5].gather(1, place[..., None].expand(-1, -1, 4))
    classes = targets[..., 0].gather(1, place).long() + 1
    return Match(torch.where(nearest >= LEAST, classes, 0), boxes)


class Detection:
    """`{"boxes": [N, P, 4], "scores": [N, P, 1 + classes]}` against targets `[N, M, 6]` (`bbg.data.boxed`).

    `head`: that of the network, its attribute `detection`, which `of` takes. `teacher`: a detector of the same priors
    whose offsets and logits are learned too.
    """

    head: heads.Head | None = None
    figure = "map"
    processes: Processes = ALONE

    def __init__(self, recipe: Recipe, classes: int, teacher: nn.Module | None = None) -> None:
        self.recipe, self.classes = recipe, classes
        # A copy, so that the caller's network keeps its mode and its place.
        self.teacher = None if teacher is None else copy.deepcopy(teacher).eval().requires_grad_(False)

    def of(self, network: nn.Module) -> None:
        """Take the priors of `network`; BbgError where it has none, or others than the teacher."""
        found = getattr(network, "detection", None)
        if not isinstance(found, heads.Detection):
            raise BbgError(
                "a network that detects has its priors as the attribute 'detection', a bbg.heads.Detection, and this "
                f"{type(network).__name__} has none; give it one, or take one of bbg's (ssd_light)"
            )
        if self.teacher is not None and getattr(self.teacher, "detection", None) != found:
            raise BbgError("the teacher has other priors than the network; give a detector with maps of the same sizes")
        self.head = found

    def loss(self, outputs: Any, targets: Tensor, inputs: Tensor) -> Tensor:
        """Smooth L1 of the offsets of the priors that are taken, and cross-entropy of their classes and of the hardest
        negatives, three for each; both over the number of priors taken in the batch.

        With a teacher, the recipe's share `distill` of what is learned from it: of all priors the divergence of the
        classes, `T^2 KL(softmax(taught / T) || softmax(scores / T))`, and smooth L1 of the offsets, by the teacher's
        probability that there is an object; over the same number.

        Raises BbgError where the network returns something else than offsets and logits of its priors.
        """
        boxes, scores, all_priors = self._outputs(outputs)
        total, taken = self._loss(boxes, scores, match(targets, all_priors), all_priors)
        if self.teacher is not None:
            share = self.recipe.distill
            total = (1 - share) * total + share * self._taught(boxes, scores, inputs)
        return total / self.processes.add(taken).clamp(min=1)

    def _taught(self, boxes: Tensor, scores: Tensor, inputs: Tensor) -> Tensor:
        """What is learned from the teacher, the sum over the batch."""
        assert self.teacher is not None
        with torch.no_grad():
            their_boxes, their_scores, _ = self._outputs(self.teacher.to(inputs.device)(inputs))
        heat = self.recipe.temperature
        ours, theirs = F.log_softmax(scores / heat, 2), F.log_softmax(their_scores / heat, 2)
        naming = F.kl_div(ours, theirs, reduction="sum", log_target=True) * heat**2
        object_there = 1 - their_scores.softmax(2)[..., 0]
        place = F.smooth_l1_loss(boxes, their_boxes, reduction="none").sum(2)
        return naming + (place * object_there).sum()

    def metrics(self, outputs: Any, targets: Tensor) -> dict[str, Tensor]:
        """The share of the priors taken for a box whose best class is that of the box."""
        _, scores, all_priors = self._outputs(outputs)
        classes = match(targets, all_priors).classes
        taken = classes > 0
        right = (scores.detach().argmax(2) == classes) & taken
        return {"hit": right.sum().float() / taken.sum().clamp(min=1)}

    @torch.no_grad()
    def evaluate(self, model: nn.Module, loader: Loader) -> dict[str, float]:
        """The loss, and mAP at an IoU of 0.5 (`bbg.average_precision`): `map`, the area, and `map_11`, eleven points.

        Boxes are compared at the size of the network's input.
        """
        model.eval()
        assert isinstance(self.head, heads.Detection)
        matches, loss, taken = Matches(self.classes), 0.0, 0.0
        for images, targets in track(loader.epoch(), "evaluating", loader.steps):
            some = max(1, PIXELS // (images.shape[2] * images.shape[3]))
            for x, truth in zip(images.split(some), targets.split(some), strict=True):
                outputs = model(x)
                boxes, scores, all_priors = self._outputs(outputs)
                total, found = self._loss(boxes, scores, match(truth, all_priors), all_priors)
                loss, taken = loss + float(total), taken + int(found)
                arrays = {"boxes": boxes.cpu().numpy(), "scores": scores.cpu().numpy()}
                for answer, rows in zip(self.head.decide(arrays, SURE, OVERLAP), truth.cpu().numpy(), strict=True):
                    matches.add(answer, truth_of(rows))
        matches = Matches.joined(self.processes.gather(matches))
        loss, taken = self.processes.total(loss, taken)
        return {"loss": loss / max(taken, 1), "map": matches.mean_area, "map_11": matches.mean_eleven}

    def _outputs(self, outputs: Any) -> tuple[Tensor, Tensor, Tensor]:
        """Offsets and logits in float32, and the priors on their device."""
        assert isinstance(self.head, heads.Detection)
        number = count(self.head.levels)
        wanted = {"boxes": (number, 4), "scores": (number, 1 + self.classes)}
        found = outputs if isinstance(outputs, dict) else {}
        shapes = {name: tuple(value.shape[1:]) for name, value in found.items() if isinstance(value, Tensor)}
        if shapes != wanted:
            came = shapes or type(outputs).__name__
            raise BbgError(f"the network returns {came} for an image; its priors and classes take {wanted}")
        device = found["boxes"].device
        all_priors = torch.tensor(priors(self.head.levels), device=device)
        return found["boxes"].float(), found["scores"].float(), all_priors

    def _loss(self, boxes: Tensor, scores: Tensor, wanted: Match, all_priors: Tensor) -> tuple[Tensor, Tensor]:
        """The sum over the batch, and the number of priors that are taken."""
        taken = wanted.classes > 0
        real = torch.where(taken[..., None], wanted.boxes, corners(all_priors, torch)[None])
        offsets = encode(real, all_priors[None], torch)
        place = F.smooth_l1_loss(boxes, offsets, reduction="none").sum(2)
        naming = F.cross_entropy(
            scores.transpose(1, 2), wanted.classes, reduction="none", label_smoothing=self.recipe.label_smoothing
        )
        hardness = naming.detach().masked_fill(taken, -1)  # cross-entropy is never negative
        most = (NEGATIVES * taken.sum(1)).clamp(min=OF_NOTHING)
        hard = (hardness.argsort(1, descending=True).argsort(1) < most[:, None]) & ~taken
        return (place * taken).sum() + (naming * (taken | hard)).sum(), taken.sum()
