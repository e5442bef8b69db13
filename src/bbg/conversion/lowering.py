"""Lowering: from a torch module to an unfolded graph, one op or two per layer, vectors in float64.

    lowered = lower_network(model, example)

Each node of the traced network is lowered by its rule (rules/). Torch runs the same node beside it: what the ops of
the rule compute must be what torch has there. So every value of the graph comes with a `TorchOp` that is known to
compute it, by which the engine is judged later.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor, fx, nn

from bbg.conversion.builder import INPUT, Builder, Lowered
from bbg.conversion.padding import fold_padding
from bbg.conversion.rules.elementwise import register_torchvision
from bbg.conversion.rules.registry import FUNCTIONS, QUERIES, TAKE_VIEWS, rule_of
from bbg.conversion.trace import Traced, trace_network
from bbg.conversion.views import TracedTensor, View, to_value
from bbg.errors import BbgError, first_line
from bbg.graph import Graph, Structure

TOLERANCE = 1e-5  # of the largest number, of an op against the layer that it comes from
ADVICE = "avoid hooks, and in-place operations on tensors that are used again"


def lower_network(model: nn.Module, example: Tensor) -> Lowered:
    """The unfolded graph of `model`, in evaluation mode and float32, for inputs like `example` `[N, C, H, W]`.

    Two images of the example run through the network. Raises BbgError for a layer without a rule, before anything is
    computed, and for one that the format cannot express.
    """
    register_torchvision()
    model = model if rule_of(model) is None else nn.Sequential(model)  # tracing goes into the outermost module
    traced = trace_network(model, example)
    example = torch.cat([example, example])[:2]  # two, so that nothing takes the axis of the images for another
    try:
        result = model(example.clone())
    except Exception as error:  # whatever torch raises
        shape = list(example.shape)
        raise BbgError(
            f"the network cannot run on an example {shape} ({first_line(error)}); give images that it takes"
        ) from error
    structure, expected = named_outputs(result)
    builder, returned = _Walk(traced, example).run()
    given_structure, given = named_outputs(returned)
    for name, x in given.items():
        if not isinstance(x, View):
            raise BbgError(f"{_title(name)} does not depend on the images; return it from somewhere else")
        if name not in expected or structure != given_structure or not _agree(x.tensor, expected[name]):
            what = f"{_title(name)}: the traced network computes something else than the network itself"
            raise BbgError(f"{what}; {ADVICE}")
    outputs = tuple(builder.as_output(name, x) for name, x in given.items())
    channels, height, width = example.shape[1:]
    graph = Graph(INPUT, (channels, height, width), tuple(builder.ops), outputs, structure=structure)
    return fold_padding(Lowered(graph, builder.oracle, builder.layers))


def named_outputs(result: Any) -> tuple[Structure, dict[str, Any]]:
    """How a network returns its tensors, "tensor", "tuple", "list" or "dict", and each by name; one alone is ''."""
    if isinstance(result, (Tensor, View)):
        return "tensor", {"": result}
    allowed = "it must return a tensor, or a tuple, list or dict of tensors"
    if not isinstance(result, (dict, tuple, list)) or not result:
        raise BbgError(f"the network returns {type(result).__name__}; {allowed}")
    named = result if isinstance(result, dict) else {str(i): value for i, value in enumerate(result)}
    for name, value in named.items():
        if not isinstance(name, str) or not isinstance(value, (Tensor, View)):
            came = f"{name!r} is a {type(value).__name__}" if isinstance(name, str) else f"{name!r} is no name"
            raise BbgError(f"the network returns a {_structure(result)} in which {came}; {allowed}")
    return _structure(result), dict(named)


def _structure(result: Any) -> Structure:
    return "dict" if isinstance(result, dict) else "tuple" if isinstance(result, tuple) else "list"


def _title(name: str) -> str:
    return f"output {name!r}" if name else "the output"


def _agree(a: Tensor, b: Tensor, largest: float = 0.0) -> bool:
    return a.shape == b.shape and bool((a - b).abs().max() <= TOLERANCE * max(largest, float(b.abs().max())))


class _Walk:
    """One walk through the nodes: what depends on the images is lowered, the rest computed; torch runs beside it.

    What an op computes is compared with what torch has there, and then goes on as torch has it: behind a sign, the
    last bit of a number decides.
    """

    def __init__(self, traced: Traced, example: Tensor) -> None:
        self.traced, self.example = traced, example
        self.builder = Builder(layers={INPUT: ""})
        self.lowered: dict[fx.Node, Any] = {}
        self.torch: dict[fx.Node, Any] = {}
        self.position = {node: i for i, node in enumerate(traced.graph.nodes)}
        self.versions: dict[fx.Node, int] = {}  # of torch's tensors: an operation in place raises it

    def run(self) -> tuple[Builder, Any]:
        """The builder with all ops, and what the network returns."""
        for node in self.traced.graph.nodes:
            self.builder.qualname, self.builder.layer = self.traced.module_of(node)
            args, kwargs = fx.node.map_arg((node.args, node.kwargs), self.lowered.__getitem__)
            if node.op == "output":
                return self.builder, args[0]
            if node.op == "placeholder":
                self.lowered[node], self.torch[node] = self._placeholder(node, args)
            else:
                lowered = self._lower(node, args, kwargs)
                self.torch[node] = self.traced.run(node, *fx.node.map_arg((node.args, node.kwargs), self.torch.get))
                self._check_in_place(node)
                self.lowered[node] = self._as_in_torch(lowered, self.torch[node], _largest(args, kwargs))
            self.versions[node] = self._version(node)
        raise BbgError("the network returns nothing; it must return a tensor, or a tuple, list or dict of tensors")

    def _placeholder(self, node: fx.Node, default: tuple[Any, ...]) -> tuple[Any, Any]:
        """An argument of the network, lowered and in torch: the images, or the default of another one."""
        if not self.lowered:
            return TracedTensor(INPUT, self.example), self.example.clone()
        if not default:
            raise BbgError(f"the network takes a second input {node.target!r}; allowed is one, the images")
        return default[0], default[0]

    def _lower(self, node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What the node gives: a view, several, or a constant."""
        if not _views(args, kwargs):
            return self.traced.run(node, args, kwargs)
        if node.target in QUERIES:
            return self._query(node.target, *args, **kwargs)
        layer = self.traced.part(str(node.target)) if node.op == "call_module" else None
        rule = FUNCTIONS[node.target] if layer is None else rule_of(layer)
        assert rule is not None  # trace_network has checked
        if rule not in TAKE_VIEWS:
            args, kwargs = fx.node.map_aggregate((args, kwargs), self._materialized)
        given = (self.builder, *args) if layer is None else (self.builder, layer, *args)
        try:
            _signature(rule).bind(*given, **kwargs)
        except TypeError as error:
            raise self.builder.error(f"with these arguments it cannot be converted ({error})") from None
        return rule(*given, **kwargs)

    def _materialized(self, argument: Any) -> Any:
        return self.builder.materialize(argument) if isinstance(argument, View) else argument

    def _query(self, target: Any, x: View, *args: Any, **kwargs: Any) -> Any:
        """Shape, rank and the like: known from the example."""
        result = getattr(x.tensor, target)(*args, **kwargs) if isinstance(target, str) else target(x.tensor, *args)
        if isinstance(result, Tensor):
            raise self.builder.error(
                f"the attribute {args[0]!r} of a tensor cannot be converted; allowed are its shape and type"
            )
        return result

    def _check_in_place(self, node: fx.Node) -> None:
        """BbgError where the node changed a tensor that is read again."""
        changed = [other for other in node.all_input_nodes if self._version(other) != self.versions[other]]
        if changed:  # and with it every tensor that shares its memory
            changed = [other for other, version in self.versions.items() if self._version(other) != version]
        for other in changed:
            if any(self.position[user] > self.position[node] for user in other.users):
                came = f"works in place on what {other.name!r} gave and what is read again"
                raise self.builder.error(f"{came}; work on a copy")
        self.versions |= {other: self._version(other) for other in changed}

    def _version(self, node: fx.Node) -> int:
        value = self.torch[node]
        return value._version if isinstance(value, Tensor) else 0

    def _as_in_torch(self, lowered: Any, tensor: Any, largest: float) -> Any:
        """`lowered` with the numbers that torch has, the same but for rounding, also of the `largest` that came in."""
        if isinstance(lowered, (tuple, list)):
            pairs = zip(lowered, tensor, strict=True)
            return type(lowered)(self._as_in_torch(*pair, largest) for pair in pairs)
        if not isinstance(lowered, View):
            return lowered
        if not _agree(lowered.tensor, tensor, largest):
            raise self.builder.error(f"the traced network computes something else than torch does; {ADVICE}")
        if not isinstance(lowered, TracedTensor) or not lowered.is_complete:
            return lowered
        return TracedTensor(lowered.name, to_value(tensor.clone(), lowered.layout, lowered.shape), lowered.layout)


_signature = cache(inspect.signature)


def _largest(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> float:
    """The largest number among the views that come in."""
    return max((float(x.value.abs().max()) for x in _views(args, kwargs)), default=0.0)


def _views(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[View]:
    """The views among the arguments, in lists and tuples too."""
    found: list[View] = []
    fx.node.map_aggregate((args, kwargs), lambda a: found.append(a) if isinstance(a, View) else None)
    return found
