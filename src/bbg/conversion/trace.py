"""From a torch module to an unfolded graph: torch.fx traces it, and every node is lowered by the rule for its layer.

    lowered = lower_network(model, example)       # lowered.graph: one op or two per layer, rows in float64

Beside each value of the graph stands a `Step`: how torch itself computes that value from earlier ones. The closing
check judges the engine by it. The rules are in lower.py and functions.py.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from bbg.conversion.views import Step, Wire, channels_last, in_order, in_rows
from bbg.errors import BbgError
from bbg.graph import Graph, Op, Output
from bbg.graph.kinds import KINDS
from bbg.tracing.tracer import PlacedTracer

INPUT = "input"
_ASTRAY = "avoid hooks, and in-place operations on tensors that are used again"
Rule = Callable[..., Any]

LAYERS: dict[type[nn.Module], Rule] = {}
FUNCTIONS: dict[Any, Rule] = {}  # functions, and methods of a tensor by name
MOVES: set[Rule] = set()  # rules that only change how torch has a value
QUERIES: set[Any] = {getattr, "size", "dim"}  # what they return is no tensor


def lowers(*targets: Any, moves: bool = False) -> Callable[[Rule], Rule]:
    """Registers the rule of layer types (called with the layer and its inputs), functions or methods (its inputs).

    The inputs of a rule have every number of their value once (`Wire.whole`), but where it `moves` them.
    """

    def register(rule: Rule) -> Rule:
        for target in targets:
            registry = LAYERS if isinstance(target, type) else FUNCTIONS
            registry[target] = rule
        if moves:
            MOVES.add(rule)
        return rule

    return register


def rule_of(layer: nn.Module) -> Rule | None:
    """The rule of the layer's type, or of a base whose `forward` it keeps."""
    for base in type(layer).__mro__:
        if base in LAYERS and all(_keeps(type(layer), base, name) for name in ("forward", "_conv_forward")):
            return LAYERS[base]
    return None


def _keeps(kind: type, base: type, method: str) -> bool:
    return getattr(kind, method, None) is getattr(base, method, None)


@dataclass(frozen=True)
class Lowered:
    """The unfolded graph, the step behind each of its values, and the type of layer that each op came from."""

    graph: Graph
    steps: Mapping[str, Step]
    layers: Mapping[str, str]


@dataclass
class Lowering:
    """What a rule works on: it appends ops to the graph, and refuses what they cannot express."""

    place: str = ""
    layer: str = ""
    ops: list[Op] = field(default_factory=list)
    steps: dict[str, Step] = field(default_factory=dict)
    layers: dict[str, str] = field(default_factory=dict)
    selected: dict[tuple[str, tuple[int, ...]], Wire] = field(default_factory=dict)

    def refuse(self, reason: str) -> BbgError:
        """The error that names the layer and its place in the network."""
        return BbgError(f"{self.place} ({self.layer}): {reason}")

    def emit(self, kind: str, inputs: tuple[Wire, ...], function: Callable[..., Tensor], *, suffix: str = "",
             rows: Mapping[str, np.ndarray | None] | None = None, threshold: Tensor | None = None,
             tensors: Mapping[str, np.ndarray] | None = None, clip: tuple[float | None, float | None] = (None, None),
             places: Tensor | None = None, **attributes: Any) -> Wire:  # fmt: skip
        """Append an op and return the wire behind it; with a `threshold` it writes bits, else a real value.

        `function` computes in torch what the op computes, from the tensors at `inputs` as torch has them. `places`: how
        torch has the result; None: as the first input where the shapes are equal, else in rows.
        """
        name = self.place + suffix
        while name in self.layers:
            name += "'"  # a layer that is used more than once
        given = {row: vector for row, vector in (rows or {}).items() if vector is not None}
        arrays = {**(tensors or {}), **({"epilogue": np.stack(list(given.values()))} if given else {})}
        real, bits = (name, None) if threshold is None else (None, name)
        names = tuple(wire.name for wire in inputs)
        op = Op(name, kind, names, real, bits, attributes, arrays, tuple(given), clip)
        try:
            shape = KINDS[kind].shape(op.attributes, *(wire.shape for wire in inputs[: len(op.operands)]))
        except BbgError as error:
            raise self.refuse(f"on a map {list(inputs[0].shape)}: {error}") from None
        self.ops.append(op)
        self.layers[name] = self.layer
        result = function(*(wire.tensor.clone() for wire in inputs))
        if places is None and inputs[0].places is not None and result.shape == inputs[0].tensor.shape:
            places = inputs[0].places
        elif places is None and result.ndim == 2:
            places = torch.arange(result[0].numel())
        self.steps[name] = Step(function, inputs, shape, threshold, places=places)
        return Wire(name, in_order(result, places, shape), places)

    def settled(self, x: Wire) -> Wire:
        """`x` with every number of its value once: where torch has some channels only, an op selects them."""
        return x if x.whole else self._selected(x)

    def map(self, x: Wire) -> Wire:
        """`x` as torch has a map, `[N, C, H, W]`, its channels brought into order where need be."""
        if x.places is None:
            return x
        selected = self._selected(x) if x.places.ndim == 3 else x
        if selected.places is not None:
            raise self.refuse(f"its input is no map [N, C, H, W], but {self.describe(x)}; give it the map")
        return selected

    def returned(self, name: str, x: Wire) -> Wire:
        """`x` as a map or flattened, which is what a network may return."""
        for attempt in (x, self._selected(x) if x.order.ndim in (1, 3) and not x.in_rows else x):
            if attempt.places is None or (attempt.flat and attempt.in_rows):
                return attempt
        came = f"{name or 'the output'}: the network returns {self.describe(x)}"
        raise BbgError(f"{came}; allowed are [N, C, H, W], and that flattened")

    def ordered(self, x: Wire) -> Wire:
        """`x`, its channels brought into order where torch has whole maps, `[N, C, H, W]`, `[N, H, W, C]` or flat."""
        found = None if x.places is None or x.places.ndim not in (1, 3) else self._channels(x)
        return x if found is None or torch.equal(found[0], torch.arange(x.shape[0])) else self._selected(x)

    def _selected(self, x: Wire) -> Wire:
        """An op that selects the channels which torch has, in its order; BbgError where it has no whole maps."""
        found = self._channels(x)
        if found is None:
            raise self.refuse(f"its input is {self.describe(x)}; allowed are whole channels of one map")
        index, last = found
        key = (x.name, tuple(index.tolist()))
        if key not in self.selected:
            tensors = {"index": index.numpy().astype(np.int32)}
            self.selected[key] = self.emit("select", (Wire(x.name, x.value),), lambda v: v[:, index], suffix=".select",
                                           tensors=tensors, channels=len(index))  # fmt: skip
        result = self.selected[key]
        places = channels_last(result.shape) if last else in_rows(result.shape)
        return result.at(places.flatten() if x.order.ndim == 1 else places)

    def _channels(self, x: Wire) -> tuple[Tensor, bool] | None:
        """The channels of the value that torch has, and whether as the last axis; None where it has no whole maps."""
        places = x.order
        rows = columns = places
        if places.ndim == 1 and places.numel() % x.value[0, 0].numel() == 0:
            rows, columns = places.reshape(-1, *x.shape[1:]), places.reshape(*x.shape[1:], -1)
        if rows.ndim != 3:
            return None
        for maps, last in ((rows, False), (columns.permute(2, 0, 1), True)):
            index = x.channels(maps)
            if index is not None:
                return index, last
        return None

    def describe(self, x: Wire) -> str:
        """How torch has it, for a sentence."""
        return f"a map {list(x.shape)} rearranged to [N, {', '.join(map(str, x.order.shape))}]"

    def per_channel(self, wire: Wire, vector: Tensor | None, what: str, axis: int | None = 1) -> np.ndarray | None:
        """`vector` as float64 `[C]`, one number per channel of the value.

        It is one number, or has one for each step along `axis` of the tensor as torch has it, or with `axis` None it is
        a tensor that torch broadcasts.
        """
        if vector is None:
            return None
        numbers, shape = vector.detach().double(), wire.tensor.shape[1:]
        if axis is not None and numbers.numel() > 1:
            numbers = numbers.reshape([-1 if i + 1 == axis else 1 for i in range(len(shape))])
        channels = wire.shape[0]
        try:
            full = torch.broadcast_to(numbers, (1, *shape))
        except RuntimeError:
            came = f"{numbers.numel()} numbers" if axis is not None else f"the shape {list(vector.shape)}"
            raise self.refuse(f"{what} has {came}, allowed are 1 or {channels}, one per channel") from None
        maps = in_order(full, wire.places, (channels, -1))[0]
        if (maps != maps[:, :1]).any():
            size = " x ".join(map(str, wire.shape[1:]))
            raise self.refuse(f"{what} differs within the {size} map of a channel; put the layer before flattening")
        return maps[:, 0].numpy().copy()


def trace(model: nn.Module) -> fx.GraphModule:
    """The network as a torch.fx graph, each node of which has a rule; BbgError names the first that has none."""
    advice = "write it without branches on tensors, or move what cannot be traced into a layer that has a rule"
    graph = _Tracer().traced(model, advice)
    _check(graph, model)
    return fx.GraphModule(model, graph)


class _Tracer(PlacedTracer):
    """Stops at layers with a rule and at torch's own."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return rule_of(m) is not None or super().is_leaf_module(m, module_qualified_name)


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
    traced = trace(model)
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
    outputs = tuple(Output(name, wire.name, wire.flat) for name, wire in wires.items())
    return Lowered(Graph(INPUT, (channels, height, width), tuple(to.ops), outputs), to.steps, to.layers)


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


def _result(to: Lowering, node: fx.Node, traced: fx.GraphModule, args: tuple[Any, ...], kwargs: dict[str, Any],
            example: Tensor | None) -> Any:  # fmt: skip
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
