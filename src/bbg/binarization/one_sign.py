"""Which binary layers see hardly anything but one sign: a look at the binarized network while it runs.

The dataflow of `signs` proves what is never negative. More than that becomes so by the numbers: where one block's sum
goes through the next one's, as in an hourglass, its mean grows with each, and with it the share of +1. A sign that is
nearly always the same tells nothing, and its layer does not learn. A run in training mode shows where; the batch norms
then have the statistics of its images, as those of a network that was not trained say nothing yet.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from bbg.layers import BinaryConv2d, BinaryLinear
from bbg.tracing.state import kept
from bbg.tracing.tracer import in_mode

RARE = 0.01  # one sign is rare where it has less than this share


@torch.no_grad()
def unbalanced_inputs(network: fx.GraphModule, images: Tensor, movable: Iterable[str]) -> list[str]:
    """The nodes, by name, behind which a batch norm has to stand so that the layers there see both signs.

    `movable`: the nodes behind which one may stand. The first of them is found first: the run goes on as if it were
    normalised already, so that one norm serves all that its sum goes through.
    """
    run = _Balanced(network, set(movable))
    with in_mode(network, True), kept(network), suppress(Exception):  # what cannot run, the proof refuses by name
        run.run(pictures(images))
    return run.found


@torch.no_grad()
def constant_sign_layers(network: nn.Module, images: Tensor) -> set[str]:
    """The binary layers whose input becomes the same sign everywhere."""
    found: set[str] = set()

    def look(name: str, layer: BinaryConv2d | BinaryLinear, x: Tensor) -> None:
        if _rarer_sign(layer, x) == 0:
            found.add(name)

    layers = [(n, m) for n, m in network.named_modules() if isinstance(m, (BinaryConv2d, BinaryLinear))]
    handles = [m.register_forward_pre_hook(lambda m, args, n=n: look(n, m, args[0])) for n, m in layers]
    try:
        with in_mode(network, True), kept(network):
            network(pictures(images))
    finally:
        for handle in handles:
            handle.remove()
    return found


def pictures(images: Tensor) -> Tensor:
    """The first image and its numbers in another order, or noise where they are all equal: two images that differ."""
    first, dice = images[:1], torch.Generator().manual_seed(0)
    if first.min() == first.max():
        return torch.cat([first, torch.randn(first.shape, generator=dice).to(first)])
    order = torch.randperm(first.numel(), generator=dice).to(first.device)
    return torch.cat([first, first.flatten()[order].reshape(first.shape)])


class _Balanced(fx.Interpreter):
    """Runs the network with a batch norm, in mind, behind each node where a binary layer would see one sign only."""

    def __init__(self, network: fx.GraphModule, movable: set[str]) -> None:
        super().__init__(network)
        self.movable, self.found = movable, list[str]()

    def run_node(self, n: fx.Node) -> Any:
        source = n.args[0] if n.op == "call_module" and n.args else None
        if isinstance(source, fx.Node) and source.name in self.movable:
            layer = _binary_layer(self.fetch_attr(str(n.target)))
            x = self.env[source]
            if layer is not None and _rarer_sign(layer, x) < RARE:
                self.env[source] = F.batch_norm(x, None, None, training=True)
                self.found.append(source.name)
                self.movable.discard(source.name)
        return super().run_node(n)


def _binary_layer(module: Any) -> BinaryConv2d | BinaryLinear | None:
    layer = getattr(module, "conv", getattr(module, "linear", module))
    return layer if isinstance(layer, (BinaryConv2d, BinaryLinear)) else None


def _rarer_sign(layer: BinaryConv2d | BinaryLinear, x: Tensor) -> float:
    """The share of the sign that the layer sees less often."""
    binarizer = layer.activation_binarizer
    share = float((binarizer.signs(x, binarizer.form(x)) > 0).float().mean())
    return min(share, 1 - share)
