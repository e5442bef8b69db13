"""Tracing for conversion: the network as a torch.fx graph, each node of which has a lowering rule."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

from torch import Tensor, fx, nn

from bbg.conversion.rules.registry import FUNCTIONS, LAYERS, QUERIES, rule_of
from bbg.tracing.in_place import read_results_of_in_place_calls
from bbg.tracing.refusals import Refusals
from bbg.tracing.tracer import RANDOM, Trace, Tracer, attribute
from bbg.tracing.vocabulary import op_of

ADVICE = "write it without branches on tensors"


@dataclass(frozen=True)
class Traced:
    """The graph of a network. `refusals`: of its forward; `without_rule`: nodes that cannot be lowered, and why."""

    trace: Trace
    refusals: Refusals
    without_rule: dict[fx.Node, str] = field(default_factory=dict)

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
    """The network as a torch.fx graph, and what of it is refused, before anything is computed.

    Sizes that a forward branches on are those of the `example` `[N, C, H, W]`: so are those of the packed file.
    """
    refusals = Refusals()
    traced = Traced(Tracer(example, lambda layer: rule_of(layer) is not None, refusals).run(model, ADVICE), refusals)
    read_results_of_in_place_calls(traced.trace)
    traced.without_rule.update(_without_rule(traced))
    return traced


# What to write instead of operations that have no rule: one change each, by their canonical names or as spelled.
_INSTEAD = {
    **dict.fromkeys(
        ("matmul", "bmm", "mm", "einsum", "scaled_dot_product_attention", "multihead_attention"),
        "products of activations with each other stay out: use a network without attention",
    ),
    **dict.fromkeys(("LSTM", "GRU", "RNN", "RNNBase"), "recurrence stays out: use convolutions in its place"),
    **dict.fromkeys(("conv3d", "max_pool3d", "avg_pool3d"), "use its 2-D kind"),
    **dict.fromkeys(("FractionalMaxPool2d", "LPPool2d", "fractional_max_pool2d", "lp_pool2d"), "use nn.MaxPool2d"),
    **dict.fromkeys(("MaxUnpool2d", "grid_sample"), "use nn.Upsample"),
    **dict.fromkeys(("Hardshrink", "hardshrink"), "use nn.Softshrink"),
    **dict.fromkeys(("Tanhshrink", "tanhshrink"), "use x - torch.tanh(x)"),
    "CrossMapLRN2d": "use nn.LocalResponseNorm",
    **dict.fromkeys(("eq", "ne"), "compare by > or <, or use a factor, as torch.sigmoid gives"),
    "fmin": "use torch.minimum",
    "fmax": "use torch.maximum",
    **dict.fromkeys(("sign", "sgn"), "leave it out: bbg.layers.BinaryConv2d takes the signs itself"),
    **dict.fromkeys(("rot90", "unfold", "fold", "Unfold", "Fold"), "use a convolution in its place"),
    **dict.fromkeys(("cumsum", "cumprod", "sort", "argsort", "gather", "scatter"), "leave it out"),
    "rrelu": "use nn.LeakyReLU",
    "GLU": "use x.chunk(2, 1), and a product with torch.sigmoid",
    "glu": "use x.chunk(2, 1), and a product with torch.sigmoid",
}


def _without_rule(traced: Traced) -> dict[fx.Node, str]:
    """The calls that have no rule, and those of random numbers, each with the reason and what to write instead."""
    tensors: set[fx.Node] = set()  # nodes whose value is a tensor that depends on the input
    refused: dict[fx.Node, str] = {}
    modules = dict(traced.trace.model.named_modules(remove_duplicate=False))
    for node in traced.graph.nodes:
        if node.op == "placeholder" and not tensors:
            tensors.add(node)
        elif node.target in RANDOM:
            refused[node] = (
                "it draws random numbers in evaluation mode, and the file would hold one draw for good; draw them in "
                "training mode only"
            )
        elif not tensors.intersection(node.all_input_nodes) or node.op == "output":
            continue
        elif node.target in QUERIES:
            if not isinstance(node.meta.get("values", (None,))[0], Tensor):  # as `x.max(1).values` is one
                continue
        elif node.op == "call_module":
            kind = type(traced.part(node.target))
            if rule_of(traced.part(node.target)) is None:
                advice = _instead(node, modules, kind.__name__, (rule.__name__ for rule in LAYERS))
                refused[node] = f"this layer cannot be converted; {advice}"
        elif node.target not in FUNCTIONS:
            name = str(node.target if isinstance(node.target, str) else getattr(node.target, "__name__", node.target))
            known = (rule if isinstance(rule, str) else rule.__name__ for rule in FUNCTIONS)
            refused[node] = f"the function {name!r} cannot be converted; {_instead(node, modules, name, known)}"
        tensors.add(node)
    return refused


def _instead(node: fx.Node, modules: Mapping[str, nn.Module], name: str, known: Iterable[str]) -> str:
    """What to write in the place of a call: what is meant for its kind, else what is spelled alike."""
    op = op_of(node, modules)
    last = all(user.op == "output" for user in node.users)
    found = (_at_the_end(name) if last else "") or _INSTEAD.get(name, "") or _INSTEAD.get(op.name if op else "", "")
    if not found:
        others = {other for other in known if other != name and not other.endswith("_")}
        alike = [other for other in get_close_matches(name, sorted(others), 3, 0.6) if other in name or name in other]
        found = f"use what can, as {alike[0]}" if alike else "leave it out, or write it with layers that can"
    return found


def _at_the_end(name: str) -> str:
    """The advice for what stands behind the logits of many networks; empty for anything else."""
    ends = ("softmin", "gumbelsoftmax", "argmax", "topk")
    if name.replace("_", "").lower() not in ends:
        return ""
    return "end the network at its logits, of which predict makes probabilities"
