"""The maps of a classifier: what some of its layers give, by their names. What comes behind the last of them is gone.

eyes = maps_of(net, ("layer2", "layer3"), torch.zeros(1, 3, 224, 224))
eyes(images)                     # (the output of layer2, the output of layer3)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches

import torch
from torch import Tensor, fx, nn

from bbg.errors import BbgError, first_line
from bbg.tracing.in_place import read_results_of_in_place_calls, works_in_place
from bbg.tracing.state import kept
from bbg.tracing.tracer import Trace, Tracer, in_mode
from bbg.tracing.unseen import refuse_unseen

ADVICE = "name layers outside of it, or write it without branches on tensors"
MOST = 8  # names that an error lists


def maps_of(backbone: nn.Module, layers: Sequence[str], example: Tensor) -> fx.GraphModule:
    """What gives, of images like `example`, the outputs of the modules of `backbone` that are called `layers`: a tuple.

    It has the modules that these outputs need, the very same ones, under their names; no others. What stands between
    them is that of the evaluation mode. BbgError for names that are none, or are not called once, and for an output
    that is no map `[N, C, H, W]`.
    """
    refuse_unseen(backbone)
    names = _named(backbone, layers)
    with in_mode(backbone, False):
        trace, results = (
            _of_graph(backbone, names) if isinstance(backbone, fx.GraphModule) else _traced(backbone, names, example)
        )
        for name, node in zip(names, results, strict=True):
            _refuse_changed(trace, name, node)
        found = _cut(trace, results)
    _check_maps(found, names, example)
    return found


def _named(backbone: nn.Module, layers: Sequence[str]) -> tuple[str, ...]:
    """The names, where each is one of the backbone's."""
    if isinstance(layers, str):
        raise BbgError(f"layers is {layers!r}; give a sequence of names, as ({layers!r},)")
    known = [name for name, _ in backbone.named_modules(remove_duplicate=False) if name]
    if not layers:
        raise BbgError(f"layers is empty; name those whose maps are read, as {', '.join(map(repr, known[-MOST:]))}")
    for name in layers:
        if name not in known:
            close = get_close_matches(str(name), known, MOST) or [one for one in known if "." not in one][:MOST]
            raise BbgError(
                f"the backbone has no layer {name!r}; near that are {', '.join(map(repr, close)) or 'none'} "
                "(named_modules() lists all)"
            )
    if twice := next((name for name in layers if list(layers).count(name) > 1), None):
        raise BbgError(f"layers names {twice!r} twice; each map is read once")
    return tuple(layers)


class _Reading(Tracer):
    """Traces what is around the modules `wanted`, and notes what these give; all others are one call each."""

    def __init__(self, example: Tensor, backbone: nn.Module, wanted: Sequence[str]) -> None:
        parts = [name.split(".") for name in wanted]
        around = {backbone} | {backbone.get_submodule(".".join(p[:n])) for p in parts for n in range(1, len(p))}
        super().__init__(example, lambda module: module not in around)
        self.around = around
        self.wanted: Mapping[nn.Module, str] = {backbone.get_submodule(name): name for name in wanted}
        self.given: dict[str, list[object]] = {name: [] for name in self.wanted.values()}

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return m not in self.around and super().is_leaf_module(m, module_qualified_name)

    def call_module(self, m: nn.Module, forward: object, args: tuple[object, ...], kwargs: dict[str, object]) -> object:
        result = super().call_module(m, forward, args, kwargs)
        if m in self.wanted and not self._computing:
            self.given[self.wanted[m]].append(result)
        return result


def _traced(backbone: nn.Module, names: Sequence[str], example: Tensor) -> tuple[Trace, list[fx.Node]]:
    """The trace of the backbone, and the node that each of the layers gives."""
    tracer = _Reading(example, backbone, names)
    trace = tracer.run(backbone, ADVICE)
    results = []
    for name in names:
        given = tracer.given.get(name, [])
        if len(given) != 1:
            called = f"called {len(given)} times" if given else "not called by the backbone's forward"
            raise BbgError(f"layer {name!r} is {called}, and only one that is called once has one map; name another")
        if not isinstance(given[0], fx.Proxy):
            raise BbgError(f"layer {name!r} gives a {type(given[0]).__name__}, no map [N, C, H, W]; name another")
        results.append(given[0].node)
    read_results_of_in_place_calls(trace)
    return trace, results


def _of_graph(backbone: fx.GraphModule, names: Sequence[str]) -> tuple[Trace, list[fx.Node]]:
    """The same of a module that is traced already, whose graph says of each call the modules that it was made in."""
    results = []
    for name in names:
        inside = [node for node in backbone.graph.nodes if _is_in(node, name)]
        if not inside:
            raise BbgError(f"layer {name!r} is not called by the backbone's forward any more; name another")
        results.append(inside[-1])
    return Trace(backbone, backbone.graph, (), {}), results


def _is_in(node: fx.Node, name: str) -> bool:
    """Whether the call is one of the module `name`, or was made inside of it."""
    stack = [str(entry[0]) for entry in (node.meta.get("nn_module_stack") or {}).values()]
    called = node.op == "call_module" and f"{node.target}.".startswith(f"{name}.")
    return called or name in stack


def _refuse_changed(trace: Trace, name: str, result: fx.Node) -> None:
    """BbgError where a later call writes into what the layer gives."""
    modules = dict(trace.model.named_modules(remove_duplicate=False))
    for node in trace.graph.nodes:
        module = modules.get(str(node.target)) if node.op == "call_module" else None
        writes = bool(node.args) and node.args[0] is result and works_in_place(node, module)
        if writes or result in node.meta.get("changed", ()):
            raise BbgError(f"what layer {name!r} gives is changed in place by {node.target}; name that one")


def _cut(trace: Trace, results: Sequence[fx.Node]) -> fx.GraphModule:
    """The part of the graph that the results need."""
    needed, todo = set(), list(results)
    while todo:
        node = todo.pop()
        if node not in needed:
            needed.add(node)
            todo += node.all_input_nodes
    graph, copies = fx.Graph(), dict[fx.Node, fx.Node]()
    for node in trace.graph.nodes:
        if node in needed or node.op == "placeholder":
            copies[node] = graph.node_copy(node, lambda one: copies[one])
    graph.output(tuple(copies[node] for node in results))
    return Trace(trace.model, graph, trace.decisions, trace.constants).module()


def _check_maps(module: fx.GraphModule, names: Sequence[str], example: Tensor) -> None:
    """BbgError where the backbone does not run on the example, or an output is no map."""
    for name, given in zip(names, run(module, example), strict=True):
        if not isinstance(given, Tensor) or given.ndim != 4:
            came = list(given.shape) if isinstance(given, Tensor) else f"a {type(given).__name__}"
            raise BbgError(f"layer {name!r} gives {came}, no map [N, C, H, W]; name one before its map is pooled away")


def run(module: nn.Module, example: Tensor) -> tuple[Tensor, ...]:
    """What `module` gives, in evaluation mode, where its parameters are; BbgError where it cannot run."""
    device = next((tensor.device for tensor in (*module.parameters(), *module.buffers())), example.device)
    try:
        with torch.no_grad(), in_mode(module, False), kept(module):
            found: tuple[Tensor, ...] = module(example.to(device))
    except Exception as error:  # whatever torch or the forward of a stranger raises
        came = f"the backbone cannot run on images {list(example.shape)} ({first_line(error)})"
        raise BbgError(f"{came}; give the size and channels of images that it takes") from error
    return found
