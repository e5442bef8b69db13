"""Measuring a trained network for a plan: what each layer costs and loses at 1 bit, and the time of whole plans.

The time of a plan is measured, since a network takes another time than the sum of its ops: both ends of the frontier,
and those plans between which the budget lies (a bisection). The others take a share of their sums that lies between.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from bbg.binarization import binarize
from bbg.budget import Budget
from bbg.data.sets import Split, has_masks, read_batch
from bbg.errors import BbgError
from bbg.layers.bits import bits_of
from bbg.log import track
from bbg.methods import Method
from bbg.planning.costs import Packed, costs_by_layer, pack, seconds_of
from bbg.planning.frontier import Plan, PlannedLayer, Step, frontier_of
from bbg.planning.sensitivity import recovered_loss

JUDGES = 1024  # training images held back for the losses, at most
LEAST = 1024  # training images that a plan needs, half of which are held back

Variant = Callable[[Mapping[str, int]], nn.Module]


def plan(
    model: nn.Module | Variant,
    data: Split,
    budget: str,
    *,
    method: str | Method = "bbg",
    act: str | None = None,
    steps: int = 24,
    batch_size: int = 64,
    seed: int = 0,
) -> Plan:
    """Choose 1 or 8 bits for each layer of a trained classifier, for a `budget` of time or bytes.

    `model`: a trained float network, which `bbg.binarize` can take; or a function that gives the network, with its
    trained weights, for `bits` (patterns and widths). It stays as it is. `data`: its images; only training images are
    looked at. `budget`: "200us" or "1.5ms" for one image on one thread of this CPU, "100kB" or "1MB" of tensors.
    `method`: of the 1-bit layers; `act`: the nonlinearity that `bbg.binarize` gives them. `steps`: batches that a
    network learns from before its loss is measured.

    Raises BbgError for a budget that even 1 bit does not reach (the least is told), for images with masks, and as
    `binarize` and `convert` do.
    """
    began, wanted = time.monotonic(), Budget.of(budget)
    if has_masks(data.train):
        raise BbgError("a plan is judged by classes of images, these have masks; give bits by pattern instead")
    held = min(JUDGES, len(data.train) // 2)
    pixels, labels = _drawn(data, steps * batch_size + held, seed)
    images = torch.from_numpy(data.preprocess.normalize(pixels))
    judges = images[:held], labels[:held]
    rest_images, rest_labels = images[held:], labels[held:]
    batches = list(zip(rest_images.split(batch_size), rest_labels.split(batch_size), strict=True))
    variant = model if not isinstance(model, nn.Module) else _binarizing(model, method, act, images[:2])
    all_bytes = variant({"*": 8})
    names = [n for n, m in all_bytes.named_modules() if bits_of(m) == 8 and _can_be_binary(variant, n)]
    if not names:
        raise BbgError("no layer of the network can have 1 bit; bbg.binarize(model, bits=1).report says why")

    def packed(binary: Sequence[str]) -> Packed:
        return pack(variant({**dict.fromkeys(binary, 1), "*": 8}), images[:64], data.preprocess)

    one, first = pixels[:1], packed(())
    (at_8, rest), (at_1, _) = costs_by_layer([first, packed(names)], names, one)
    layers = [
        PlannedLayer(
            name,
            8,
            {1: at_1[name].seconds, 8: at_8[name].seconds},
            {1: at_1[name].bytes, 8: at_8[name].bytes},
            0.0,
        )
        for name in names
    ]

    def measure(step: Step) -> Sequence[float]:
        return seconds_of([first, packed(step.binary)], one)

    least = frontier_of(layers, rest, wanted.what)[-1]
    least = least._replace(seconds=measure(least)[1])
    Plan.chosen_for(budget, layers, (least,), rest, 0.0)  # what cannot be met is told now, not after the losses
    base = recovered_loss(copy.deepcopy(all_bytes), batches, judges)
    measured = [
        replace(layer, loss=recovered_loss(variant({layer.name: 1, "*": 8}), batches, judges) - base)
        for layer in track(layers, "measuring layers")
    ]
    frontier = _timed(frontier_of(measured, rest, wanted.what), wanted, measure)
    return Plan.chosen_for(budget, measured, frontier, rest, time.monotonic() - began)


def _binarizing(model: nn.Module, method: str | Method, act: str | None, example: Tensor) -> Variant:
    """The networks that `bbg.binarize` makes of copies of `model`."""

    def variant(bits: Mapping[str, int]) -> nn.Module:
        return binarize(copy.deepcopy(model), method, (), example, act, bits=dict(bits))

    return variant


def _drawn(data: Split, count: int, seed: int) -> tuple[np.ndarray, Tensor]:
    """Pixels of training images and their labels, drawn without repetition."""
    found = len(data.train)
    if found < LEAST:
        raise BbgError(f"there are {found} training images; a plan needs {LEAST} or more")
    order = np.random.default_rng(seed).permutation(found)[: min(count, found)]
    pixels, labels = read_batch(data.train, order)
    return pixels, torch.as_tensor(np.asarray(labels)).long()


def _can_be_binary(variant: Variant, name: str) -> bool:
    """Whether the layer `name` can have 1 bit."""
    try:
        network = variant({name: 1, "*": 8})
    except BbgError:
        return False
    return any(bits_of(module) == 1 for module in network.modules())


def _timed(frontier: tuple[Step, ...], wanted: Budget, measure: Callable[[Step], Sequence[float]]) -> tuple[Step, ...]:
    """The steps with measured times. `measure`: the times of the first step and of the one given, in one go.

    A step is measured beside the first one, and their ratio counts: it is the same in slow minutes of the machine.
    """
    ratios = {0: 1.0}
    best = np.inf

    def look(i: int) -> float:
        nonlocal best
        if i not in ratios:
            first, seconds = measure(frontier[i])
            best, ratios[i] = min(best, first), seconds / first
        return ratios[i] * best

    last = len(frontier) - 1
    if not last:
        return (frontier[0]._replace(seconds=measure(frontier[0])[0]),)
    look(last)
    if wanted.what == "seconds" and best > wanted.amount >= ratios[last] * best:
        slow, fast = 0, last
        while fast - slow > 1:
            middle = (slow + fast) // 2
            slow, fast = (slow, middle) if look(middle) <= wanted.amount else (middle, fast)
    known = sorted(ratios)
    of_sums = [best * ratios[i] / frontier[i].seconds for i in known]
    shares = np.interp(np.arange(len(frontier)), known, of_sums)
    return tuple(step._replace(seconds=step.seconds * float(s)) for step, s in zip(frontier, shares, strict=True))
