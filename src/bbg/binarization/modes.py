"""What a network does in one mode only, brought into the graph of its evaluation mode.

A trace answers `if self.training` for good, with the mode that the network is in. So the network is traced in both
modes, and the two graphs are laid side by side, in the order of the forward.

Calls that both have, but for the flag `training`, become layers, which follow the mode: `F.batch_norm`, `F.dropout`.
Where else a call reads one value in evaluation mode and another one in training mode, a `ByMode` computes both from a
value that the modes share:

    evaluation      x ------------------> conv          x --> softmax --> output
    training        x --> drop, scale --> conv          x --------------> output
    afterwards      x -----> ByMode ----> conv          x --> ByMode ---> output

What the training mode computes for outputs of its own, as auxiliary heads do, is left out, and the report says so.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterator
from typing import Any

import torch.nn.functional as F
from torch import fx, nn

from bbg.binarization.by_mode import ByMode
from bbg.binarization.network import TracedNetwork, traced
from bbg.binarization.report import LayerRow
from bbg.errors import BbgError
from bbg.tracing.state import kept
from bbg.tracing.tracer import Trace, in_mode
from bbg.tracing.vocabulary import Trait, op_of

Rows = dict[fx.Node, LayerRow]


def follow_modes(network: TracedNetwork) -> tuple[Rows, set[str]]:
    """Make the graph of `network`, traced in evaluation mode, do in training mode what the network does there.

    Gives rows of the report by the new nodes, and the modules of which calls in training mode are left out. Where the
    training mode cannot be traced (`network.untraceable`), calls with `training=False` are taken to follow the mode:
    the proof decides whether they do.
    BbgError names the module where the modes differ in a way that cannot be followed.
    """
    try:
        with in_mode(network.model, True), kept(network.model):
            there = traced(network.model, network.images)
    except BbgError as error:
        network.untraceable = error
        return _layers_of_calls(network, {}), set()
    network.decisions += there.decisions
    pairs = _side_by_side(network, there)
    rows = _layers_of_calls(network, pairs)
    joined = _Join(network, there, pairs)
    return rows | joined.run(), joined.left_out()


def _side_by_side(network: TracedNetwork, there: Trace) -> dict[fx.Node, fx.Node]:
    """The call in training mode for each node of the evaluation mode that has one at its place."""
    nodes = [list(trace.graph.nodes) for trace in (network.trace, there)]
    modules = dict(network.model.named_modules(remove_duplicate=False))

    def key(node: fx.Node, trace: Trace) -> Any:
        if node.op == "get_attr" and node.target in trace.constants:
            return node.op, repr(trace.constants[str(node.target)])
        flagged = node.op == "output" or becomes_layer(node, modules)
        constants = None if flagged else repr(fx.node.map_arg((node.args, node.kwargs), lambda _: None))
        return node.op, str(node.target), network.path(node), constants

    mine, others = ([key(n, trace) for n in some] for some, trace in zip(nodes, (network.trace, there), strict=True))
    blocks = difflib.SequenceMatcher(None, mine, others, autojunk=False).get_matching_blocks()
    return {nodes[0][i + k]: nodes[1][j + k] for i, j, length in blocks for k in range(length)}


# ---- calls that become layers


def becomes_layer(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    """Whether a node calls a function with a flag for the mode that is a layer's too."""
    op = op_of(node, modules)
    return node.op == "call_function" and (
        node.target is F.batch_norm or (op is not None and Trait.DROPOUT in op and bool(op.modules))
    )


def _layers_of_calls(network: TracedNetwork, pairs: dict[fx.Node, fx.Node]) -> Rows:
    rows: Rows = {}
    modules = dict(network.model.named_modules(remove_duplicate=False))
    for node in list(network.trace.graph.nodes):
        if not becomes_layer(node, modules):
            continue
        given = _arguments(node)
        in_training = _arguments(pairs[node])["training"] if node in pairs else not pairs
        if given["training"] or not in_training or node not in network.live:
            continue  # the same in both modes: the network's own affair
        kind = network.kind(node)
        if node.target is F.batch_norm:
            path = _owner_of_statistics(given)
            if path is None:
                continue
            layer, name = _batch_norm(network, node, given, path), network.unique_name(path, own=True)
        else:
            op = op_of(node, modules)
            assert op is not None
            layer, name = op.modules[0](given["p"]), network.unique_name(network.name(node))
            layer.training = network.model.get_submodule(network.path(node)).training
        why = f"a call becomes {type(layer).__name__}, which follows the mode"
        network.owners[name] = network.path(node)
        new = network.replace_call(node, network.inputs(node)[0], name, layer)
        rows[new] = LayerRow(name, kind, "replaced", why)
        if node in pairs:
            pairs[new] = pairs.pop(node)
    return rows


def _arguments(node: fx.Node) -> dict[str, Any]:
    """The arguments of a dropout or a batch norm, by the names of `torch.nn.functional`."""
    assert callable(node.target)
    try:
        bound = inspect.signature(node.target).bind(*node.args, **node.kwargs)
    except ValueError:  # a builtin of torch, as `torch.dropout(input, p, train)`: it has no signature
        return dict(zip(("input", "p", "training"), node.args, strict=False)) | {
            {"train": "training"}.get(name, name): value for name, value in node.kwargs.items()
        }
    bound.apply_defaults()
    return bound.arguments


_NORM_PARTS = ("running_mean", "running_var", "weight", "bias")


def _owner_of_statistics(given: dict[str, Any]) -> str | None:
    """The module that all statistics and parameters of a called batch norm are of; None: then the call stays."""
    parts = [given[name] for name in _NORM_PARTS if given[name] is not None]
    if given["running_mean"] is None or (given["weight"] is None) != (given["bias"] is None):
        return None
    if not all(isinstance(part, fx.Node) and part.op == "get_attr" for part in parts):
        return None
    owners = {str(part.target).rpartition(".")[0] for part in parts}
    return owners.pop() if len(owners) == 1 else None


def _batch_norm(network: TracedNetwork, node: fx.Node, given: dict[str, Any], path: str) -> nn.Module:
    """The layer with the very parameters and statistics that the call is given: those of the module `path`."""
    owner = network.model.get_submodule(path)
    shape = network.shapes[network.inputs(node)[0]]
    build = nn.BatchNorm2d if len(shape) == 4 else nn.BatchNorm1d
    # A module without a momentum gives the call one that changes with each step, so that it becomes the mean of all.
    momentum = given["momentum"] if getattr(owner, "momentum", 0.0) is not None else None
    layer = build(shape[1], given["eps"], momentum, affine=given["weight"] is not None)
    for name in _NORM_PARTS:
        if given[name] is not None:
            setattr(layer, name, network.attribute(given[name]))
    layer.num_batches_tracked = getattr(owner, "num_batches_tracked", None)
    layer.training = owner.training
    return layer


# ---- what else differs


class _Join:
    """Puts a `ByMode` at each place where the modes differ. `pairs`: the nodes that both have."""

    def __init__(self, network: TracedNetwork, there: Trace, pairs: dict[fx.Node, fx.Node]) -> None:
        self.network, self.there, self.pairs = network, there, pairs
        self.places = {other: mine for mine, other in pairs.items()}
        self.used: set[fx.Node] = set()
        self.rows: Rows = {}

    def run(self) -> Rows:
        """Rewrite the graph; gives a row for each `ByMode`."""
        made: dict[tuple[fx.Node, fx.Node], fx.Node] = {}
        for node, other in list(self.pairs.items()):
            changed: dict[int, fx.Node] = {}
            for at, (reads, reads_there) in self._side_by_side(node, other):
                if self.pairs.get(reads) is not reads_there:
                    if (reads, reads_there) not in made:
                        made[reads, reads_there] = self._insert(reads, reads_there)
                    changed[at] = made[reads, reads_there]
            if changed:
                node.args, node.kwargs = _with_nodes((node.args, node.kwargs), changed)
        graph = self.network.trace.graph
        for node in reversed(list(graph.nodes)):  # what now stands in the body of a ByMode
            if node not in self.pairs and node.op.startswith("call") and not node.users and node in self.used:
                graph.erase_node(node)
                self.network.forget(node)
        return self.rows

    def left_out(self) -> set[str]:
        """The modules of whose forwards calls in training mode are left out."""
        over = [node for node in self.there.graph.nodes if node not in self.places and node not in self.used]
        return {self.network.path(node) for node in over if node.op.startswith("call") and node.users}

    def _side_by_side(self, node: fx.Node, other: fx.Node) -> Iterator[tuple[int, tuple[fx.Node, fx.Node]]]:
        """The nodes that two calls at the same place read, with their number among those of the first."""
        mine, others = (_nodes((one.args, one.kwargs)) for one in (node, other))
        if node.op == "output" and mine and self.pairs.get(mine[0]) not in others:
            if isinstance(others[0].target, type):  # a named tuple: what it is made of
                others = _nodes((others[0].args, others[0].kwargs))
            if len(mine) != len(others):  # more outputs in training mode
                others = [self.pairs[one] if self.pairs.get(one) in others else others[0] for one in mine]
        yield from enumerate(zip(mine, others, strict=False))

    def _insert(self, reads: fx.Node, reads_there: fx.Node) -> fx.Node:
        """The new node, which gives the one value or the other."""
        network = self.network
        here, sources = self._region(reads, self.pairs)
        there, sources_there = self._region(reads_there, self.places)
        sources |= {self.places[node] for node in sources_there}
        path = network.path([*there, *here, reads][-1])
        if len(sources) != 1:
            raise BbgError(
                f"{path or 'the network'} ({type(network.model.get_submodule(path)).__name__}): its forward computes "
                "something else in training mode than in evaluation mode, of more than one tensor; write what differs "
                "as a function of one tensor, or as a module of its own"
            )
        (source,) = sources
        self.used |= {*here, *there}
        name = network.unique_name(f"{path}.by_mode".lstrip("."))
        module = ByMode(
            self.there.body(there, self.pairs[source], reads_there) if there else None,
            network.trace.body(here, source, reads) if here else None,
        )
        module.train(network.model.get_submodule(path).training)
        calls = ", ".join(dict.fromkeys(network.kind(n) for n in (*there, *here) if n.op.startswith("call")))
        network.owners[name] = path
        new = network.insert_call(source, reads, name, module)
        self.rows[new] = LayerRow(name, "ByMode", "added", f"it follows the mode: {calls}")
        return new

    def _region(self, node: fx.Node, known: dict[fx.Node, fx.Node]) -> tuple[list[fx.Node], set[fx.Node]]:
        """What `node` is computed by from what both modes have, in order; and the tensors among the latter."""
        region: dict[fx.Node, None] = {}
        sources: set[fx.Node] = set()

        def visit(one: fx.Node) -> None:
            mine = one if known is self.pairs else self.places.get(one)
            if one in known and mine in self.network.live:
                sources.add(one)
            elif one not in region:
                for before in one.all_input_nodes:
                    visit(before)
                region[one] = None

        visit(node)
        return list(region), sources


def _nodes(arguments: Any) -> list[fx.Node]:
    found: list[fx.Node] = []
    fx.node.map_arg(arguments, found.append)
    return found


def _with_nodes(arguments: Any, changed: dict[int, fx.Node]) -> Any:
    """The arguments of a call with other nodes at some places, by their number."""
    count = iter(range(len(_nodes(arguments))))
    return fx.node.map_arg(arguments, lambda node: changed.get(next(count), node))
