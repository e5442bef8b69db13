"""The width of each layer of a traced network, and why it is not 1 bit."""

from __future__ import annotations

from collections.abc import Mapping

from torch import fx, nn

from bbg.binarization.network import TracedNetwork
from bbg.binarization.report import DEPTHWISE, FIRST, LAST
from bbg.layers import BinaryConv2d, BinaryLinear, ByteConv2d, ByteLinear
from bbg.layers.bits import check_patterns, fits, width_of

BINARY, BYTES = "it was binary", "it had 8 bits"
SQUEEZE = "squeeze-excite"


def widths(network: TracedNetwork, keep: tuple[str, ...], rules: Mapping[str, int]) -> dict[str, tuple[int, str]]:
    """The width of each layer, 1, 8 or 32 bits, by qualified name, and why it is not 1 bit ('' for 1 bit).

    The first of `rules` that fits a layer counts, then `keep`: "first", "last" and patterns of layers that stay
    real-valued. A layer that cannot have fewer bits keeps those that it has. BbgError for a pattern that fits none.
    """
    named = {node: name for name, calls in network.calls.items() for node in calls}
    ends = {
        "first": {named[node] for node in network.input_layers()},
        "last": {named[node] for node in network.output_layers()},
    }
    check_patterns("bits", rules, network.calls)
    check_patterns("keep", keep, network.calls)
    found: dict[str, tuple[int, str]] = {}
    for name, calls in network.calls.items():
        width, why = width_of(name, rules, ends), ""
        if width is None:
            kept = [word for word in keep if fits(name, word, ends)]
            width = 32 if kept else 1
            why = "" if not kept else {"first": FIRST, "last": LAST}.get(kept[0], f"kept by {kept[0]!r}")
        elif width > 1:
            end = FIRST if name in ends["first"] else LAST if name in ends["last"] else ""
            why = "; ".join(filter(None, (f"{width} bits asked for", end)))
        cannot = reason_to_keep(network, calls[0]) if width == 1 else reason_against_bytes(network, calls[0])
        if cannot in (BINARY, BYTES):
            found[name] = (1 if cannot == BINARY else 8), cannot
        else:
            found[name] = (32, why or cannot) if width == 32 else (32, cannot) if cannot else (width, why)
    return found


def reason_against_bytes(network: TracedNetwork, node: fx.Node) -> str:
    """Why the layer that `node` calls cannot become one of 8 bits, if it cannot."""
    reason = reason_to_keep(network, node)
    return "" if reason.startswith((DEPTHWISE, SQUEEZE)) else reason


def reason_to_keep(network: TracedNetwork, node: fx.Node) -> str:
    """Why the layer that `node` calls cannot become binary, if it cannot."""
    layer, kind = network.module(node), network.kind(node)
    if isinstance(layer, (BinaryConv2d, BinaryLinear)):
        return BINARY
    if isinstance(layer, (ByteConv2d, ByteLinear)):
        return BYTES
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
    if isinstance(layer, nn.Conv2d) and layer.padding_mode != "zeros":
        return f"padding_mode is {layer.padding_mode!r}"
    rank = len(network.shapes[network.inputs(node)[0]])
    if isinstance(layer, nn.Linear) and rank not in (2, 4):
        return f"its input has {rank} dimensions, not 2 or 4"
    if isinstance(layer, nn.Conv2d) and layer.groups > 1 and layer.groups == layer.in_channels:
        return DEPTHWISE
    return f"{SQUEEZE}: a pooled map that becomes a factor" if network.in_squeeze_excite(node) else ""
