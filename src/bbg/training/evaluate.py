"""A trained network on all images of a set; running statistics in float32."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from bbg.data.loader import Loader
from bbg.data.sets import Dataset
from bbg.image import Preprocess
from bbg.log import track
from bbg.methods.bbg_plus import BalancedActivation
from bbg.training.processes import ALONE, Processes
from bbg.training.synchronised import synchronised
from bbg.training.together import Buffers

EVALUATION_BATCH = 250

_RUNNING = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm, BalancedActivation)


@contextmanager
def full_precision() -> Iterator[None]:
    """Float32 as it is written: cuDNN would round the operands of its convolutions to 10 bits (TF32)."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


@torch.no_grad()
def reestimate_statistics(
    model: nn.Module,
    loader: Loader,
    epoch: int,
    count: int,
    processes: Processes = ALONE,
    synchronise: bool = False,
) -> None:
    """Replace the running statistics of every BatchNorm and balanced activation by their mean over `count` batches.

    They are the first `count` batches of epoch number `epoch`, in float32. Of several processes each has a part of
    every batch: the variance is then the mean of theirs, or with `synchronise` that of the whole batch.
    """
    running = [m for m in model.modules() if isinstance(m, _RUNNING)]
    was_training, momenta = model.training, [m.momentum for m in running]
    for module in running:
        module.reset_running_stats()
        module.momentum = None  # a plain mean over the batches
    model.train()
    network = synchronised(model, model, processes) if synchronise and not processes.alone else model
    for x, _ in itertools.islice(loader.epoch(epoch), count):
        buffers = None if processes.alone else Buffers(model)
        network(x)
        if buffers is not None:
            buffers.settle(len(x) / loader.batch_size, processes)
    for module, momentum in zip(running, momenta, strict=True):
        module.momentum = momentum
    model.train(was_training)


@torch.inference_mode()
def logits_of(model: nn.Module, images: Dataset, preprocess: Preprocess) -> Tensor:
    """The logits of every image, `[N, classes]`, in float32."""
    model.eval()
    device = next(model.parameters()).device
    loader = Loader(images, EVALUATION_BATCH, preprocess=preprocess, device=device)
    with full_precision():
        return torch.cat([model(x).float().cpu() for x, _ in track(loader.epoch(), "evaluating", loader.steps)])
