"""The one way from a module to a torch.fx graph: sizes are known, module names stay, the number of images is free.

    trace = Tracer(example, is_leaf).run(model, "write it without branches on tensors")
    trace.graph                    # the images, calls of leaf modules by qualified name, functions, methods
    trace.decisions                # what a forward took from the example: sizes that it branches on

A forward runs on proxies. Beside the node, a proxy has the *values* that the node takes on the meta device (shapes and
types, no numbers) for two batch sizes. So `x.shape[2]` is a node of the graph, as in torch.fx, until Python itself
needs a number for it, as in `if x.shape[2] % 8`, `int(x.size(1) * 0.5)` or `range(x.size(1))`. Then it is the
example's, and a `Decision` records which module has asked for it.

What differs between the two batch sizes, and what is computed from that, depends on the number of images. It never
becomes a number: a forward that asks for it is refused, so the graph holds for any number of images.
"""

from __future__ import annotations

import copy
import inspect
import operator
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn

from bbg.errors import BbgError, first_line
from bbg.tracing.outline import outline_of
from bbg.tracing.places import Place, place_of_call, place_of_error
from bbg.tracing.proxies import Attribute, ValueProxy
from bbg.tracing.refusals import Refusal, Refusals
from bbg.tracing.values import BATCH_SIZES, DEVICES, asks_device, chunks, differs, proxies_of, same_for_any_batch

# Functions that make a tensor of nothing but sizes. Those that draw random numbers are nodes always, the others where a
# size is one: a tensor made while tracing would be a constant.
RANDOM = tuple(getattr(torch, name) for name in ("rand", "randn", "randint", "randperm", "normal"))
MAKERS = (*RANDOM, *(getattr(torch, name) for name in ("zeros", "ones", "full", "empty", "arange", "linspace", "eye")))


COUNT = "it asks for the number of images, which must stay free"
COUNT_ADVICE = "write -1 in its place, or x.flatten(1)"
MOST_GUESSES = 3  # at one line: a loop may end by what is guessed, or never


@dataclass(frozen=True)
class Decision:
    """The forward of the module `qualname` did something that is true of the example, but not of all images.

    `what` says what it did. `by_size`: it does the same for all images of the example's size; else the device decided.
    """

    qualname: str
    what: str
    by_size: bool = True
    place: Place | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Trace:
    """The graph of `model`. `constants`: the tensors that its forward made, by the names that the graph gives them.

    `complete`: its forward was traced to its end; it is not where that was refused, and the refusals are collected.
    """

    model: nn.Module
    graph: fx.Graph
    decisions: tuple[Decision, ...]
    constants: dict[str, Any]
    complete: bool = True

    def parts(self, but: Collection[str] = ()) -> dict[str, Any]:
        """The modules, parameters, buffers and constants of the graph: the model's own, by qualified name.

        `but`: names that are not the model's, since the graph was rewritten.
        """
        nodes = [node for node in self.graph.nodes if node.op in ("call_module", "get_attr")]
        names = [str(node.target) for node in nodes if node.target not in but]
        return {n: self.constants[n] if n in self.constants else attribute(self.model, n) for n in names}

    def module(self) -> fx.GraphModule:
        """The graph as a module that shares all parts with the model."""
        return fx.GraphModule(self.parts(), self.graph)

    def body(self, region: Sequence[fx.Node], source: fx.Node, result: fx.Node) -> fx.GraphModule:
        """The nodes of `region`, which read nothing else but `source`, as a module: what `source` is to `result`."""
        graph = fx.Graph()
        copies = {source: graph.placeholder("x")}
        for node in region:
            copies[node] = graph.node_copy(node, lambda one: copies[one])
        graph.output(copies[result])
        return Trace(self.model, graph, (), self.constants).module()


def cannot_trace(model: nn.Module, qualname: str, reason: object, advice: str, place: Place | None = None) -> Refusal:
    """The refusal that names the module whose forward cannot be traced."""
    layer = type(model.get_submodule(qualname)).__name__
    advice = COUNT_ADVICE if COUNT in str(reason) else advice
    return Refusal(qualname or "the network", layer, f"torch.fx cannot trace its forward ({reason}); {advice}", place)


@contextmanager
def in_mode(model: nn.Module, training: bool) -> Iterator[None]:
    """The network in training or evaluation mode; afterwards each of its modules is in the mode it was in."""
    modes = {module: module.training for module in model.modules()}
    try:
        model.train(training)
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def reads_mode(module: nn.Module) -> bool:
    """Whether the module's forward asks for `self.training`, which a trace would answer for good."""
    return "training" in getattr(getattr(type(module).forward, "__code__", None), "co_names", ())


class Tracer(fx.Tracer):
    """Traces a network for images like `example`, `[N, C, H, W]`.

    `is_leaf` says which modules become one call each, beside torch's own layers; others are traced into. The first
    argument of the network takes the images; of the others, those with a default have it, and `*args` is empty.

    With `refusals`, what cannot be traced is added there, and the trace goes on as far as it can: behind a branch on
    numbers with one side of it. Else it raises.

    Nodes get in their `meta`: "place", the line of the network's code; "values", what they give for BATCH_SIZES on the
    meta device; "changed", the nodes whose values they change in place; "decides" where they lead to nothing but
    decisions that are refused.
    """

    def __init__(self, example: Tensor, is_leaf: Callable[[nn.Module], bool], refusals: Refusals | None = None) -> None:
        super().__init__()
        self.example, self._is_leaf, self._refusals = example, is_leaf, refusals
        self._advice = ""
        self._guessed: Counter[Place | None] = Counter()  # where a value stands for one that is not known
        self._decided: set[fx.Node] = set()  # the nodes whose values these are
        self._versions: dict[fx.Node, int] = {}  # of the values: an operation in place raises it
        self.decisions: list[Decision] = []
        self.qualname = ""  # of the innermost module entered last
        self._computing = False  # values are being computed: nothing is recorded
        self._parameters: dict[int, str] = {}
        self._on_meta: dict[int, tuple[Tensor, Tensor]] = {}
        self._meta_modules: dict[nn.Module, nn.Module] = {}

    def run(self, model: nn.Module, advice: str) -> Trace:
        """The trace of `model`, in the mode that it is in.

        BbgError names the module whose forward cannot be traced, and gives the `advice`.
        """
        self._parameters = {id(p): name for name, p in model.named_parameters()}
        self._advice, complete = advice, True
        attributes = set(vars(model))
        chosen = vars(model).get("forward")  # by a constructor, among the methods (unseen.py refuses others)
        self.traced_func_name = "forward" if chosen is None else chosen.__name__
        try:
            with self._makers_as_nodes():
                self.trace(model)
        except BbgError:
            raise
        except Exception as error:  # the forward of a stranger's module, run on proxies, may raise anything
            refusal = cannot_trace(model, self.qualname, first_line(error), advice, place_of_error(error))
            if self._refusals is None:
                raise BbgError(refusal.text()) from error
            complete = False
            if not self._guessed:  # else it may follow from the guess
                self._refusals.add(refusal)
        finally:  # torch.fx leaves the constants at the model
            constants = {name: vars(model).pop(name) for name in set(vars(model)) - attributes}
        self._mark_decisions()
        return Trace(model, self.graph, tuple(self.decisions), constants, complete)

    def to_bool(self, obj: fx.Proxy) -> bool:
        """The truth of a value that is not known."""
        self._refuse("it decides by the numbers of a tensor", obj.node)
        return True

    def _refuse(self, reason: str, node: fx.Node) -> None:
        """Add a refusal of what the forward does now; raise where none are collected, or it goes on and on."""
        place = place_of_call(Tracer.run.__code__)
        self._guessed[place] += 1
        self._decided.add(node)
        if self._refusals is None or self._guessed[place] > MOST_GUESSES:
            raise fx.proxy.TraceError(reason)
        self._refusals.add(cannot_trace(self.root, self.qualname, reason, self._advice, place))

    def _mark_decisions(self) -> None:
        """Mark the nodes that lead to nothing but decisions that are refused: they go when these go."""
        for node in reversed(self.graph.nodes):
            led = node in self._decided or bool(node.users)
            if led and node.op != "placeholder" and all("decides" in user.meta for user in node.users):
                node.meta["decides"] = True

    @contextmanager
    def _makers_as_nodes(self) -> Iterator[None]:
        """MAKERS, as torch has them by name, make nodes meanwhile."""

        def node(function: Callable[..., Any]) -> Callable[..., Any]:
            def make(*args: Any, **kwargs: Any) -> Any:
                sized = bool(proxies_of((args, kwargs)))
                if self._computing or not (sized or function in RANDOM):
                    return function(*args, **kwargs)
                return self.create_proxy("call_function", function, args, kwargs)

            return make

        try:
            for function in MAKERS:
                setattr(torch, function.__name__, node(function))
            yield
        finally:
            for function in MAKERS:
                setattr(torch, function.__name__, function)

    # ---- what torch.fx asks its tracer

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return self._is_leaf(m) or super().is_leaf_module(m, module_qualified_name)

    def create_args_for_root(self, root_fn: Any, is_module: bool, concrete_args: Any = None) -> tuple[Any, list[Any]]:
        args: list[Any] = [self.root]
        for parameter in list(inspect.signature(root_fn).parameters.values())[1:]:
            variable = parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
            if len(args) == 1 and not variable:
                args.append(self._images(parameter.name))
            elif parameter.default is parameter.empty and not variable:
                raise BbgError(
                    f"the network takes a second input {parameter.name!r}; give it a default, or leave it out"
                )
            elif not variable and parameter.kind is not parameter.KEYWORD_ONLY:
                args.append(parameter.default)
        return root_fn, args

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        name = None if self._computing else self._parameters.get(id(attr_val))
        if name is None:
            return attr_val
        if name not in parameter_proxy_cache:
            parameter_proxy_cache[name] = self.create_proxy("get_attr", name, (), {})
        return parameter_proxy_cache[name]

    def call_module(self, m: nn.Module, forward: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self._computing:
            return forward(*args, **kwargs)
        try:
            name = self.path_of_module(m)
        except NameError:  # made in the forward itself: it has no name, so its own functions are traced
            return forward(*args, **kwargs)
        if kwargs and self.is_leaf_module(m, name):  # `conv(input=x)` is `conv(x)`: who reads the graph sees one form
            bound = inspect.signature(m.forward).bind(*args, **kwargs)
            args, kwargs = bound.args, bound.kwargs
        before, self.qualname = self.qualname, name
        result = super().call_module(m, forward, args, kwargs)
        self.qualname = before
        return result

    def iter(self, obj: fx.Proxy) -> Iterator[Any]:
        """The items of `obj`, which is iterated over; where it is unpacked, `a, b = x.chunk(2)`, torch.fx counts."""
        if not isinstance(obj, ValueProxy):
            raise fx.proxy.TraceError("it iterates over a value of unknown length")
        return iter([obj[i] for i in range(self.length(obj))])  # type: ignore[index]

    def create_proxy(self, kind: str, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any],
                     *others: Any, **options: Any) -> Any:  # fmt: skip
        """The proxy of a new node, with its values where they can be computed; without, it is one of torch.fx."""
        found = self._values(kind, target, args, kwargs)
        if found is not None:
            options["proxy_factory_fn"] = lambda node: ValueProxy(node, self, *found)
        proxy = super().create_proxy(kind, target, args, kwargs, *others, **options)
        self._note(proxy.node, None if found is None else found[0])
        return proxy

    def _note(self, node: fx.Node, values: tuple[Any, Any] | None) -> None:
        node.meta["place"] = place_of_call(Tracer.run.__code__)
        if values is None:
            return
        if any(_version(other) != self._versions.get(other, 0) for other in node.all_input_nodes):
            changed = [other for other, version in self._versions.items() if _version(other) != version]
            node.meta["changed"] = changed  # with all that share their memory
            self._versions |= {other: _version(other) for other in changed}
        node.meta["values"] = values
        self._versions[node] = _version(node)

    # ---- values

    def decide(self, proxy: ValueProxy) -> Any:
        """The value of `proxy`, for Python needs it now: that of the example, which must not depend on the batch."""
        value, other = proxy.known
        if isinstance(value, Tensor):
            self._refuse("it decides by the numbers of a tensor", proxy.node)
            return 1
        if proxy.of_batch or value != other:
            self._refuse(COUNT, proxy.node)
            return value
        name = proxy.name if isinstance(proxy, Attribute) else proxy.node.name
        by_size = not asks_device(proxy.node)
        what = f"it decides by {name} = {value}, a size or type of the example"
        self.decisions.append(Decision(self.qualname, what, by_size, place_of_call(Tracer.run.__code__)))
        return value

    def length(self, proxy: ValueProxy) -> int:
        """How many items `proxy` has: no decision where its code says it, for a shape or `x.chunk(2)`."""
        one, other = (len(value) for value in proxy.known)
        if one != other:
            raise fx.proxy.TraceError(COUNT)
        if not isinstance(proxy.known[0], torch.Size) and chunks(proxy.node) != one:
            what = f"it goes through the {one} items of {proxy.node.name}, as many as the example has"
            self.decisions.append(Decision(self.qualname, what, place=place_of_call(Tracer.run.__code__)))
        return one

    def _images(self, name: str) -> fx.Proxy:
        node = self.create_node("placeholder", name, (), {})
        shape, dtype = self.example.shape[1:], self.example.dtype
        one, other = (torch.empty(batch, *shape, dtype=dtype, device="meta") for batch in BATCH_SIZES)
        self._note(node, (one, other))
        return ValueProxy(node, self, (one, other), False)

    def _values(self, kind: str, target: Any, args: Any, kwargs: Any) -> tuple[tuple[Any, Any], bool] | None:
        """What a call gives for either batch size, and whether it is of the batch; None where that is not known."""
        proxies = proxies_of((args, kwargs))
        if not all(isinstance(proxy, ValueProxy) for proxy in proxies) or kind in ("placeholder", "output"):
            return None
        self._computing = True
        try:
            with torch.no_grad():
                one, other = (self._compute(kind, target, *self._given((args, kwargs), i)) for i in (0, 1))
        except Exception:  # an operation that the meta device lacks, or an error that the network itself will raise
            return None
        finally:
            self._computing = False
        if isinstance(one, (Tensor, tuple, list)):
            return (one, other), False
        of_batch = bool(one != other)
        if target in (operator.eq, operator.ne) and len(proxies) == 2:
            of_batch = of_batch or not same_for_any_batch(*proxies)
        elif target is not operator.getitem:  # an entry of a shape depends on the batch where it differs
            of_batch = of_batch or any(proxy.of_batch or differs(proxy.known) for proxy in proxies)
        return (one, other), of_batch

    def _given(self, given: Any, i: int) -> Any:
        """The arguments of a call for one batch size."""

        def value(a: Any) -> Any:
            if isinstance(a, ValueProxy):
                return a.known[i]
            return self._as_meta(a) if isinstance(a, Tensor) else a

        return fx.node.map_aggregate(given, value)

    def _compute(self, kind: str, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if kind == "get_attr":
            return self._as_meta(attribute(self.root, target))
        if kind == "call_module":
            module = self.root.get_submodule(target)
            outline = None if kwargs else outline_of(module, *args)
            return self._as_meta_module(module).forward(*args, **kwargs) if outline is None else outline
        if kind == "call_method":
            return getattr(args[0], target)(*args[1:], **kwargs)
        if target is getattr and isinstance(args[0], Tensor):  # the images are where the example is, not on "meta"
            if args[1] == "device":
                return self.example.device
            if args[1] in DEVICES:
                return args[1] == f"is_{self.example.device.type}"
        if target in MAKERS:
            kwargs = (
                {**kwargs, "device": "meta", "generator": None} if target in RANDOM else {**kwargs, "device": "meta"}
            )
        return target(*args, **kwargs)

    def _as_meta(self, tensor: Any) -> Any:
        """A tensor like the given one on the meta device, the same one each time."""
        if not isinstance(tensor, Tensor):
            return tensor
        if id(tensor) not in self._on_meta:
            self._on_meta[id(tensor)] = (tensor.detach().to("meta"), tensor)  # with it, so that its id stays its own
        return self._on_meta[id(tensor)][0]

    def _as_meta_module(self, module: nn.Module) -> nn.Module:
        """A copy of a leaf module on the meta device, without hooks."""
        if module not in self._meta_modules:
            memo: dict[int, Any] = {}  # what `deepcopy` takes instead of a copy
            for part in module.modules():
                for value in (*part.parameters(False), *part.buffers(False), *vars(part).values()):
                    if isinstance(value, nn.Parameter):
                        memo[id(value)] = nn.Parameter(value.detach().to("meta"), value.requires_grad)
                    elif isinstance(value, Tensor):
                        memo[id(value)] = value.detach().to("meta")
                # A module's hooks are private: they are read here, so that the copy has none and calls nobody.
                hooks = [value for name, value in vars(part).items() if name.endswith("_hooks") and value is not None]
                memo |= {id(value): type(value)() for value in hooks}
            self._meta_modules[module] = copy.deepcopy(module, memo)
        return self._meta_modules[module]


def _version(node: fx.Node) -> int:
    """How often the value of a node was changed in place."""
    value = node.meta.get("values", (None,))[0]
    return value._version if isinstance(value, Tensor) else 0


def attribute(model: nn.Module, path: str) -> Any:
    """What stands at a qualified name: a module, a parameter, a buffer, anything."""
    value: Any = model
    for part in path.split("."):
        value = getattr(value, part)
    return value
