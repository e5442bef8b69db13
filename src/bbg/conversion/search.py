"""Which range the bytes of a channel cover: the one with the least mean squared error on the images.

To cover every number that was seen makes the steps wide for the sake of a few. A number x of a range [l, h] with steps
of s = (h - l) / 255 is rounded with a mean squared error of s^2 / 12; outside, the error is its distance to the range.
With n_i numbers in the bin i of a histogram, whose centre is c_i,

    error(l, h) = sum over the bins inside of n_i s^2 / 12  +  sum over the others of n_i (c_i - nearest of l, h)^2

The sums of n, n c and n c^2 over all bins up to an edge give the error of every range between edges at once.
"""

from __future__ import annotations

import torch
from torch import Tensor

BINS = 1024
MANY = 4096  # numbers of a channel, below which their largest say little of those to come
STEPS = 255
TRIES = 64  # ends that are tried on each side
TURNS = 3  # of choosing one end for the other


class Histogram:
    """How often the numbers of each channel fall into `BINS` bins of the range from `low` to `high` `[C]`."""

    def __init__(self, low: Tensor, high: Tensor) -> None:
        self.low, self.width = low.double(), (high - low).double().clamp(min=1e-30)
        self.counts = torch.zeros(len(low), BINS, dtype=torch.float64)

    def add(self, x: Tensor) -> None:
        """Count the numbers of a batch `[N, C, H, W]`."""
        numbers = x.transpose(0, 1).flatten(1).double()
        bins = ((numbers - self.low[:, None]) / self.width[:, None] * BINS).long().clamp(0, BINS - 1)
        self.counts.scatter_add_(1, bins, torch.ones_like(numbers))

    def best_range(self) -> tuple[Tensor, Tensor]:
        """The ends of least error of each channel, `[C]`."""
        centres = (torch.arange(BINS, dtype=torch.float64) + 0.5) / BINS  # of the width, from 0 to 1
        sums = torch.stack([self.counts * centres**power for power in range(3)]).cumsum(2)
        sums = torch.nn.functional.pad(sums, (1, 0))  # [power, C, edge]
        edges = torch.arange(BINS + 1, dtype=torch.float64) / BINS
        tries = torch.linspace(0, BINS / 2, TRIES).round().long()
        channels = torch.arange(len(self.low))
        least, most = torch.zeros_like(channels), torch.full_like(channels, BINS)
        for _ in range(TURNS):
            errors = _errors(sums, edges, least[:, None].expand(-1, TRIES), (BINS - tries).expand(len(channels), -1))
            most = BINS - tries[errors.argmin(1)]
            errors = _errors(sums, edges, tries.expand(len(channels), -1), most[:, None].expand(-1, TRIES))
            least = tries[errors.argmin(1)]
        low, high = (self.low + self.width * edges[end] for end in (least, most))
        return low, high


def _errors(sums: Tensor, edges: Tensor, least: Tensor, most: Tensor) -> Tensor:
    """The error of the ranges between the edges `least` and `most`, `[C, tries]`."""
    upto_low, upto_high, all_of = (
        [one.gather(1, index) for one in sums] for index in (least, most, torch.full_like(least, len(edges) - 1))
    )
    low, high = edges[least], edges[most]
    inside = (upto_high[0] - upto_low[0]) * ((high - low) / STEPS) ** 2 / 12
    n, nc, ncc = upto_low
    below = ncc - 2 * low * nc + low**2 * n
    n, nc, ncc = (whole - part for whole, part in zip(all_of, upto_high, strict=True))
    error: Tensor = inside + below + ncc - 2 * high * nc + high**2 * n
    return error
