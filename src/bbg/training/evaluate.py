"""A trained network on all images of a set; batch-norm statistics in float32."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn

from bbg.data import Batches, ImageSet
from bbg.image import Preprocess

EVALUATION_BATCH = 250


@torch.no_grad()
def reestimate_norms(model: nn.Module, batches: Batches, count: int) -> None:
    """Replace the running statistics of every BatchNorm by their mean over the first `count` batches, in float32."""
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    was_training, momenta = model.training, [m.momentum for m in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain mean over the batches
    model.train()
    start, batches.start = batches.start, 0
    for x, _ in itertools.islice(batches, count):
        model(x.to(next(model.parameters()).device))
    batches.start = start
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.train(was_training)


@torch.inference_mode()
def logits_of(model: nn.Module, images: ImageSet, preprocess: Preprocess) -> Tensor:
    """The logits of every image, `[N, classes]`, in float32."""
    model.eval()
    device = next(model.parameters()).device
    batches = Batches(images, preprocess, EVALUATION_BATCH, shuffle=False)
    return torch.cat([model(x.to(device)).float().cpu() for x, _ in batches])
