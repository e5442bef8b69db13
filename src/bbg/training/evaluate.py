"""A trained network on all images of a set; batch-norm statistics in float32."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn

from bbg.data.loader import Loader
from bbg.data.sets import Dataset
from bbg.image import Preprocess

EVALUATION_BATCH = 250

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


@torch.no_grad()
def reestimate_norms(model: nn.Module, loader: Loader, epoch: int, count: int) -> None:
    """Replace the running statistics of every BatchNorm by their mean over `count` batches, in float32.

    They are the first `count` batches of epoch number `epoch`.
    """
    norms = [m for m in model.modules() if isinstance(m, _NORMS)]
    was_training, momenta = model.training, [m.momentum for m in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain mean over the batches
    model.train()
    for x, _ in itertools.islice(loader.epoch(epoch), count):
        model(x)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.train(was_training)


@torch.inference_mode()
def logits_of(model: nn.Module, images: Dataset, preprocess: Preprocess) -> Tensor:
    """The logits of every image, `[N, classes]`, in float32."""
    model.eval()
    device = next(model.parameters()).device
    loader = Loader(images, EVALUATION_BATCH, preprocess=preprocess, device=device)
    return torch.cat([model(x).float().cpu() for x, _ in loader.epoch()])
