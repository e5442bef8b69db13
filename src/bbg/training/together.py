"""One step of a training by several processes: sums of gradients, and statistics that are the same in all of them.

Each process computes its part of the loss: the parts add up to the loss of the whole batch, and so do the gradients.
Behind each step parameters and buffers have the same bits in all processes, so every one of them could write the
checkpoint, and any number of them can go on from it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bbg.layers import ByteConv2d, ByteLinear
from bbg.training.processes import Processes


@torch.no_grad()
def add_gradients(model: nn.Module, processes: Processes) -> None:
    """Give each parameter the sum of its gradients over all processes; none where no process has one."""
    learned = [p for p in model.parameters() if p.requires_grad]
    for dtype in dict.fromkeys(p.dtype for p in learned):
        some = [p for p in learned if p.dtype == dtype]
        there = torch.tensor([p.grad is not None for p in some], dtype=dtype, device=some[0].device)
        parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in some]
        flat = processes.add(torch.cat([there, *(part.reshape(-1) for part in parts)]))
        found = flat[: len(some)].tolist()
        for p, part, has, summed in zip(some, parts, found, _like(flat[len(some) :], parts), strict=True):
            if has:
                p.grad = part.copy_(summed)


class Buffers:
    """The buffers of `model` as they are now, the same in all processes; `settle` makes them so again.

    A running mean or variance becomes the mean over all images: by how much it has changed in each process, weighted
    by the images that this one had. What no process changes keeps its bits. Of the ranges of 8-bit layers the widest
    counts, which is that of the whole batch.
    """

    def __init__(self, model: nn.Module) -> None:
        byte = [m for m in model.modules() if isinstance(m, (ByteConv2d, ByteLinear))]
        self.low, self.high = [m.low for m in byte], [m.high for m in byte]
        ranges = {id(tensor) for tensor in (*self.low, *self.high)}
        self.means = [b for b in model.buffers() if b.is_floating_point() and id(b) not in ranges]
        self.before = [b.detach().clone() for b in self.means]

    @torch.no_grad()
    def settle(self, share: float, processes: Processes) -> None:
        """Agree with the other processes; `share`: of all images those that this one had."""
        for dtype in dict.fromkeys(b.dtype for b in self.means):
            pairs = [(now, old) for now, old in zip(self.means, self.before, strict=True) if now.dtype == dtype]
            changes = [(now - old) * share for now, old in pairs]
            flat = processes.add(torch.cat([change.reshape(-1) for change in changes]))
            for (now, old), change in zip(pairs, _like(flat, changes), strict=True):
                now.copy_(old + change)
        if self.low:
            ends = [*self.low, *(-high for high in self.high)]
            widest = _like(processes.least(torch.cat(ends)), ends)
            for low, high, least, most in zip(self.low, self.high, widest, widest[len(self.low) :], strict=False):
                low.copy_(least)
                high.copy_(-most)


def _like(flat: Tensor, tensors: list[Tensor]) -> list[Tensor]:
    """The numbers of `flat` in the shapes of `tensors`."""
    parts = flat.split([t.numel() for t in tensors])
    return [part.reshape(t.shape) for part, t in zip(parts, tensors, strict=True)]


def figures_of_all(loss: Tensor, metrics: dict[str, Tensor], share: float, processes: Processes) -> dict[str, Tensor]:
    """The loss of the whole batch, of which `loss` is a part, and the means of `metrics` over all images."""
    parts = {"loss": loss.detach().double(), **{name: value.double() * share for name, value in metrics.items()}}
    return dict(zip(parts, processes.add(torch.stack(list(parts.values()))), strict=True))
