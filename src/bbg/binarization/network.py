"""A network that nobody here wrote, as a torch.fx graph with the facts that `binarize` decides by.

    network = TracedNetwork.of(model, example)     # traced in evaluation mode, shapes from the example
    network.calls["layer1.0.conv1"]                # the calls of each convolution and linear layer, by qualified name
    network.input_layers(), network.output_layers()   # which of them read the images, and which the output comes from

Nothing here changes the graph. What is true of an operation comes from `tracing/vocabulary.py`; what follows for the
signs of the numbers from `signs.py`.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, fx, nn

from bbg.binarization.by_mode import ByMode
from bbg.errors import BbgError, first_line
from bbg.layers import BinaryConv2d, BinaryLinear, Shortcut
from bbg.methods import Pointwise
from bbg.tracing.in_place import read_results_of_in_place_calls
from bbg.tracing.tracer import Decision, Trace, Tracer, attribute, cannot_trace, in_mode, reads_mode
from bbg.tracing.values import UNKNOWN, value_for
from bbg.tracing.vocabulary import Op, Trait, op_of, op_of_module, ops_with

ADVICE = "write it without branches on tensors"
_REPEATS = ("expand", "expand_as", "repeat", "repeat_interleave", "interpolate")
LAYERS = tuple(kind for op in ops_with(Trait.LAYER) for kind in op.modules)


def is_leaf(module: nn.Module) -> bool:
    """Beside torch's layers: what computes as one of them does, this package's own, and what only reads its mode."""
    ours = isinstance(module, (BinaryConv2d, BinaryLinear, Shortcut, Pointwise, ByMode))
    return ours or op_of_module(module) is not None or (is_bare(module) and reads_mode(module))


def is_bare(module: nn.Module) -> bool:
    """Whether it has no module inside and no number of its own."""
    return not [*module.children(), *module.parameters(), *module.buffers()]


def traced(model: nn.Module, example: Tensor) -> Trace:
    """The trace of `model`, in the mode that it is in.

    BbgError for a forward that decides by the device of the example: a binarized network is moved to others, and
    nothing compares it there with the one that was given.
    """
    trace = Tracer(example, is_leaf).run(model, ADVICE)
    for decision in trace.decisions:
        if not decision.by_size:
            advice = "write it without branches on the device"
            raise BbgError(cannot_trace(model, decision.qualname, decision.what, advice, decision.place).text())
    read_results_of_in_place_calls(trace)
    return trace


def _known_shapes(trace: Trace, images: int) -> dict[fx.Node, tuple[int, ...]] | None:
    """The shapes of what comes out of the nodes, as the trace knows them; `()` stands for a tuple of tensors.

    None where it does not know all: torch has no rule for an operation, or the network cannot run.
    """
    shapes: dict[fx.Node, tuple[int, ...]] = {}
    for node in trace.graph.nodes:
        value = value_for(images, node.meta["values"]) if "values" in node.meta else UNKNOWN
        if value is UNKNOWN and node.op != "output":
            return None
        _enter_shape(shapes, node, value)
    return shapes


def _run(trace: Trace, images: Tensor) -> dict[fx.Node, tuple[int, ...]]:
    """The same by running the network; BbgError where it cannot run."""
    shapes = _Shapes(trace.module())
    try:
        with torch.no_grad():
            shapes.run(images.clone())
    except Exception as error:  # whatever torch raises
        came = f"the network cannot run on an example {list(images.shape)} ({first_line(error)})"
        raise BbgError(f"{came}; give images that it takes") from error
    return shapes.shapes


class _Shapes(fx.Interpreter):
    """Runs the graph and keeps the shapes of what comes out of its nodes."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.shapes: dict[fx.Node, tuple[int, ...]] = {}

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        _enter_shape(self.shapes, n, result)
        return result


def _enter_shape(shapes: dict[fx.Node, tuple[int, ...]], node: fx.Node, value: Any) -> None:
    if isinstance(value, Tensor):
        shapes[node] = tuple(value.shape)
    elif isinstance(value, (tuple, list)) and value and isinstance(value[0], Tensor):
        shapes[node] = ()


@dataclass
class TracedNetwork:
    """The graph of a network and what is known about its nodes.

    `shapes`: of the nodes that are tensors, for the two `images`. `live`: those among them that depend on the images.
    `channel_axis`: where their channels run. `calls`: those of each convolution and linear layer, by qualified name.
    `added`: the modules that a rewriting has put in, by the names that the graph calls them by. `owners`: the qualified
    names of the modules whose mode some of them follow, for they do what stood in the forwards of these. `untraceable`:
    why the network cannot be traced in training mode, where it cannot. `decisions`: what holds for images of the size
    of `images` alone, in either mode.
    """

    model: nn.Module
    images: Tensor
    trace: Trace
    shapes: dict[fx.Node, tuple[int, ...]]
    live: set[fx.Node] = field(default_factory=set)
    channel_axis: dict[fx.Node, int] = field(default_factory=dict)
    calls: dict[str, list[fx.Node]] = field(default_factory=dict)
    added: dict[str, nn.Module] = field(default_factory=dict)
    owners: dict[str, str] = field(default_factory=dict)
    untraceable: BbgError | None = None
    decisions: list[Decision] = field(default_factory=list)
    order: dict[fx.Node, int] = field(default_factory=dict)
    _modules: dict[str, nn.Module] = field(default_factory=dict)
    _times: Counter[Any] = field(default_factory=Counter)

    @classmethod
    def of(cls, model: nn.Module, example: Tensor) -> TracedNetwork:
        """Trace `model` in evaluation mode; BbgError names the module that cannot be traced."""
        with in_mode(model, False):
            return cls._of(traced(model, example), torch.cat([example, example])[:2])

    @classmethod
    def _of(cls, trace: Trace, images: Tensor) -> TracedNetwork:
        shapes = _known_shapes(trace, len(images))
        network = cls(trace.model, images, trace, _run(trace, images) if shapes is None else shapes)
        network.decisions = [*trace.decisions]
        network.order = {node: i for i, node in enumerate(trace.graph.nodes)}
        network._modules = dict(trace.model.named_modules(remove_duplicate=False))
        network._times = Counter(node.target for node in trace.graph.nodes if node.op == "call_module")
        for node in trace.graph.nodes:
            network._enter(node)
        return network

    def _enter(self, node: fx.Node) -> None:
        if node.op == "placeholder" or self.live.intersection(node.all_input_nodes):
            if node not in self.shapes:
                return
            self.live.add(node)
        before = self.inputs(node)
        self.channel_axis[node] = self._axis_of_channels(node, before[0]) if before else 1
        if self.is_layer(node):
            name = self.name(node) if node.op == "call_module" else f"{self.path(node)}.{node.name}".lstrip(".")
            self.calls.setdefault(name, []).append(node)

    def _axis_of_channels(self, node: fx.Node, before: fx.Node) -> int:
        rank, axis = len(self.shapes[node]), self.channel_axis[before]
        if isinstance(self.module(node), nn.Linear):
            return rank - 1
        if self.has(node, Trait.PERMUTES) and rank == len(self.shapes[before]):
            marked = torch.zeros([2 if i == axis else 1 for i in range(rank)], device="meta")
            moved = getattr(marked, str(self.kind(node)).lower())(*node.args[1:], **node.kwargs)
            return int(list(moved.shape).index(2))
        return axis if rank == len(self.shapes[before]) and not self.is_layer(node) else 1

    # ---- changes

    def add(self, node: fx.Node, like: fx.Node) -> None:
        """Enter a new node of the graph, whose value is of the shape of `like`'s."""
        self.live.add(node)
        self.shapes[node], self.channel_axis[node] = self.shapes[like], self.channel_axis[like]

    def insert_call(self, source: fx.Node, like: fx.Node, name: str, module: nn.Module) -> fx.Node:
        """A call of the new `module` behind `source`, whose value is of the shape of `like`'s."""
        with self.trace.graph.inserting_after(source):
            new = self.trace.graph.create_node("call_module", name, (source,))
        return self._entered(new, like, name, module)

    def replace_call(self, node: fx.Node, source: fx.Node, name: str, module: nn.Module) -> fx.Node:
        """A call of the new `module` in the place of `node`."""
        with self.trace.graph.inserting_before(node):
            new = self.trace.graph.create_node("call_module", name, (source,))
        node.replace_all_uses_with(new)
        self.trace.graph.erase_node(node)
        return self._entered(new, node, name, module)

    def _entered(self, new: fx.Node, like: fx.Node, name: str, module: nn.Module) -> fx.Node:
        new.meta["nn_module_stack"] = like.meta.get("nn_module_stack")
        self.added[name] = self._modules[name] = module
        self._times[name] += 1
        self.order[new] = self.order.get(like, 0)
        self.add(new, like)
        return new

    def forget(self, node: fx.Node) -> None:
        """Take back what was entered for a node that is gone."""
        self.live.discard(node)
        self.calls = {name: calls for name, calls in self.calls.items() if node not in calls}

    def unique_name(self, name: str, own: bool = False) -> str:
        """`name`, or one like it that nothing has; `own`: it may be that of a module which goes."""
        free, i = name, 0
        while free in self.added or (free in self._taken and not (own and free == name)):
            i += 1
            free = f"{name}_{i}"
        return free

    @cached_property
    def _taken(self) -> set[str]:
        """The names of the model's modules, parameters and buffers."""
        model = self.model
        return {n for n, _ in (*model.named_modules(), *model.named_parameters(), *model.named_buffers())}

    def attribute(self, node: fx.Node) -> Any:
        """The parameter, buffer or constant that a node gets."""
        name = str(node.target)
        return self.trace.constants[name] if name in self.trace.constants else attribute(self.model, name)

    # ---- one node

    def module(self, node: fx.Node) -> nn.Module | None:
        """The module that the node calls."""
        return self._modules.get(str(node.target)) if node.op == "call_module" else None

    def op(self, node: fx.Node) -> Op | None:
        """The row of the vocabulary for what it calls; None: it is not known."""
        return op_of(node, self._modules)

    def has(self, node: fx.Node, trait: Trait) -> bool:
        """Whether what it calls is known to have the trait."""
        op = self.op(node)
        return op is not None and trait in op

    def times(self, node: fx.Node) -> int:
        """How often the module of the node is called."""
        return self._times[node.target]

    def kind(self, node: fx.Node) -> str:
        """The name of the type of the module that it calls, or of the function or method, as the network spells it."""
        if node.op == "call_module":
            return type(self.module(node)).__name__
        return node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))

    def path(self, node: fx.Node) -> str:
        """The qualified name of the module whose forward makes the call."""
        if node.op == "call_module":
            return str(node.target).rpartition(".")[0]
        stack = list((node.meta.get("nn_module_stack") or {}).values())
        return stack[-1][0] if stack else ""

    def name(self, node: fx.Node) -> str:
        """The qualified name of the module that it calls, or one like it for a function."""
        path = self.path(node)
        return str(node.target) if node.op == "call_module" else f"{path}.{self.kind(node)}".lstrip(".")

    def inputs(self, node: fx.Node) -> list[fx.Node]:
        """The tensors that it is computed from, as far as they depend on the images."""
        return [before for before in node.all_input_nodes if before in self.live]

    # ---- layers

    def is_layer(self, node: fx.Node) -> bool:
        """Whether it is a convolution or a linear layer, of any kind: also one with a forward of its own."""
        return self.has(node, Trait.LAYER) or isinstance(self.module(node), LAYERS)

    def weight(self, node: fx.Node) -> tuple[int, ...]:
        """The shape of a layer's weight."""
        module = self.module(node)
        if module is not None:
            weight: Any = module.weight
            return tuple(weight.shape)
        return self.shapes[node.args[1] if len(node.args) > 1 else node.kwargs["weight"]]  # type: ignore[index]

    def macs(self, node: fx.Node) -> int:
        """The multiply-accumulates of a layer, for one image."""
        weight = self.weight(node)
        op = self.op(node)
        over = node.all_input_nodes[0] if op is not None and op.name.startswith("conv_transpose") else node
        return math.prod(self.shapes[over][1:]) * math.prod(weight[1:])

    def input_layers(self) -> set[fx.Node]:
        """The layers that read the images, and nothing that a layer has made of them."""
        found: set[fx.Node] = set()
        raw: set[fx.Node] = set()
        for node in self.trace.graph.nodes:
            if node in self.live and raw.issuperset(self.inputs(node)):
                (found if self.is_layer(node) else raw).add(node)
        return found

    def output_layers(self) -> set[fx.Node]:
        """The layers that the outputs come from; of a sum, only what comes last, unless it is a sum of layers."""
        seen: set[fx.Node] = set()
        todo = [node for node in self.trace.graph.nodes if node.op == "output"]
        while todo:
            node = todo.pop()
            before = self.inputs(node)
            layers = all(self.is_layer(one) and len(one.users) == 1 for one in before)
            if not (node.op == "output" or self.has(node, Trait.JOINS) or layers):
                before = sorted(before, key=self.order.__getitem__)[-1:]
            todo += [one for one in before if one not in seen and not self.is_layer(one)]
            seen.update(before)
        return {node for node in seen if self.is_layer(node)}

    def in_squeeze_excite(self, node: fx.Node) -> bool:
        """Whether a layer belongs to a squeeze-excite block: its input is a pooled map, its output a factor."""
        before: list[fx.Node] = [node]
        while not before or not self.has(before[0], Trait.POOLS):
            before = self.inputs(before[0]) if before else []
            if len(before) != 1 or not self._is_pooled(before[0]):
                return False
        return self.is_factor(node)

    def is_factor(self, node: fx.Node) -> bool:
        """Whether the value of a node is pooled, and comes to be a factor of a map.

        On its way it may be scaled, shifted, reshaped or repeated, and go through layers and activations.
        """
        seen, todo = {node}, [node] if self._is_pooled(node) else []
        while todo:
            one = todo.pop()
            for user in one.users:
                op = self.op(user)
                if op is None or user not in self.live or user in seen:
                    continue
                others = [other for other in self.inputs(user) if other is not one]
                if Trait.MULTIPLIES in op and not all(map(self._is_pooled, others)):
                    return True
                repeated = op.name in _REPEATS and self.inputs(user)[0] is one
                if repeated or (self._is_pooled(user) and all(map(self._is_pooled, others))):
                    seen.add(user)
                    todo.append(user)
        return False

    def _is_pooled(self, node: fx.Node) -> bool:
        return sum(size > 1 for size in self.shapes[node][1:]) <= 1

    def flattened(self, node: fx.Node) -> tuple[int, int, int] | None:
        """`[C, H, W]` of the map that was flattened to the `[N, features]` at `node`, if one was."""
        while len(self.shapes[node]) == 2:
            before = self.inputs(node)
            if len(before) != 1 or self.is_layer(node):
                return None
            shape = self.shapes[before[0]]
            if len(shape) == 4:
                same = math.prod(shape[1:]) == self.shapes[node][1] and self.channel_axis[before[0]] == 1
                return (shape[1], shape[2], shape[3]) if same else None
            node = before[0]
        return None
