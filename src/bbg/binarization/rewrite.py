"""Any convolutional network of PyTorch made binary, without rewriting it.

    binary = bbg.binarize(torchvision.models.resnet18(), example=torch.randn(1, 3, 224, 224))
    print(binary.report)                      # what was replaced, kept and why
    binary(images)                            # train it as any other

Every convolution and linear layer `conv` (and the BN behind it) becomes the unit of the method at the same place,

    y = BN( bconv(x) ) + gate * shortcut(x),      bconv(x) = conv( q(x), q(w) ),

and every activation that would leave `q(x) = sign(x)` nothing but +1, as a ReLU does, the method's own. Behind a
max-pool hardly a number is negative either, nor wherever else a run of the network shows it: a BN is added there, which
balances the signs again. The rest of the network stays as it was: its sums, joins, pools and gates.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from bbg.binarization.binarized import Binarized
from bbg.binarization.containers import containers_of, restore
from bbg.binarization.float_self import FloatSelf
from bbg.binarization.modes import follow_modes
from bbg.binarization.network import TracedNetwork
from bbg.binarization.one_sign import constant_sign_layers, unbalanced_inputs
from bbg.binarization.proof import Proof, Real, RealUnit, prove
from bbg.binarization.report import ACTIONS, BinarizeReport, LayerRow
from bbg.binarization.signs import SignFlow
from bbg.binarization.widths import BINARY, BYTES, widths
from bbg.errors import BbgError
from bbg.layers import Bits, ByteConv2d, ByteLinear, FixedSize, Unit, pointwise
from bbg.layers.bits import rules_of
from bbg.methods import Method, Pointwise, get
from bbg.tracing.neutral import refuse_untrainable, single_threaded
from bbg.tracing.tracer import in_mode
from bbg.tracing.unseen import refuse_unseen


def binarize(
    model: nn.Module,
    method: str | Method = "bbg",
    keep: Iterable[str] = ("first", "last"),
    example: Tensor | None = None,
    act: str | None = None,
    *,
    bits: Bits | None = None,
) -> Binarized:
    """The network `model` made binary by `method`: a traced module with the parameters of `model`, not copies of them.

    Weights that are loaded before are where the training starts. `example`: images as the network takes them, float
    `[N, C, H, W]`; they give the shapes. `keep`: what stays real-valued. "first" is the layers that read the images,
    "last" those that the output comes from; anything else is a pattern over qualified names, as "*.downsample.*" or
    "features.0", and a module's name stands for all inside. Depthwise convolutions, squeeze-excite, layers that are
    called more than once and those without a binary twin stay real-valued too; the report says which and why. The first
    two may have 8 bits. `act`:
    what replaces an activation that is never negative, None for the method's nonlinearity.

    `bits`: the width of layers, 1, 8 or 32 (real-valued), one number for all or by pattern, the first that fits:
    `{"layer1.*": 8, "layer4.*": 1, "last": 8}`. It goes before `keep`; a layer that neither names has 1 bit. One that
    cannot have 1 or 8 bits stays real-valued, with the reason in the report. A layer of 8 bits stands where it stood,
    in torch's place (`bbg.layers.ByteConv2d`); activations before it stay.

    A detector keeps its head, the attribute `detection`: it is trained and converted as the given one.

    Outputs of the training mode alone (auxiliary heads) are not in the result. A linear layer over `[N, H, W, C]`
    becomes a 1x1 convolution, whose weight is a view of the given one's.

    What is done under `if self.training` stays so. The result is proved: with all undone that was changed on purpose,
    it gives the outputs, gradients and running statistics of `model` on two images of the example (`report.proof`).

    Where a forward decides by the size of its maps (`if x.shape[2] % 8`), the result is for images of the example's
    size: it refuses others, and the report names the module.

    Raises BbgError for a network that cannot be traced for any number of images, that does not run on the example in
    either mode, or for which the proof fails (the module is named); for a pattern that fits no layer, an unknown or
    real-valued method, and where nothing is left to binarize.
    """
    chosen, rules = get(method), rules_of(bits)
    if chosen.weight is None and not rules:
        raise BbgError(f"method {chosen.name!r} is real-valued: it binarizes nothing; choose a binary method")
    act = chosen.act if act is None else act
    form = pointwise(act, 1)
    low = form.hinge().low if isinstance(form, Pointwise) else None
    if chosen.weight is not None and low is not None and low >= 0:
        raise BbgError(f"act is {act!r}, which is never negative: behind it every sign is +1; choose another")
    came = f"{example.dtype} {list(example.shape)}" if isinstance(example, Tensor) else type(example).__name__
    if not isinstance(example, Tensor) or example.ndim != 4 or not example.is_floating_point() or not example.numel():
        raise BbgError(f"the example is {came}; give example=images, a float tensor [N, C, H, W]")
    if isinstance(model, (nn.Conv2d, nn.Linear)):
        model = nn.Sequential(model)
    refuse_unseen(model)
    refuse_untrainable(model)
    with single_threaded(grad=True):
        network = TracedNetwork.of(model, example.clone())
        rewriter = Rewriter(network, chosen, act)
        result = rewriter.run((keep,) if isinstance(keep, str) else tuple(keep), rules)
        undone = rewriter.undo(result)
        result.meta["report"] = replace(result.report, proof=rewriter.proof(result, undone, example))
        result.meta["detection"] = getattr(model, "detection", None)
        result.meta["float_self"] = FloatSelf(undone)
        result.meta["report"] = _with_warnings(result.report, constant_sign_layers(result, network.images))
    return result


def _with_warnings(report: BinarizeReport, constant: set[str]) -> BinarizeReport:
    """The report that tells of binary layers which learn nothing of their input."""

    def warned(row: LayerRow) -> LayerRow:
        if row.action != "binary" or constant.isdisjoint((row.name, f"{row.name}.conv")):
            return row
        return replace(row, why="; ".join(filter(None, (row.why, "its input has one sign only on the example"))))

    return replace(report, rows=tuple(map(warned, report.rows)))


class Rewriter:
    """Rewrites the graph of `network`, and records what it does."""

    def __init__(self, network: TracedNetwork, method: Method, act: str) -> None:
        self.network, self.graph, self.method, self.act = network, network.trace.graph, method, act
        by_mode, self.lost = follow_modes(network)
        self.signs = SignFlow(network)
        self.modules = network.added
        self.undone: dict[str, nn.Module] = {}  # what stands in the proof at the places of new modules
        self.twins: dict[str, nn.Parameter] = {}  # parameters that are views of the model's, by the names of these
        self.rows = {node: [row] for node, row in by_mode.items()}
        self.order = list(self.graph.nodes)

    def run(self, keep: tuple[str, ...], rules: Mapping[str, int]) -> Binarized:
        """Decide by the facts of the network first, then rewrite it."""
        network, signs = self.network, self.signs
        if not network.calls:
            raise BbgError("the network has no convolution and no linear layer: there is nothing to binarize")
        width = widths(network, keep, rules)
        chosen = [name for name, (bits, why) in width.items() if bits == 1 and why != BINARY]
        binary = [name for name, (bits, why) in width.items() if why == BINARY]
        if chosen and self.method.weight is None:
            raise BbgError(
                f"method {self.method.name!r} has no layers of 1 bit, as {chosen[0]!r} would be; choose a binary "
                "method, or give it 8 or 32 bits"
            )
        if not chosen and not any(bits == 8 and why != BYTES for bits, why in width.values()):
            reasons = "; ".join(f"{name} ({why})" for name, (_, why) in list(width.items())[:3])
            raise BbgError(f"nothing is left to binarize: every layer is kept, as {reasons}; keep fewer")
        inputs = [source for name in [*chosen, *binary] for source in network.inputs(network.calls[name][0])[:1]]
        blamed = {node for source in inputs for node in signs.nonnegative_sources(source)}
        pools = dict.fromkeys(pool for source in inputs for pool in signs.max_pool_sources(source))
        activations = [node for node in self.order if signs.is_nonnegative_activation(node)]
        staying = {node.target for node in activations if node not in blamed}
        for pool in pools:
            self.insert_batch_norm(pool, "a max-pool before a sign")
        for name, calls in network.calls.items():
            bits, why = width[name]
            macs = sum(map(network.macs, calls))
            row = LayerRow(name, network.kind(calls[0]), ACTIONS[bits], why, macs, bits)
            self.rows[calls[0]] = self.replace_layer(row, calls[0]) if name in chosen else [row]
            if bits == 8 and why != BYTES:
                self.round_layer(name, calls[0])
        for node in activations:
            if node in blamed:
                self.replace_activation(node, staying)
            else:
                gate = signs.is_gate(node)
                why_kept = "a gate: it gives shares" if gate else "its values reach no sign, or not alone"
                self.record(node, network.name(node), "kept", why_kept)
        if network.decisions:
            self.fix_size()
        return self.balance(self.assemble(), chosen)

    def record(self, node: fx.Node, name: str, action: str, why: str) -> None:
        """Add a row for what became of the call `node`."""
        self.rows.setdefault(node, []).append(LayerRow(name, self.network.kind(node), action, why))

    # ---- what is replaced

    def replace_layer(self, row: LayerRow, node: fx.Node) -> list[LayerRow]:
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
            self.twins[f"{row.name}.weight"] = layer.weight  # type: ignore[assignment]
        shape = network.flattened(source) if isinstance(layer, nn.Linear) else None
        unit = self.modules[row.name] = Unit.around(layer, norm, method=self.method, shape=shape)
        self.undone[row.name] = RealUnit(unit, norm)
        if norm is not None and follower is not None:
            follower.replace_all_uses_with(node)
            self.graph.erase_node(follower)
            return [LayerRow(row.name, row.layer, "binary", f"{follower.target} goes inside", row.macs, 1)]
        if whole:
            self.permute_around(node, source, 3)
        added = LayerRow(f"{row.name}.norm", type(unit.norm).__name__, "added", "no BN followed")
        return [LayerRow(row.name, row.layer, "binary", "a 1x1 convolution" if whole else "", row.macs, 1), added]

    def round_layer(self, name: str, node: fx.Node) -> None:
        """Put the 8-bit twin in the layer's place."""
        network, layer = self.network, self.network.module(node)
        if isinstance(layer, nn.Linear):
            shape = network.flattened(network.inputs(node)[0])
            self.modules[name] = ByteLinear.of(layer, None if shape is None else shape[0])
        else:
            assert isinstance(layer, nn.Conv2d)
            self.modules[name] = ByteConv2d.of(layer)
        self.undone[name] = Real(self.modules[name])

    def insert_batch_norm(self, node: fx.Node, why: str) -> None:
        """A BN behind a node where hardly a number is negative: every next sign would be +1."""
        name = self.network.unique_name(f"{self.network.name(node)}_norm")
        like, shape = self.like(), self.network.shapes[node]
        kind = nn.BatchNorm2d if len(shape) == 4 else nn.BatchNorm1d
        norm = kind(shape[1], device=like.device, dtype=like.dtype)
        norm.training = self.network.model.training
        self.undone[name] = nn.Identity()
        self.rows.setdefault(node, []).append(LayerRow(name, kind.__name__, "added", why))
        new = self.network.insert_call(node, node, name, norm)
        node.replace_all_uses_with(new, delete_user_cb=lambda user: user is not new)

    def balance(self, result: Binarized, chosen: list[str]) -> Binarized:
        """The result with a BN wherever a run shows that a binary layer would see one sign, nearly, and no other."""
        network = self.network
        sources = {network.inputs(node)[0] for name in chosen for node in network.calls[name]}
        movable = {node.name: node for node in sources if self.can_be_normed(node)}
        found = unbalanced_inputs(result, network.images, movable)
        for name in found:
            self.insert_batch_norm(movable[name], "one sign only, nearly, without it")
        return self.assemble() if found else result

    def can_be_normed(self, node: fx.Node) -> bool:
        """Whether a BN can stand behind the node: it is a map, or features, that the network computes."""
        network = self.network
        ranks = len(network.shapes[node]) in (2, 4) and network.channel_axis[node] == 1
        return ranks and node.op != "placeholder" and node in network.live

    def fix_size(self) -> None:
        """Refuse images of another size than the example: what the forwards decided by it is in the graph for good."""
        images = next(node for node in self.graph.nodes if node.op == "placeholder")
        height, width = self.network.images.shape[2:]
        fixed = FixedSize(height, width)
        fixed.training = self.network.model.training
        new = self.network.insert_call(images, images, self.network.unique_name("fixed_size"), fixed)
        images.replace_all_uses_with(new, delete_user_cb=lambda user: user is not new)

    def permute_around(self, node: fx.Node, source: fx.Node, axis: int) -> None:
        """Bring the channels of the node's input to axis 1, and those of its output back."""
        rank = len(self.network.shapes[source])
        there = [0, axis, *(i for i in range(1, rank) if i != axis)]
        back = [there.index(i) for i in range(rank)]
        with self.graph.inserting_before(node):
            moved = self.graph.call_function(torch.permute, (source, tuple(there)))
        node.args, node.kwargs = (moved,), {}
        with self.graph.inserting_after(node):
            result = self.graph.call_function(torch.permute, (node, tuple(back)))
        self.network.add(moved, source)
        self.network.shapes[moved] = tuple(self.network.shapes[source][i] for i in there)
        self.network.channel_axis[moved] = 1
        self.network.add(result, node)
        node.replace_all_uses_with(result, delete_user_cb=lambda user: user is not result)

    def replace_activation(self, node: fx.Node, staying: set[Any]) -> None:
        """Put the method's nonlinearity in the place of the call, a new one for each call."""
        network = self.network
        source = network.inputs(node)[0]
        axis = network.channel_axis[source]
        before = network.module(node)
        module = pointwise(self.act, network.shapes[source][axis]).to(self.like())
        module.training = network.model.training if before is None else before.training
        name = network.unique_name(network.name(node), node.op == "call_module" and node.target not in staying)
        self.record(node, name, "replaced", f"never negative: {self.act}")
        self.undone[name] = network.trace.body([node], source, node)
        new = network.replace_call(node, source, name, module)
        if axis != 1:
            self.permute_around(new, source, axis)

    def like(self) -> Tensor:
        return next(self.network.model.parameters())

    # ---- the result

    def assemble(self) -> Binarized:
        """The traced module; all its parts have the mode that they had."""
        model = self.network.model
        parts = self.parts = {**self.network.trace.parts(self.modules), **self.modules}
        result = Binarized(parts, self.graph, type(model).__name__)
        result.training = model.training
        for name, module in model.named_modules():
            if name and any(part.startswith(f"{name}.") for part in parts):
                result.get_submodule(name).training = module.training
        rows = [row for node in self.order for row in self.rows.get(node, ())]
        assumptions = (*self.signs.assumptions.values(), *self.fixed())
        report = BinarizeReport(self.method.name, (*rows, *self.dropped()), assumptions)
        result.meta["report"] = report
        result.meta["fixed_modes"] = self.fixed_modes(result)
        result.meta["containers"] = containers_of(model)
        restore(result, result.meta["containers"])
        return result

    def fixed(self) -> list[str]:
        """A sentence for each module that decides by the size of the images."""
        height, width = self.network.images.shape[2:]
        found = dict.fromkeys((d.qualname or "the network", d.what) for d in self.network.decisions)
        return [f"{name} is for images of {height} x {width} alone: {what}" for name, what in found]

    def fixed_modes(self, result: Binarized) -> dict[str, bool]:
        """The modules that are in one mode whatever `model.train(mode)` is called with, by their names in the result.

        A new module that follows the mode in the place of a function has the mode of the module with that forward.
        """
        model = self.network.model
        found: list[dict[int, bool]] = []
        for mode in (True, False):
            with in_mode(model, mode):
                found.append({id(module): module.training for module in model.modules()})
        fixed = {key: mode for key, mode in found[0].items() if mode is found[1][key]}
        owner = {name: model.get_submodule(path) for name, path in self.network.owners.items()}
        names = dict(result.named_modules(remove_duplicate=False))
        return {n: fixed[id(owner.get(n, m))] for n, m in names.items() if id(owner.get(n, m)) in fixed}

    def undo(self, result: Binarized) -> Binarized:
        """The result with all undone that was done on purpose, of the same parameters.

        A module of which a part is undone, as the norm of a norm with an activation inside, is another one here: the
        part would else be undone in the result too.
        """
        parts = {**self.parts, **self.undone}
        for name in self.parts:
            if name not in self.undone and any(other.startswith(f"{name}.") for other in self.undone):
                parts[name] = apart = copy.copy(parts[name])
                apart._modules = dict(apart._modules)
        undone = Binarized(parts, self.graph, type(result).__name__)
        names = dict(undone.named_modules(remove_duplicate=False))
        fixed: dict[str, bool] = result.meta["fixed_modes"]
        undone.meta["fixed_modes"] = {name: mode for name, mode in fixed.items() if name in names}
        undone.meta["containers"] = {}
        return undone

    def proof(self, result: Binarized, undone: Binarized, example: Tensor) -> Proof:
        """That the result, undone, is the given network."""
        modes = {module: module.training for module in (*result.modules(), *self.network.model.modules())}
        try:
            dropped = tuple(row.name for row in result.report.of("dropped"))
            return prove(self.network.model, undone, example, self.twins, dropped)
        except BbgError as error:
            if self.network.untraceable is None:
                raise
            raise BbgError(f"{error}. Its training mode cannot be traced: {self.network.untraceable}") from error
        finally:
            for module, mode in modes.items():
                module.training = mode

    def dropped(self) -> list[LayerRow]:
        """What the evaluation mode does not do: the outermost modules with parameters that it does not reach, and more.

        Not told are dropout and layers like it, which stay.
        """
        met = {str(node.target) for node in self.order if node.op in ("call_module", "get_attr")}
        rows: list[LayerRow] = []
        for name, module in self.network.model.named_modules():
            around = any(name.startswith(f"{row.name}.") for row in rows if row.name)
            reached = any(f"{place}.".startswith(f"{name}.") or name.startswith(f"{place}.") for place in met)
            if around or not (name in self.lost or (name and not reached and any(True for _ in module.parameters()))):
                continue
            why = "it does more in training mode" if not name or reached else "not reached in evaluation mode"
            rows.append(LayerRow(name, type(module).__name__, "dropped", why))
        return rows


def _as_conv(layer: nn.Linear) -> nn.Conv2d:
    """The 1x1 convolution that does the same over `[N, C, H, W]`; its weight is a view of the layer's."""
    conv = nn.Conv2d(layer.in_features, layer.out_features, 1, bias=False, device="meta").train(layer.training)
    weight = layer.weight
    conv.weight = nn.Parameter(weight.detach()[:, :, None, None], requires_grad=weight.requires_grad)
    conv.bias = layer.bias
    return conv
