"""What `binarize` would make of a network, without the proof that the result is sound."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, fx, nn

from bbg.binarization.binarized import Binarized
from bbg.binarization.network import TracedNetwork
from bbg.binarization.report import LayerRow
from bbg.binarization.rewrite import Rewriter
from bbg.errors import BbgError
from bbg.layers.bits import bits_of
from bbg.methods import get
from bbg.tracing.places import Place

DEFAULT_KEEP = ("first", "last")


@dataclass(frozen=True)
class Planned:
    """What becomes of the layers. `module`: the rewritten network; None where it is binary already, or cannot be.

    `replaced`: the calls in whose place another activation stands: name of the module, or that of the function behind
    the module that calls it, and the line. `reason`: why it cannot be made binary.
    """

    rows: tuple[LayerRow, ...]
    module: Binarized | None = None
    replaced: frozenset[tuple[str, Place | None]] = frozenset()
    reason: str = ""


def planned(model: nn.Module, example: Tensor, method: str = "bbg") -> Planned:
    """What `binarize` with its defaults would do to `model`, which it shares the parameters of."""
    found = [(name, module, bits_of(module)) for name, module in model.named_modules()]
    if any(bits in (1, 8) for _, _, bits in found):
        actions = {1: "binary", 8: "rounded", 32: "kept"}
        return Planned(
            tuple(LayerRow(name, type(m).__name__, actions[b], "", 0, b) for name, m, b in found if b is not None)
        )
    chosen = get(method)
    try:
        network = TracedNetwork.of(
            model if not isinstance(model, (nn.Conv2d, nn.Linear)) else nn.Sequential(model), example
        )
        rewriter = Rewriter(network, chosen, chosen.act)
        module = rewriter.run(DEFAULT_KEEP, {})
    except BbgError as error:
        return Planned((), reason=str(error))
    calls = [node for node, rows in rewriter.rows.items() if any(row.action == "replaced" for row in rows)]
    return Planned(module.report.rows, module, frozenset(_named(network, node) for node in calls))


def _named(network: TracedNetwork, node: fx.Node) -> tuple[str, Place | None]:
    return network.name(node), node.meta.get("place")
