"""How much the loss rises where one layer has fewer bits, behind a short recovery.

A layer that loses its bits disturbs the layers behind it, which learn to live with it within a few steps. So each
network trains for `steps` batches first, the same for all, and is judged then on images that were held back.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bbg.layers import ByteConv2d, ByteLinear
from bbg.tracing.neutral import neutral

LR = 1e-3  # of Adam


def recovered_loss(model: nn.Module, batches: list[tuple[Tensor, Tensor]], judges: tuple[Tensor, Tensor]) -> float:
    """The mean cross entropy of `model` on the images and labels `judges`, behind one step on each of the `batches`.

    The model is changed: give a copy.
    """
    for module in model.modules():
        if isinstance(module, (ByteConv2d, ByteLinear)):
            module.recording = True
    optimizer = torch.optim.AdamW(model.parameters(), LR, weight_decay=0.0)
    with neutral(grad=True):
        model.train()
        for x, y in batches:
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
    with neutral():
        model.eval()
        images, labels = judges
        losses = [
            F.cross_entropy(model(x), y, reduction="sum")
            for x, y in zip(images.split(128), labels.split(128), strict=True)
        ]
    return float(torch.stack(losses).sum()) / len(labels)
