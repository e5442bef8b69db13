"""Any convolutional network of PyTorch made binary, without rewriting it.

    binary = bbg.binarize(torchvision.models.resnet18(), example=torch.randn(1, 3, 224, 224))
    print(binary.report)                      # what was replaced, kept and why
    binary(images)                            # train it as any other

Every convolution and linear layer `conv` (and the BN behind it) becomes the unit of the method at the same place,

    y = BN( bconv(x) ) + gate * shortcut(x),      bconv(x) = conv( q(x), q(w) ),

and every activation that would leave `q(x) = sign(x)` nothing but +1, as a ReLU does, the method's own. Behind a
max-pool hardly a number is negative either: a BN is added there, which balances the signs again. The rest of the
network stays as it was: its sums, joins, pools and gates.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, fx, nn

from bbg.binarization.network import CLAMPS, POSITIVE, Network, one_sided
from bbg.binarization.report import DEPTHWISE, FIRST, LAST, Row, Surgery
from bbg.errors import BbgError
from bbg.layers import BinaryConv2d, BinaryLinear, Unit, pointwise
from bbg.methods import Method, Pointwise, get


class Binarized(fx.GraphModule):
    """A network that `binarize` has made, with the table of what it did."""

    @property
    def report(self) -> Surgery:
        """What was replaced, kept and why."""
        report: Surgery = self.meta["report"]
        return report


def binarize(
    model: nn.Module,
    method: str | Method = "bbg",
    keep: Iterable[str] = ("first", "last"),
    example: Tensor | None = None,
    act: str | None = None,
) -> Binarized:
    """The network `model` made binary by `method`: a traced module with the parameters of `model`, not copies of them.

    Weights that are loaded before are where the training starts. `example`: images as the network takes them, float
    `[N, C, H, W]`; they give the shapes. `keep`: what stays real-valued. "first" is the layers that read the images,
    "last" those that the output comes from; anything else is a pattern over qualified names, as "*.downsample.*" or
    "features.0", and a module's name stands for all inside. Depthwise convolutions, squeeze-excite, layers that are
    called more than once and those without a binary twin stay real-valued too; the report says which and why. `act`:
    what replaces an activation that is never negative, None for the method's nonlinearity.

    The trace is that of the evaluation mode: what only the training mode does (auxiliary heads) is not in the result,
    but for dropout and layers like it. A linear layer over `[N, H, W, C]` becomes a 1x1 convolution, whose weight is a
    view of the given one's.

    Raises BbgError for a network that torch.fx cannot trace or that does not run on the example, a pattern that fits
    no layer, an unknown or real-valued method, and where nothing is left to binarize.
    """
    chosen = get(method)
    if chosen.weight is None:
        raise BbgError(f"method {chosen.name!r} is real-valued: it binarizes nothing; choose a binary method")
    act = chosen.act if act is None else act
    form = pointwise(act, 1)
    low = form.hinge().low if isinstance(form, Pointwise) else None
    if low is not None and low >= 0:
        raise BbgError(f"act is {act!r}, which is never negative: behind it every sign is +1; choose another")
    came = f"{example.dtype} {list(example.shape)}" if isinstance(example, Tensor) else type(example).__name__
    if not isinstance(example, Tensor) or example.ndim != 4 or not example.is_floating_point() or not example.numel():
        raise BbgError(f"the example is {came}; give example=images, a float tensor [N, C, H, W]")
    if isinstance(model, (nn.Conv2d, nn.Linear)):
        model = nn.Sequential(model)
    network = Network.of(model, example[:1])
    result = _Surgeon(network, chosen, act).operate((keep,) if isinstance(keep, str) else tuple(keep))
    result.meta["report"] = _warned(result.report, one_sided(result, example[:1].clone()))
    return result


def _warned(report: Surgery, one_sided: set[str]) -> Surgery:
    """The report that tells of binary layers which learn nothing of their input."""

    def warned(row: Row) -> Row:
        if row.what != "binary" or one_sided.isdisjoint((row.name, f"{row.name}.conv")):
            return row
        return replace(row, why="; ".join(filter(None, (row.why, "its input has one sign only on the example"))))

    return replace(report, rows=tuple(map(warned, report.rows)))


class _Surgeon:
    """Edits the graph of `network`, and notes what it does."""

    def __init__(self, network: Network, method: Method, act: str) -> None:
        self.network, self.graph, self.method, self.act = network, network.graph, method, act
        self.modules: dict[str, nn.Module] = {}  # the new ones, by qualified name
        self.rows: dict[fx.Node, list[Row]] = {}
        self.order = list(network.graph.nodes)
        self.lost = network.only_in_training()

    def operate(self, keep: tuple[str, ...]) -> Binarized:
        network = self.network
        if not network.calls:
            raise BbgError("the network has no convolution and no linear layer: there is nothing to binarize")
        why = self.kept(keep)
        chosen = [name for name in network.calls if name not in why]
        binary = [name for name in network.calls if why.get(name) == ALREADY]
        if not chosen:
            reasons = "; ".join(f"{name} ({reason})" for name, reason in list(why.items())[:3])
            raise BbgError(f"nothing is left to binarize: every layer is kept, as {reasons}; keep fewer")
        inputs = [network.inputs(network.calls[name][0])[0] for name in [*chosen, *binary]]
        silent = {node for source in inputs for node in network.silent(source)}
        activations = [n for n in self.order if n in silent or (self._is_activation(n) and network.positive(n))]
        stay = {n.target for n in activations if n not in silent}
        for pool in dict.fromkeys(pool for source in inputs for pool in network.largest(source)):
            self.balance(pool)
        for name, calls in network.calls.items():
            macs = sum(map(network.macs, calls))
            what = "binary" if name not in why or why[name] == ALREADY else "kept"
            row = Row(name, network.kind(calls[0]), what, why.get(name, ""), macs)
            self.rows[calls[0]] = [row]
            if name in chosen:
                self.rows[calls[0]] = self.replace_layer(row, calls[0])
        for node in activations:
            if node in silent:
                self.replace_activation(node, stay)
            else:
                self.note(node, network.name(node), "kept", "its values reach no sign, or not alone")
        for node in self.order:
            if network.kind(node) in DROPOUTS and node.op == "call_function":
                self.replace_dropout(node)
        return self.assemble()

    def _is_activation(self, node: fx.Node) -> bool:
        return isinstance(self.network.module(node), Pointwise) or self.network.kind(node) in POSITIVE | CLAMPS

    def note(self, node: fx.Node, name: str, what: str, why: str) -> None:
        self.rows.setdefault(node, []).append(Row(name, self.network.kind(node), what, why))

    # ---- what stays real-valued

    def kept(self, keep: tuple[str, ...]) -> dict[str, str]:
        """The reason of each layer that stays as it is."""
        network, why = self.network, {}
        ends = [
            (FIRST, network.first() if "first" in keep else set()),
            (LAST, network.last() if "last" in keep else set()),
        ]
        patterns = [pattern for pattern in keep if pattern not in ("first", "last")]
        for pattern in patterns:
            if not any(_fits(name, pattern) for name in network.calls):
                near = difflib.get_close_matches(pattern, network.calls, 3, 0.3) or list(network.calls)[:3]
                raise BbgError(f"keep: {pattern!r} fits no convolution or linear layer; near are {', '.join(near)}")
        for name, calls in network.calls.items():
            reasons = [reason for reason, nodes in ends if not nodes.isdisjoint(calls)]
            reasons += [f"kept by {pattern!r}" for pattern in patterns if _fits(name, pattern)]
            reasons += [reason for reason in [self.unfit(calls)] if reason]
            if reasons:
                why[name] = reasons[0]
        return why

    def unfit(self, calls: list[fx.Node]) -> str:
        """Why a layer cannot become binary, if it cannot."""
        network, node = self.network, calls[0]
        layer, kind = network.module(node), network.kind(node)
        source = network.shapes[network.inputs(node)[0]]
        if isinstance(layer, (BinaryConv2d, BinaryLinear)):
            return ALREADY
        if layer is None:
            return f"a call of {kind}: there is no layer to replace"
        if type(layer) not in (nn.Conv2d, nn.Linear):
            return f"{kind} has no binary twin"
        if network.times(node) > 1:
            return f"called {network.times(node)} times"
        if not isinstance(layer.weight, nn.Parameter):
            return "its weight is computed (weight norm, pruning), not a parameter"
        if isinstance(layer, nn.Conv2d) and layer.groups > 1 and layer.groups == layer.in_channels:
            return DEPTHWISE
        if isinstance(layer, nn.Conv2d) and layer.padding_mode != "zeros":
            return f"padding_mode is {layer.padding_mode!r}"
        if isinstance(layer, nn.Linear) and len(source) not in (2, 4):
            return f"its input has {len(source)} dimensions, not 2 or 4"
        return "squeeze-excite: a pooled map that becomes a factor" if network.squeezes(node) else ""

    # ---- what is replaced

    def replace_layer(self, row: Row, node: fx.Node) -> list[Row]:
        """Put the unit in the layer's place, with the BN that directly and solely follows."""
        network, layer = self.network, self.network.module(node)
        assert isinstance(layer, (nn.Conv2d, nn.Linear))
        source = network.inputs(node)[0]
        whole = isinstance(layer, nn.Linear) and len(network.shapes[source]) == 4
        norm, follower = None, next(iter(node.users), None)
        if follower is not None and len(node.users) == 1 and not whole:
            behind = network.module(follower)
            fits = isinstance(behind, (nn.BatchNorm2d, nn.BatchNorm1d)) and network.times(follower) == 1
            norm = behind if fits else None
        if whole:
            assert isinstance(layer, nn.Linear)
            layer = _as_conv(layer)
        shape = network.flattened(source) if isinstance(layer, nn.Linear) else None
        unit = self.modules[row.name] = Unit.around(layer, norm, method=self.method, shape=shape)
        if norm is not None and follower is not None:
            follower.replace_all_uses_with(node)
            self.graph.erase_node(follower)
            return [Row(row.name, row.layer, "binary", f"{follower.target} goes inside", row.macs)]
        if whole:
            self.in_axis(node, source, 3)
        added = Row(f"{row.name}.norm", type(unit.norm).__name__, "added", "no BN followed")
        return [Row(row.name, row.layer, "binary", "a 1x1 convolution" if whole else "", row.macs), added]

    def balance(self, pool: fx.Node) -> None:
        """A BN behind a max-pool: the largest of some numbers is rarely negative, and the next sign would be +1."""
        name = self.free(f"{self.network.name(pool)}_norm", False)
        like = self.like()
        norm = nn.BatchNorm2d(self.network.shapes[pool][1], device=like.device, dtype=like.dtype)
        norm.training = self.network.model.training
        self.modules[name] = norm
        self.rows.setdefault(pool, []).append(Row(name, "BatchNorm2d", "added", "a max-pool before a sign"))
        with self.graph.inserting_after(pool):
            new = self.graph.create_node("call_module", name, (pool,))
        pool.replace_all_uses_with(new, delete_user_cb=lambda user: user is not new)
        self.network.add(new, pool)

    def in_axis(self, node: fx.Node, source: fx.Node, axis: int) -> None:
        """Bring the channels of the node's input to axis 1, and those of its output back."""
        rank = len(self.network.shapes[source])
        there = [0, axis, *(i for i in range(1, rank) if i != axis)]
        back = [there.index(i) for i in range(rank)]
        with self.graph.inserting_before(node):
            moved = self.graph.call_function(torch.permute, (source, tuple(there)))
        node.args, node.kwargs = (moved,), {}
        with self.graph.inserting_after(node):
            result = self.graph.call_function(torch.permute, (node, tuple(back)))
        for new, like in ((moved, source), (result, node)):
            self.network.add(new, like)
        node.replace_all_uses_with(result, delete_user_cb=lambda user: user is not result)

    def replace_activation(self, node: fx.Node, stay: set[Any]) -> None:
        """Put the method's nonlinearity in the place of the call, a new one for each call."""
        network = self.network
        source = network.inputs(node)[0]
        axis = network.axis[source]
        before = network.module(node)
        module = pointwise(self.act, network.shapes[source][axis]).to(self.like())
        module.training = network.model.training if before is None else before.training
        name = self.free(network.name(node), node.op == "call_module" and node.target not in stay)
        self.note(node, name, "replaced", f"never negative: {self.act}")
        new = self.put(node, source, name, module)
        if axis != 1:
            self.in_axis(new, source, axis)

    def replace_dropout(self, node: fx.Node) -> None:
        """A call of dropout, which the trace has switched off, becomes a layer that follows the mode."""
        network = self.network
        given: dict[str, Any] = dict(zip(("p", "training"), node.args[1:], strict=False)) | node.kwargs
        if given.get("training", True):
            return  # active in both modes: the network's own affair
        layer = DROPOUTS[network.kind(node)](given.get("p", 0.5))
        path = network.model.get_submodule(network.path(node))
        layer.training = path.training
        name = self.free(network.name(node), False)
        self.note(node, name, "replaced", f"a call becomes {type(layer).__name__}, which follows the mode")
        self.put(node, network.inputs(node)[0], name, layer)

    def put(self, node: fx.Node, source: fx.Node, name: str, module: nn.Module) -> fx.Node:
        """A call of the new `module` in the place of `node`."""
        self.modules[name] = module
        with self.graph.inserting_before(node):
            new = self.graph.create_node("call_module", name, (source,))
        self.network.add(new, node)
        node.replace_all_uses_with(new)
        self.graph.erase_node(node)
        return new

    def like(self) -> Tensor:
        return next(self.network.model.parameters())

    def free(self, name: str, own: bool) -> str:
        """`name`, or one like it that nothing has; `own`: it may be that of the module that goes."""
        model = self.network.model
        taken = {n for n, _ in (*model.named_modules(), *model.named_parameters(), *model.named_buffers())}
        free, i = name, 0
        while free in self.modules or (free in taken and not (own and free == name)):
            i += 1
            free = f"{name}_{i}"
        return free

    # ---- the result

    def assemble(self) -> Binarized:
        """The traced module; all its parts have the mode that they had."""
        model, constants, places = self.network.model, self.network.constants, dict[str, Any](self.modules)
        for node in self.graph.nodes:
            if node.op in ("call_module", "get_attr") and node.target not in places:
                known = node.target in constants
                places[node.target] = constants[node.target] if known else _attribute(model, node.target)
        result = Binarized(places, self.graph, type(model).__name__)
        result.training = model.training
        for name, module in model.named_modules():
            if name and any(place.startswith(f"{name}.") for place in places):
                result.get_submodule(name).training = module.training
        rows = [row for node in self.order for row in self.rows.get(node, ())]
        result.meta["report"] = Surgery(self.method.name, (*rows, *self.dropped()))
        return result

    def dropped(self) -> list[Row]:
        """What the evaluation mode does not do: the outermost modules with parameters that it does not reach, and more.

        Not told are dropout and layers like it, which stay.
        """
        met = {str(node.target) for node in self.order if node.op in ("call_module", "get_attr")}
        rows: list[Row] = []
        for name, module in self.network.model.named_modules():
            around = any(name.startswith(f"{row.name}.") for row in rows if row.name)
            reached = any(f"{place}.".startswith(f"{name}.") or name.startswith(f"{place}.") for place in met)
            if around or not (name in self.lost or (name and not reached and any(True for _ in module.parameters()))):
                continue
            why = "it does more in training mode" if not name or reached else "not reached in evaluation mode"
            rows.append(Row(name, type(module).__name__, "dropped", why))
        return rows


ALREADY = "it was binary"
DROPOUTS: dict[str, type[nn.Module]] = {
    "dropout": nn.Dropout,
    "dropout1d": nn.Dropout1d,
    "dropout2d": nn.Dropout2d,
    "dropout3d": nn.Dropout3d,
    "alpha_dropout": nn.AlphaDropout,
    "feature_alpha_dropout": nn.FeatureAlphaDropout,
}


def _fits(name: str, pattern: str) -> bool:
    return fnmatchcase(name, pattern) or fnmatchcase(name, f"{pattern}.*")


def _attribute(model: nn.Module, path: str) -> Any:
    value: Any = model
    for part in path.split("."):
        value = getattr(value, part)
    return value


def _as_conv(layer: nn.Linear) -> nn.Conv2d:
    """The 1x1 convolution that does the same over `[N, C, H, W]`; its weight is a view of the layer's."""
    conv = nn.Conv2d(layer.in_features, layer.out_features, 1, bias=False, device="meta").train(layer.training)
    weight = layer.weight
    conv.weight = nn.Parameter(weight.detach()[:, :, None, None], requires_grad=weight.requires_grad)
    conv.bias = layer.bias
    return conv
