"""Tracing for conversion: the network as a torch.fx graph, each node of which has a lowering rule."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx, nn

from bbg.conversion.rules.registry import FUNCTIONS, LAYERS, QUERIES, rule_of
from bbg.errors import BbgError
from bbg.tracing.in_place import read_results_of_in_place_calls
from bbg.tracing.tracer import RANDOM, Trace, Tracer, attribute

ADVICE = "write it without branches on tensors, or move what cannot be traced into a layer that has a rule"


@dataclass(frozen=True)
class Traced:
    """The graph of a network, in which each node has a rule."""

    trace: Trace

    @property
    def graph(self) -> fx.Graph:
        """The nodes, in the order of the forward."""
        return self.trace.graph

    def part(self, name: str) -> Any:
        """The module, parameter, buffer or constant that the graph calls by this name."""
        constants = self.trace.constants
        return constants[name] if name in constants else attribute(self.trace.model, name)

    def module_of(self, node: fx.Node) -> tuple[str, str]:
        """Qualified name and type of the module that `node` belongs to; a call of a function adds its own name."""
        if node.op == "call_module":
            return str(node.target), type(self.part(str(node.target))).__name__
        stack = list((node.meta.get("nn_module_stack") or {}).values())
        qualname = stack[-1][0] if stack else ""
        layer = type(self.trace.model.get_submodule(qualname)).__name__
        return f"{qualname}.{node.name}" if qualname else node.name, layer

    def run(self, node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What torch computes at a node, given its arguments."""
        if node.op == "get_attr":
            return self.part(str(node.target))
        if node.op == "call_module":
            return self.part(str(node.target))(*args, **kwargs)
        if node.op == "call_method":
            return getattr(args[0], str(node.target))(*args[1:], **kwargs)
        assert callable(node.target)
        return node.target(*args, **kwargs)


def trace_network(model: nn.Module, example: Tensor) -> Traced:
    """The network as a torch.fx graph; BbgError names the first node that has no rule.

    Sizes that a forward branches on are those of the `example` `[N, C, H, W]`: so are those of the packed file.
    """
    traced = Traced(Tracer(example, lambda layer: rule_of(layer) is not None).run(model, ADVICE))
    read_results_of_in_place_calls(traced.trace)
    _check(traced)
    return traced


def _check(traced: Traced) -> None:
    tensors: set[fx.Node] = set()  # nodes whose value is a tensor that depends on the input
    for node in traced.graph.nodes:
        if node.op == "placeholder" and not tensors:
            tensors.add(node)
        elif node.target in RANDOM:
            qualname, layer_name = traced.module_of(node)
            raise BbgError(
                f"{qualname} ({layer_name}): it draws random numbers in evaluation mode, and the file would hold one "
                "draw for good; draw them in training mode only"
            )
        elif not tensors.intersection(node.all_input_nodes) or node.op == "output" or node.target in QUERIES:
            continue
        elif node.op == "call_module":
            layer = traced.part(node.target)
            if rule_of(layer) is None:
                allowed = ", ".join(sorted(rule.__name__ for rule in LAYERS))
                advice = _at_the_end(type(layer).__name__) or f"replace it by layers that can: {allowed}"
                raise BbgError(f"{node.target} ({type(layer).__name__}): this layer cannot be converted; {advice}")
        elif node.target not in FUNCTIONS:
            qualname, layer_name = traced.module_of(node)
            name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", node.target)
            allowed = ", ".join(sorted({rule if isinstance(rule, str) else rule.__name__ for rule in FUNCTIONS}))
            advice = _at_the_end(str(name)) or f"replace it by a layer that can, or one of {allowed}"
            raise BbgError(f"{qualname} ({layer_name}): the function {name!r} cannot be converted; {advice}")
        tensors.add(node)


def _at_the_end(name: str) -> str:
    """The advice for what stands behind the logits of many networks; empty for anything else."""
    ends = ("softmax", "softmax2d", "logsoftmax", "softmin", "logsigmoid", "gumbelsoftmax", "argmax", "topk")
    if name.replace("_", "").lower() not in ends:
        return ""
    return "end the network at its logits: predict makes probabilities of them, and cross-entropy is their loss"
