"""How much the loss rises where one layer has fewer bits, behind a short recovery.

A layer that loses its bits disturbs the layers behind it, which learn to live with it within a few steps. So each
network trains for `steps` batches first, the same for all, and is judged then on images that were held back.

What a trained network has learned must stay: at the rate of a training its loss would first jump, by more than what a
layer's bits cost. So only the unit of the 1-bit layer learns at such a rate, all others at a tenth, and both rates fall
to 0, which leaves batch norms with the statistics of the weights that are judged.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bbg.layers import ByteConv2d, ByteLinear
from bbg.tracing.neutral import neutral
from bbg.training.optimizer import of_binary_layers

LR = 1e-3  # of Adam, for the unit of a 1-bit layer
LR_OF_OTHERS = 1e-4


def recovered_loss(model: nn.Module, batches: list[tuple[Tensor, Tensor]], judges: tuple[Tensor, Tensor]) -> float:
    """The mean cross entropy of `model` on the images and labels `judges`, behind one step on each of the `batches`.

    The model is changed: give a copy.
    """
    for module in model.modules():
        if isinstance(module, (ByteConv2d, ByteLinear)):
            module.recording = True
    binary = of_binary_layers(model)
    parts = [p for p in model.parameters() if id(p) in binary], [p for p in model.parameters() if id(p) not in binary]
    groups = [{"params": part, "lr": lr} for part, lr in zip(parts, (LR, LR_OF_OTHERS), strict=True) if part]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.0)
    falling = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, len(batches))
    with neutral(grad=True):
        model.train()
        for x, y in batches:
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
            falling.step()
    with neutral():
        model.eval()
        images, labels = judges
        losses = [
            F.cross_entropy(model(x), y, reduction="sum")
            for x, y in zip(images.split(128), labels.split(128), strict=True)
        ]
    return float(torch.stack(losses).sum()) / len(labels)
