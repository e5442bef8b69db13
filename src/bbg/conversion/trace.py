"""From a torch module to an unfolded graph: torch.fx traces it, and every node is lowered by the rule for its layer.

    lowered = lower_network(model, example)       # lowered.graph: one op or two per layer, rows in float64

Beside each value of the graph stands a `Step`: how torch itself computes that value from earlier ones. The closing
check judges the engine by it. The rules are in lower.py and functions.py.
"""

from __future__ import annotations

import inspect
import math
from typing import Any

import torch
from torch import Tensor, fx, nn

from bbg.conversion.builder import INPUT, Lowered, Lowering
from bbg.conversion.rules.registry import FUNCTIONS, LAYERS, MOVES, QUERIES, rule_of
from bbg.conversion.views import Wire, in_order
from bbg.errors import BbgError
from bbg.graph import Graph, Output, Structure
from bbg.tracing.tracer import Tracer

_ASTRAY = "avoid hooks, and in-place operations on tensors that are used again"


def trace(model: nn.Module, example: Tensor) -> fx.GraphModule:
    """The network as a torch.fx graph, each node of which has a rule; BbgError names the first that has none.

    Sizes that a forward branches on are those of the example: so are those of the packed file.
    """
    advice = "write it without branches on tensors, or move what cannot be traced into a layer that has a rule"
    traced = Tracer(example, lambda layer: rule_of(layer) is not None).run(model, advice)
    _check(traced.graph, model)
    return traced.module()


def _check(graph: fx.Graph, model: nn.Module) -> None:
    tensors: set[fx.Node] = set()  # nodes whose value is a tensor that depends on the input
    for node in graph.nodes:
        if node.op == "placeholder" and not tensors:
            tensors.add(node)
        elif not tensors.intersection(node.all_input_nodes) or node.op == "output" or node.target in QUERIES:
            continue
        elif node.op == "call_module":
            layer = model.get_submodule(node.target)
            if rule_of(layer) is None:
                allowed = ", ".join(sorted(rule.__name__ for rule in LAYERS))
                raise BbgError(
                    f"{node.target} ({type(layer).__name__}): this layer cannot be converted; replace it by layers "
                    f"that can: {allowed}"
                )
        elif node.target not in FUNCTIONS:
            place, layer_name = _place(node, model)
            name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", node.target)
            allowed = ", ".join(sorted({rule if isinstance(rule, str) else rule.__name__ for rule in FUNCTIONS}))
            raise BbgError(
                f"{place} ({layer_name}): the function {name!r} cannot be converted; replace it by a layer that can, "
                f"or one of {allowed}"
            )
        tensors.add(node)


def _place(node: fx.Node, model: nn.Module) -> tuple[str, str]:
    """Qualified name and type of the module that `node` belongs to."""
    if node.op == "call_module":
        return str(node.target), type(model.get_submodule(str(node.target))).__name__
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    path = stack[-1][0] if stack else ""
    return f"{path}.{node.name}" if path else node.name, type(model.get_submodule(path)).__name__


def lower_network(model: nn.Module, example: Tensor) -> Lowered:
    """The unfolded graph of `model`, in evaluation mode and float32, for inputs like `example` `[N, C, H, W]`.

    Raises BbgError for a layer without a rule, before anything is computed, and for one that the format cannot express.
    """
    model = model if rule_of(model) is None else nn.Sequential(model)  # tracing goes into the outermost module
    traced = trace(model, example)
    example = torch.cat([example, example])[:2]  # two, so that nothing takes the axis of the images for another
    try:
        result = model(example.clone())
    except Exception as error:  # whatever torch raises
        shape = list(example.shape)
        raise BbgError(f"the network cannot run on an example {shape} ({error}); give images that it takes") from error
    wires, to = _run(traced, model, example)
    expected = _outputs(result)
    for name, wire in wires.items():
        if name not in expected or not _agree(wire.tensor, expected[name]):
            what = f"{name or 'the output'}: the traced network computes something else than the network itself"
            raise BbgError(f"{what}; {_ASTRAY}")
    channels, height, width = example.shape[1:]
    outputs = tuple(_output(name, wire) for name, wire in wires.items())
    structure: Structure = "tensor" if "" in wires else "dict"
    graph = Graph(INPUT, (channels, height, width), tuple(to.ops), outputs, structure=structure)
    return Lowered(graph, to.steps, to.layers)


def _output(name: str, wire: Wire) -> Output:
    shape = wire.shape
    return Output.of_flat(name, wire.name, math.prod(shape)) if wire.flat else Output.of_map(name, wire.name, shape)


def _run(traced: fx.GraphModule, model: nn.Module, example: Tensor) -> tuple[dict[str, Wire], Lowering]:
    """Walk through the nodes: what depends on the input is lowered, the rest computed. Returns the output's wires.

    Beside it torch runs the same nodes. What an op computes is compared with what torch has there, and then goes on as
    torch has it: behind a sign, the last bit of a number decides.
    """
    to = Lowering(layers={INPUT: ""})
    results: dict[fx.Node, Any] = {}
    torchs = fx.Interpreter(traced, garbage_collect_values=False)
    torchs.args_iter = iter([example.clone()])
    order = {node: i for i, node in enumerate(traced.graph.nodes)}
    for node in traced.graph.nodes:
        to.place, to.layer = _place(node, model)
        args = fx.node.map_arg(node.args, results.__getitem__)
        kwargs = fx.node.map_arg(node.kwargs, results.__getitem__)
        if node.op == "output":
            return {name: to.returned(name, wire) for name, wire in _outputs(args[0]).items()}, to
        results[node] = _result(to, node, traced, args, kwargs, example if not results else None)
        versions = {n: value._version for n, value in torchs.env.items() if isinstance(value, Tensor)}
        torchs.env[node] = torchs.run_node(node)
        for other, version in versions.items():
            if torchs.env[other]._version != version and any(order[user] > order[node] for user in other.users):
                raise to.refuse(f"works in place on what {other.name!r} gave and what is read again; work on a copy")
        results[node] = _as_in_torch(to, results[node], torchs.env[node], _largest(args, kwargs))
    raise BbgError("the network returns nothing; it must return a tensor or a dict of tensors")


def _largest(args: tuple[Any, ...], kwargs: dict[str, Any]) -> float:
    """The largest number among the wires that come in."""
    return max((float(wire.value.abs().max()) for wire in _wires(args, kwargs)), default=0.0)


def _as_in_torch(to: Lowering, lowered: Any, tensor: Any, largest: float) -> Any:
    """`lowered` with the numbers that torch has, which must be the same but for rounding, also of what came in."""
    if isinstance(lowered, (tuple, list)):
        return type(lowered)(_as_in_torch(to, *pair, largest) for pair in zip(lowered, tensor, strict=True))
    if not isinstance(lowered, Wire):
        return lowered
    if not _agree(lowered.tensor, tensor, largest):
        raise to.refuse(f"the traced network computes something else than torch does; {_ASTRAY}")
    if not lowered.whole:
        return lowered
    return Wire(lowered.name, in_order(tensor.clone(), lowered.places, lowered.shape), lowered.places)


def _result(
    to: Lowering,
    node: fx.Node,
    traced: fx.GraphModule,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    example: Tensor | None,
) -> Any:
    if node.op == "placeholder":
        if example is not None:
            return Wire(INPUT, example)
        if not args:
            raise BbgError(f"the network takes a second input {node.target!r}; allowed is one, the images")
        return args[0]
    if node.op == "get_attr":
        value: Any = traced
        for part in str(node.target).split("."):
            value = getattr(value, part)
        return value
    layer = traced.get_submodule(str(node.target)) if node.op == "call_module" else None
    if not _wires(args, kwargs):
        if layer is not None:
            return layer(*args, **kwargs)
        if isinstance(node.target, str):
            return getattr(args[0], node.target)(*args[1:], **kwargs)
        return node.target(*args, **kwargs)
    if node.target in QUERIES:
        return _query(to, node.target, *args, **kwargs)
    rule = FUNCTIONS[node.target] if layer is None else rule_of(layer)
    assert rule is not None  # trace has checked
    if rule not in MOVES:
        args, kwargs = fx.node.map_aggregate((args, kwargs), lambda a: to.settled(a) if isinstance(a, Wire) else a)
    given = (to, *args) if layer is None else (to, layer, *args)
    try:
        inspect.signature(rule).bind(*given, **kwargs)
    except TypeError as error:
        raise to.refuse(f"with these arguments it cannot be converted ({error})") from None
    return rule(*given, **kwargs)


def _wires(args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Wire]:
    """The wires among the arguments, in lists and tuples too."""
    found: list[Wire] = []
    fx.node.map_aggregate((args, kwargs), lambda a: found.append(a) if isinstance(a, Wire) else None)
    return found


def _query(to: Lowering, target: Any, wire: Wire, *args: Any, **kwargs: Any) -> Any:
    """Shape, rank and the like: known from the example."""
    result = getattr(wire.tensor, target)(*args, **kwargs) if isinstance(target, str) else target(wire.tensor, *args)
    if isinstance(result, Tensor):
        raise to.refuse(f"the attribute {args[0]!r} of a tensor cannot be converted; allowed are its shape and type")
    return result


def _outputs(result: Any) -> dict[str, Any]:
    """What a network returns, by name; one tensor has the name ''."""
    named = result if isinstance(result, dict) else {"": result}
    if not named or not all(isinstance(v, (Tensor, Wire)) and isinstance(k, str) for k, v in named.items()):
        raise BbgError(f"the network returns {type(result).__name__}; it must return a tensor or a dict of tensors")
    return named


def _agree(a: Tensor, b: Tensor, largest: float = 0.0) -> bool:
    return a.shape == b.shape and bool((a - b).abs().max() <= 1e-5 * max(largest, float(b.abs().max())))
