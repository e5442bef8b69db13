"""Which layers of a traced network stay real-valued, and why."""

from __future__ import annotations

import difflib
from fnmatch import fnmatchcase

from torch import fx, nn

from bbg.binarization.network import TracedNetwork
from bbg.binarization.report import DEPTHWISE, FIRST, LAST
from bbg.errors import BbgError
from bbg.layers import BinaryConv2d, BinaryLinear

ALREADY = "it was binary"


def reasons_to_keep(network: TracedNetwork, keep: tuple[str, ...]) -> dict[str, str]:
    """The reason of each layer that stays as it is, by qualified name.

    `keep` holds "first", "last" and patterns over qualified names. BbgError for a pattern that fits no layer.
    """
    ends = [
        (FIRST, network.input_layers() if "first" in keep else set()),
        (LAST, network.output_layers() if "last" in keep else set()),
    ]
    patterns = [pattern for pattern in keep if pattern not in ("first", "last")]
    for pattern in patterns:
        if not any(_fits(name, pattern) for name in network.calls):
            near = difflib.get_close_matches(pattern, network.calls, 3, 0.3) or list(network.calls)[:3]
            raise BbgError(f"keep: {pattern!r} fits no convolution or linear layer; near are {', '.join(near)}")
    why: dict[str, str] = {}
    for name, calls in network.calls.items():
        reasons = [reason for reason, nodes in ends if not nodes.isdisjoint(calls)]
        reasons += [f"kept by {pattern!r}" for pattern in patterns if _fits(name, pattern)]
        reasons += [reason for reason in [reason_to_keep(network, calls[0])] if reason]
        if reasons:
            why[name] = reasons[0]
    return why


def reason_to_keep(network: TracedNetwork, node: fx.Node) -> str:
    """Why the layer that `node` calls cannot become binary, if it cannot."""
    layer, kind = network.module(node), network.kind(node)
    if isinstance(layer, (BinaryConv2d, BinaryLinear)):
        return ALREADY
    if layer is None:
        return f"a call of {kind}: there is no layer to replace"
    op = network.op(node)
    if op is None or op.name not in ("conv2d", "linear"):
        return f"{kind} has no binary twin"
    assert isinstance(layer, (nn.Conv2d, nn.Linear))
    if network.times(node) > 1:
        return f"called {network.times(node)} times"
    if not isinstance(layer.weight, nn.Parameter):
        return "its weight is computed (weight norm, pruning), not a parameter"
    if not network.inputs(node):
        return "its input does not depend on the images"
    if isinstance(layer, nn.Conv2d) and layer.groups > 1 and layer.groups == layer.in_channels:
        return DEPTHWISE
    if isinstance(layer, nn.Conv2d) and layer.padding_mode != "zeros":
        return f"padding_mode is {layer.padding_mode!r}"
    rank = len(network.shapes[network.inputs(node)[0]])
    if isinstance(layer, nn.Linear) and rank not in (2, 4):
        return f"its input has {rank} dimensions, not 2 or 4"
    return "squeeze-excite: a pooled map that becomes a factor" if network.in_squeeze_excite(node) else ""


def _fits(name: str, pattern: str) -> bool:
    return fnmatchcase(name, pattern) or fnmatchcase(name, f"{pattern}.*")
