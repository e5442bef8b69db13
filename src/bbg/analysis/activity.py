"""Dead filters and stuck activations: what a network does with the images that it sees."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from bbg.analysis.weights import signs_of
from bbg.errors import BbgError
from bbg.layers import BinaryConv2d, BinaryLinear

ROUNDING = 1e-5  # a filter varies where its output does, by more than this share of the layer's largest output


POOLS = (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveMaxPool2d, nn.AdaptiveAvgPool2d, nn.Dropout, nn.Identity)


@dataclass(frozen=True)
class Activity:
    """What one binary layer did on some images.

    `dead`: `[O]` bool. A filter is dead where its output, before BN, is the same for all images and positions, or where
    the scale of the BN behind it is nearly 0. `positive`: `[C]` float64, per input channel the share of activations
    that became +1.
    """

    name: str
    dead: Tensor
    positive: Tensor

    @property
    def stuck(self) -> Tensor:
        """`[C]` bool: input channels that were +1, or -1, for all images and positions, so that they tell nothing."""
        return (self.positive == 0) | (self.positive == 1)


class _Record:
    """What the hooks note of one layer: range of its outputs, signs of its inputs, scale of its BN."""

    def __init__(self) -> None:
        self.low: list[Tensor] = []
        self.high: list[Tensor] = []
        self.ones: list[Tensor] = []
        self.positions = 0
        self.scale: Tensor | None = None

    def activity(self, name: str, tiny: float) -> Activity:
        low, high = torch.stack(self.low).amin(0), torch.stack(self.high).amax(0)
        dead = high - low <= ROUNDING * torch.maximum(low.abs(), high.abs()).max()
        if self.scale is not None:
            dead = dead | (self.scale.abs() <= tiny)
        return Activity(name, dead.cpu(), (torch.stack(self.ones).sum(0).double() / self.positions).cpu())


def activity(model: nn.Module, images: Tensor, *, batch: int = 250, tiny: float = 1e-3) -> list[Activity]:
    """Dead filters and stuck activations of every binary layer that `images` `[N, ...]` reach, in eval mode.

    The images are what `model` takes, and go through it `batch` at a time. The scale of a BN is "nearly 0" up to
    `tiny`; a BN counts as that of a layer where it is a module that takes the layer's output, or a pool of it.
    On a single image a linear layer cannot vary. Raises BbgError for no images.
    """
    records: dict[str, _Record] = {}
    waiting: dict[int, tuple[Tensor, str]] = {}  # outputs that no BN has taken yet, by identity, kept alive

    def enter(name: str, layer: Any, x: Tensor) -> None:
        bits = signs_of(layer.activation_binarizer, x).transpose(0, 1).flatten(1)
        record = records.setdefault(name, _Record())
        record.ones.append(bits.sum(1))
        record.positions += bits.shape[1]

    def leave(name: str, y: Tensor) -> None:
        channels = y.transpose(0, 1).flatten(1)
        records[name].low.append(channels.amin(1))
        records[name].high.append(channels.amax(1))
        waiting[id(y)] = (y, name)

    def pooled(x: Tensor, y: Tensor) -> None:
        if id(x) in waiting:
            waiting[id(y)] = (y, waiting[id(x)][1])

    def normed(norm: Any, x: Tensor) -> None:
        if id(x) in waiting and norm.weight is not None:
            records[waiting.pop(id(x))[1]].scale = norm.weight

    with observed(model) as handles:
        for name, m in model.named_modules():
            if isinstance(m, BinaryConv2d | BinaryLinear):
                handles.append(m.register_forward_pre_hook(lambda m, x, name=name: enter(name, m, x[0])))
                handles.append(m.register_forward_hook(lambda m, x, y, name=name: leave(name, y)))
            elif isinstance(m, nn.modules.batchnorm._BatchNorm):
                handles.append(m.register_forward_pre_hook(lambda m, x: normed(m, x[0])))
            elif isinstance(m, POOLS):
                handles.append(m.register_forward_hook(lambda m, x, y: pooled(x[0], y)))
        for part in on_device(model, images).split(batch):
            model(part)
            waiting.clear()
        return [record.activity(name, tiny) for name, record in records.items()]


@contextmanager
def observed(model: nn.Module) -> Iterator[list[RemovableHandle]]:
    """Evaluation mode without gradients; behind it, removes the hooks in the list and restores every training flag."""
    flags = [(m, m.training) for m in model.modules()]
    handles: list[RemovableHandle] = []
    try:
        model.eval()
        with torch.no_grad():
            yield handles
    finally:
        for handle in handles:
            handle.remove()
        for m, training in flags:
            m.training = training


def on_device(model: nn.Module, images: Tensor) -> Tensor:
    """`images` on the device of `model`; BbgError for no images."""
    if images.ndim == 0 or len(images) == 0:
        raise BbgError(f"got images of shape {list(images.shape)}, at least one is needed; give a batch [N, ...]")
    return images.to(next((p.device for p in model.parameters()), images.device))
