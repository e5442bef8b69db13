"""A network that nobody here wrote, as a torch.fx graph with the facts that `binarize` decides by.

    network = Network.of(model, example)      # traced in evaluation mode, shapes from the example
    network.calls["layer1.0.conv1"]           # the calls of each convolution and linear layer, by qualified name
    network.first(), network.last()           # which of them read the images, and which the output comes from
    network.silent(node)                      # the activations that leave no negative number at `node`

Functions and methods of tensors are told apart by their name alone: `F.relu`, `torch.relu` and `x.relu_()` are one.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn

from bbg.errors import BbgError
from bbg.layers import BinaryConv2d, BinaryLinear, Shortcut
from bbg.methods import Pointwise
from bbg.tracing.tracer import Trace, Tracer, cannot_trace, in_mode, reads_mode

CONVS = (nn.modules.conv._ConvNd, nn.Linear)
CONV_CALLS = {"conv1d", "conv2d", "conv3d", "conv_transpose2d", "linear"}
GATES = {"sigmoid", "sigmoid_", "hardsigmoid", "Sigmoid", "Hardsigmoid"}
POSITIVE = {"relu", "relu_", "relu6", "softplus", "ReLU", "ReLU6", "Softplus", *GATES}  # their values are never < 0
CLAMPS = {"clamp", "clamp_", "clip", "clamp_min", "hardtanh", "hardtanh_", "Hardtanh"}  # nor theirs, by the lower end
POOLS = {
    *(f"{kind}{d}d" for kind in ("max_pool", "avg_pool", "adaptive_avg_pool", "adaptive_max_pool") for d in (1, 2, 3)),
    *(f"{kind}{d}d" for kind in ("MaxPool", "AvgPool", "AdaptiveAvgPool", "AdaptiveMaxPool") for d in (1, 2, 3)),
    "mean",
    "amax",
}
SIGNS_PASS = {  # a number of the output is negative only where one of the input is
    *POOLS,
    "flatten",
    "Flatten",
    "unflatten",
    "Unflatten",
    "view",
    "reshape",
    "permute",
    "Permute",
    "transpose",
    "movedim",
    "contiguous",
    "clone",
    "getitem",
    "chunk",
    "split",
    "unbind",
    "squeeze",
    "unsqueeze",
    "expand",
    "repeat",
    "pad",
    "ZeroPad2d",
    "ReflectionPad2d",
    "ReplicationPad2d",
    "Dropout",
    "Dropout1d",
    "Dropout2d",
    "Dropout3d",
    "dropout",
    "dropout1d",
    "dropout2d",
    "dropout3d",
    "feature_dropout",
    "Identity",
    "ChannelShuffle",
    "channel_shuffle",
    "PixelShuffle",
    "pixel_shuffle",
    "PixelUnshuffle",
    "pixel_unshuffle",
    "Upsample",
    "interpolate",
}
ADDS = {"add", "add_", "iadd"}
MULTIPLIES = {"mul", "mul_", "imul", "multiply"}
MAX_POOLS = {"max_pool2d", "MaxPool2d"}
JOINS = {"cat", "concat", "stack"}


ADVICE = "write it without branches on tensors"


def is_leaf(module: nn.Module) -> bool:
    """Beside torch's layers: this package's own, and those that do nothing but differ between the modes."""
    ours = isinstance(module, (BinaryConv2d, BinaryLinear, Shortcut, Pointwise))
    bare = not [*module.children(), *module.parameters(), *module.buffers()]
    return ours or (bare and reads_mode(module))


def traced(model: nn.Module, example: Tensor) -> Trace:
    """The trace of `model` for images of any size: BbgError for a forward that decides by those of the example."""
    trace = Tracer(example, is_leaf).run(model, ADVICE)
    if trace.decisions:
        raise cannot_trace(model, trace.decisions[0].qualname, trace.decisions[0].what, ADVICE)
    return trace


class _Shapes(fx.Interpreter):
    """Runs the graph and keeps the shapes of what comes out of its nodes; `()` stands for a tuple of tensors."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.shapes: dict[fx.Node, tuple[int, ...]] = {}

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if isinstance(result, Tensor):
            self.shapes[n] = tuple(result.shape)
        elif isinstance(result, (tuple, list)) and result and isinstance(result[0], Tensor):
            self.shapes[n] = ()
        return result


@torch.no_grad()
def one_sided(model: nn.Module, example: Tensor) -> set[str]:
    """The binary layers whose input, with the example in evaluation mode, becomes the same sign everywhere."""
    found: set[str] = set()

    def look(name: str, binarizer: Any, x: Tensor) -> None:
        signs = binarizer.signs(x, binarizer.form(x))
        if signs.min() == signs.max():
            found.add(name)

    layers = [(n, m) for n, m in model.named_modules() if isinstance(m, (BinaryConv2d, BinaryLinear))]
    handles = [
        m.register_forward_pre_hook(lambda m, args, n=n: look(n, m.activation_binarizer, args[0])) for n, m in layers
    ]
    try:
        with in_mode(model, False):
            model(example)
    finally:
        for handle in handles:
            handle.remove()
    return found


@dataclass
class Network:
    """The graph of a network and what is known about its nodes.

    `shapes`: of the nodes that are tensors, for one image. `live`: those among them that depend on the images. `axis`:
    where the channels run. `calls`: the nodes of each convolution and linear layer, by qualified name.
    """

    model: nn.Module
    example: Tensor
    graph: fx.Graph
    shapes: dict[fx.Node, tuple[int, ...]]
    constants: dict[str, Tensor]  # those that only the trace knows
    live: set[fx.Node] = field(default_factory=set)
    axis: dict[fx.Node, int] = field(default_factory=dict)
    calls: dict[str, list[fx.Node]] = field(default_factory=dict)
    _order: dict[fx.Node, int] = field(default_factory=dict)
    _modules: dict[str, nn.Module] = field(default_factory=dict)
    _times: Counter[Any] = field(default_factory=Counter)
    _silent: dict[fx.Node, list[fx.Node]] = field(default_factory=dict)

    @classmethod
    def of(cls, model: nn.Module, example: Tensor) -> Network:
        """Trace `model` in evaluation mode; BbgError names the module that torch.fx cannot trace."""
        with in_mode(model, False):
            return cls._of(model, example)

    @classmethod
    def _of(cls, model: nn.Module, example: Tensor) -> Network:
        trace = traced(model, example)
        shapes = _Shapes(trace.module())
        try:
            with torch.no_grad():
                shapes.run(example.clone())
        except Exception as error:  # whatever torch raises
            raise BbgError(
                f"the network cannot run on an example {list(example.shape)} ({error}); give images that it takes"
            ) from error
        network = cls(model, example, trace.graph, shapes.shapes, trace.constants)
        network._order = {node: i for i, node in enumerate(trace.graph.nodes)}
        network._modules = dict(model.named_modules(remove_duplicate=False))
        network._times = Counter(node.target for node in trace.graph.nodes if node.op == "call_module")
        for node in trace.graph.nodes:
            network._enter(node)
        return network

    def _enter(self, node: fx.Node) -> None:
        if (node.op == "placeholder" and not self.live) or self.live.intersection(node.all_input_nodes):
            if node not in self.shapes:
                return
            self.live.add(node)
        before = self.inputs(node)
        self.axis[node] = self._channels(node, before[0]) if before else 1
        if self.is_layer(node):
            name = self.name(node) if node.op == "call_module" else f"{self.path(node)}.{node.name}".lstrip(".")
            self.calls.setdefault(name, []).append(node)
        positive = self.kind(node) in POSITIVE | CLAMPS
        if positive and self._in_place(node) and before:  # whoever reads its input later, reads its output
            for user in list(before[0].users):
                if self._order[user] > self._order[node]:
                    user.replace_input_with(before[0], node)

    def _channels(self, node: fx.Node, before: fx.Node) -> int:
        rank, axis = len(self.shapes[node]), self.axis[before]
        if isinstance(self.module(node), nn.Linear):
            return rank - 1
        kind = self.kind(node)
        if kind in ("permute", "Permute", "transpose", "movedim") and rank == len(self.shapes[before]):
            moved = torch.zeros([2 if i == axis else 1 for i in range(rank)], device="meta")
            module = self.module(node)
            args, name = (node.args[1:], kind) if module is None else ((getattr(module, "dims", ()),), kind.lower())
            return int(list(getattr(moved, name)(*args, **node.kwargs).shape).index(2))
        return axis if rank == len(self.shapes[before]) and not self.is_layer(node) else 1

    def only_in_training(self) -> list[str]:
        """The modules that call something in training mode that they do not call in evaluation mode."""
        with in_mode(self.model, True):
            try:
                graph = traced(self.model, self.example).graph
            except BbgError:  # it need not be traceable in this mode
                return []
        there, here = (
            Counter((self.path(node), self.kind(node)) for node in nodes if node.op.startswith("call"))
            for nodes in (graph.nodes, self.graph.nodes)
        )
        return sorted({path for path, _ in there - here})

    def add(self, node: fx.Node, like: fx.Node) -> None:
        """Enter a new node of the graph, whose value is of the shape of `like`'s."""
        self.live.add(node)
        self.shapes[node], self.axis[node] = self.shapes[like], self.axis[like]

    def module(self, node: fx.Node) -> nn.Module | None:
        """The module that the node calls."""
        return self._modules.get(str(node.target)) if node.op == "call_module" else None

    def times(self, node: fx.Node) -> int:
        """How often the module of the node is called."""
        return self._times[node.target]

    def kind(self, node: fx.Node) -> str:
        """The name of the type of the module that it calls, or of the function or method."""
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

    def is_layer(self, node: fx.Node) -> bool:
        """Whether it is a convolution or a linear layer, of any kind."""
        return isinstance(self.module(node), CONVS) or (node.op == "call_function" and self.kind(node) in CONV_CALLS)

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
        over = self.inputs(node)[0] if "transpose" in self.kind(node).lower() else node
        return math.prod(self.shapes[over][1:]) * math.prod(weight[1:])

    def first(self) -> set[fx.Node]:
        """The layers that read the images, and nothing that a layer has made of them."""
        found: set[fx.Node] = set()
        raw: set[fx.Node] = set()
        for node in self.graph.nodes:
            if node in self.live and raw.issuperset(self.inputs(node)):
                (found if self.is_layer(node) else raw).add(node)
        return found

    def last(self) -> set[fx.Node]:
        """The layers that the outputs come from; of a sum, only what comes last, unless it is a sum of layers."""
        seen: set[fx.Node] = set()
        todo = [node for node in self.graph.nodes if node.op == "output"]
        while todo:
            node = todo.pop()
            before = self.inputs(node)
            layers = all(self.is_layer(one) and len(one.users) == 1 for one in before)
            if not (node.op == "output" or self.kind(node) in JOINS or layers):
                before = sorted(before, key=self._order.__getitem__)[-1:]
            todo += [one for one in before if one not in seen and not self.is_layer(one)]
            seen.update(before)
        return {node for node in seen if self.is_layer(node)}

    def _pooled(self, node: fx.Node) -> bool:
        return sum(size > 1 for size in self.shapes[node][1:]) <= 1

    def squeezes(self, node: fx.Node) -> bool:
        """Whether a layer belongs to a squeeze-excite block: its input is a pooled map, its output a factor."""
        before: list[fx.Node] = [node]
        while not before or self.kind(before[0]) not in POOLS:
            before = self.inputs(before[0]) if before else []
            if len(before) != 1 or not self._pooled(before[0]):
                return False
        seen, todo = {node}, [node]
        while todo:
            for user in todo.pop().users:
                if self.kind(user) in MULTIPLIES:
                    return True
                if user in self.live and user not in seen and len(self.inputs(user)) == 1 and self._pooled(user):
                    seen.add(user)
                    todo.append(user)
        return False

    def largest(self, node: fx.Node) -> list[fx.Node]:
        """The max-pools whose values `node` still holds, but for activations that are never negative."""
        if self.kind(node) in MAX_POOLS:
            return [node] if len(self.shapes[node]) == 4 else []
        if self.kind(node) in SIGNS_PASS | JOINS or self.positive(node):
            return _once(self.largest(one) for one in self.inputs(node))
        return []

    def flattened(self, node: fx.Node) -> tuple[int, int, int] | None:
        """`[C, H, W]` of the map that was flattened to the `[N, features]` at `node`, if one was."""
        while len(self.shapes[node]) == 2:
            before = self.inputs(node)
            if len(before) != 1 or self.is_layer(node):
                return None
            shape = self.shapes[before[0]]
            if len(shape) == 4:
                same = math.prod(shape[1:]) == self.shapes[node][1] and self.axis[before[0]] == 1
                return (shape[1], shape[2], shape[3]) if same else None
            node = before[0]
        return None

    def _in_place(self, node: fx.Node) -> bool:
        module = self.module(node)
        positional = node.op == "call_function" and node.args[1:] == (True,)
        return bool(
            getattr(module, "inplace", False)
            or node.kwargs.get("inplace")
            or positional
            or self.kind(node).endswith("_")
        )

    def positive(self, node: fx.Node) -> bool:
        """Whether it is an activation that never gives a negative number."""
        module, kind = self.module(node), self.kind(node)
        if isinstance(module, Pointwise):
            low = module.hinge().low
        elif kind in CLAMPS:
            low = getattr(module, "min_val", None)
            if module is None:
                given: dict[str, Any] = dict(zip(("min", "max"), node.args[1:], strict=False)) | node.kwargs
                low = given.get("min", given.get("min_val"))
        else:
            return kind in POSITIVE and node in self.live
        return isinstance(low, (int, float)) and low >= 0

    def silent(self, node: fx.Node) -> list[fx.Node]:
        """The activations because of which no number at `node` is negative; none where one may be.

        A sum of non-negative numbers is one, and so is a product; of a product, the factor that a sigmoid gives is a
        gate and not to blame.
        """
        if node not in self._silent:
            self._silent[node] = self._find_silent(node)
        return self._silent[node]

    def _find_silent(self, node: fx.Node) -> list[fx.Node]:
        if self.positive(node):
            return [node]
        kind, module = self.kind(node), self.module(node)
        before = self.inputs(node)
        bare = module is not None and not isinstance(module, Pointwise) and not [*module.parameters()]
        if kind in SIGNS_PASS or (module is not None and bare and reads_mode(module) and len(before) == 1):
            return self.silent(before[0]) if before else []
        if kind in JOINS:
            return _once(self.silent(one) for one in before)
        scaled = kind in MULTIPLIES | {"div", "truediv"}
        if not before or not (scaled or kind in ADDS) or (kind in ADDS and len(node.all_input_nodes) < 2):
            return []
        if kind in ADDS and len(before) < len(node.all_input_nodes):
            return []  # a constant may be negative
        found = [self.silent(one) for one in before]
        if not all(found):
            return []
        gates = [len(some) == 1 and self.kind(some[0]) in GATES for some in found]
        return _once(some for some, gate in zip(found, gates, strict=True) if all(gates) or kind in ADDS or not gate)


def _once(lists: Any) -> list[fx.Node]:
    return list(dict.fromkeys(itertools.chain.from_iterable(lists)))
