"""Which numbers of a traced network can be negative: the dataflow behind `binarize`.

A binary layer takes the sign of its input. Where no number of it is negative, every sign is +1 and the layer learns
nothing. `SignFlow` finds the activations that cause this, so that others take their place, and the max-pools behind
which hardly a number is negative.

The fact about a node is its *sources*: the activations because of which none of its numbers (or of some of its
channels) is negative; none where a number may be. Each trait of an operation has a transfer function from the facts
about the inputs to the fact about the output, by the first line that fits:

    trait of the operation         sources of its output
    ACTIVATION, and never < 0      those of its input and the activation itself: what takes its
                                   place gives negative numbers of negative ones alone
    KEEPS_SIGN, or a convolution   those of its input
    by constants that are not
    negative, as a blur is
    JOINS                          those of all inputs together: each fills channels of its own
    ADDS                           those of all inputs, if every input has some; a constant may be negative: none
    MULTIPLIES                     those of all factors, if every factor has some; constants do not count. A factor that
                                   comes of gates alone is a share and not to blame, unless all are. A gate is a
                                   sigmoid, or any activation whose pooled value comes to be a factor of a map
    SIGNED                         none
    NONNEGATIVE                    none, and that is an assumption: nothing can take its place
    not in the vocabulary          none, and that is an assumption
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor, fx, nn

from bbg.binarization.by_mode import ByMode
from bbg.binarization.network import TracedNetwork, is_bare
from bbg.methods import Pointwise
from bbg.tracing.tracer import reads_mode
from bbg.tracing.vocabulary import Op, Trait

Sources = tuple[fx.Node, ...]


class SignFlow:
    """The facts about the nodes of `network`, each computed once. `assumptions`: what had to be assumed for them."""

    def __init__(self, network: TracedNetwork) -> None:
        self.network = network
        self.assumptions: dict[fx.Node, str] = {}
        self._sources: dict[fx.Node, Sources] = {}

    def nonnegative_sources(self, node: fx.Node) -> Sources:
        """The activations because of which no number at `node` is negative; none where one may be."""
        if node not in self._sources:
            self._sources[node] = self._transfer(node)
        return self._sources[node]

    def max_pool_sources(self, node: fx.Node) -> Sources:
        """The max-pools whose values `node` still holds, but for activations that are never negative.

        Other activations and sums give signs of their own: behind them no BN is needed.
        """
        network, op = self.network, self._op(node)
        if network.has(node, Trait.MAX_POOLS):
            return (node,) if len(network.shapes[node]) == 4 else ()
        curve = op is not None and Trait.ACTIVATION in op and not self.is_nonnegative_activation(node)
        if op is None or curve or Trait.KEEPS_SIGN | Trait.JOINS | Trait.ACTIVATION not in op:
            return ()
        return _union(map(self.max_pool_sources, network.inputs(node)))

    def is_nonnegative_activation(self, node: fx.Node) -> bool:
        """Whether it is an activation that never gives a negative number, as it is called here."""
        network, op = self.network, self.network.op(node)
        if op is None or Trait.ACTIVATION not in op or node not in network.live:
            return False
        return self._lower_bound(node) >= 0 if Trait.CLAMPS in op else Trait.NONNEGATIVE in op

    def is_gate(self, node: fx.Node) -> bool:
        """Whether an activation gives the shares of a product, whatever function it is."""
        return self.network.has(node, Trait.GATE) or self.network.is_factor(node)

    def _lower_bound(self, node: fx.Node) -> float:
        module = self.network.module(node)
        if isinstance(module, Pointwise):
            low: Any = module.hinge().low
        elif module is not None:
            low = module.min_val
        else:
            given: dict[str, Any] = dict(zip(("min", "max"), node.args[1:], strict=False)) | node.kwargs
            low = given.get("min", given.get("min_val"))
        return low if isinstance(low, (int, float)) else float("-inf")

    # ---- the transfer functions, in the order of the table above

    def _transfer(self, node: fx.Node) -> Sources:
        inputs = self.network.inputs(node)
        if self.is_nonnegative_activation(node):
            return _union((*map(self.nonnegative_sources, inputs[:1]), (node,)))
        op = self._op(node)
        if op is not None and inputs and self._blurs(node):
            return self._of_input(node, inputs)
        if op is not None and inputs:
            for trait, transfer in _TRANSFERS:
                if trait in op:
                    return transfer(self, node, inputs)
        return ()

    def _blurs(self, node: fx.Node) -> bool:
        """Whether it is the call of a convolution by constants of which none is negative."""
        if node.op != "call_function" or not self.network.has(node, Trait.LAYER):
            return False
        given: dict[str, Any] = dict(zip(("input", "weight", "bias"), node.args, strict=False)) | node.kwargs
        weight = given.get("weight")
        if given.get("bias") is not None or not isinstance(weight, fx.Node) or weight.op != "get_attr":
            return False
        value = self.network.attribute(weight)
        constant = isinstance(value, Tensor) and not isinstance(value, nn.Parameter)
        return constant and bool((value >= 0).all())

    def _of_input(self, node: fx.Node, inputs: list[fx.Node]) -> Sources:
        return self.nonnegative_sources(inputs[0])

    def _of_parts(self, node: fx.Node, inputs: list[fx.Node]) -> Sources:
        return _union(map(self.nonnegative_sources, inputs))

    def _of_terms(self, node: fx.Node, inputs: list[fx.Node]) -> Sources:
        found = [self.nonnegative_sources(term) for term in inputs]
        constant = len(inputs) < max(2, len(node.all_input_nodes))
        return () if constant or not all(found) else _union(found)

    def _of_factors(self, node: fx.Node, inputs: list[fx.Node]) -> Sources:
        found = [self.nonnegative_sources(factor) for factor in inputs]
        if not all(found):
            return ()
        gates = [all(map(self.is_gate, some)) for some in found]
        return _union(some for some, gate in zip(found, gates, strict=True) if all(gates) or not gate)

    # ---- what is not known

    def _op(self, node: fx.Node) -> Op | None:
        """The row of the operation; where there is none, or it says too little, the assumption is noted."""
        network = self.network
        op = network.op(node)
        what = f"{network.name(node)} ({network.kind(node)})"
        if node.op == "placeholder":
            return op
        if op is None or Trait.QUERY in op:  # an attribute that is a tensor, as `x.T` is, is not known either
            module = network.module(node)
            if isinstance(module, ByMode) and module.in_evaluation is None:
                return _GIVES_ITS_INPUT
            if module is not None and is_bare(module) and reads_mode(module) and len(network.inputs(node)) == 1:
                self.assumptions[node] = f"{what}: gives its input in evaluation mode"
                return _GIVES_ITS_INPUT
            self.assumptions[node] = f"{what}: not known; its numbers have both signs"
        elif Trait.NONNEGATIVE in op and Trait.ACTIVATION not in op:
            self.assumptions[node] = f"{what}: never negative, but no activation: nothing takes its place"
        return op


_GIVES_ITS_INPUT = Op("in_training", Trait.KEEPS_SIGN)
_Transfer = Callable[[SignFlow, fx.Node, list[fx.Node]], Sources]
_TRANSFERS: tuple[tuple[Trait, _Transfer], ...] = (
    (Trait.KEEPS_SIGN, SignFlow._of_input),
    (Trait.JOINS, SignFlow._of_parts),
    (Trait.ADDS, SignFlow._of_terms),
    (Trait.MULTIPLIES, SignFlow._of_factors),
)


def _union(lists: Iterable[Sources]) -> Sources:
    return tuple(dict.fromkeys(itertools.chain.from_iterable(lists)))
