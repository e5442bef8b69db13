"""The walk through a traced network: each node is lowered by its rule, and torch runs beside it.

It goes on behind a node that is refused: what torch has there stands for what was refused, so that the rest is judged
too. What follows from such a refusal is none of its own.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import Any

import torch
from torch import Tensor, fx

from bbg.conversion.appender import IMAGES
from bbg.conversion.builder import Builder
from bbg.conversion.oracle import INPUT
from bbg.conversion.rules.registry import FUNCTIONS, QUERIES, TAKE_STACKS, TAKE_VIEWS, rule_of
from bbg.conversion.trace import Traced
from bbg.conversion.views import StackedTensors, TracedTensor, View, to_value
from bbg.errors import BbgError
from bbg.tracing.refusals import Refusal, Refusals
from bbg.tracing.values import BATCH_SIZES, UNKNOWN, value_for
from bbg.tracing.vocabulary import Trait, op_of

TOLERANCE = 1e-5  # of the largest number, of an op against the layer that it comes from
_NUMPYS = {"axis": "dim", "keepdims": "keepdim", "x2": "other", "input": "x", "x": "input"}  # torch has both
ADVICE = "avoid hooks, and in-place operations on tensors that are used again"


class Walk:
    """One walk through the nodes: what depends on the images is lowered, the rest computed; torch runs beside it.

    What an op computes is compared with what torch has there, and then goes on as torch has it: behind a sign, the
    last bit of a number decides. A `dry` walk computes nothing of the images: it compares shapes, those that the trace
    knows. `partial`: it met a node of which the trace knows none.
    """

    def __init__(self, traced: Traced, example: Tensor, dry: bool = False) -> None:
        self.traced, self.example, self.dry = traced, example, dry
        self.builder = Builder(layers={INPUT: ""}, dry=dry)
        self.refusals = Refusals([*traced.refusals.found])
        self.partial = False
        self.unsure: set[fx.Node] = set()  # their arrangement is a guess, behind what was refused
        self.lowered: dict[fx.Node, Any] = {}
        self.torch: dict[fx.Node, Any] = {}
        self.modules = dict(traced.trace.model.named_modules(remove_duplicate=False))
        self.position = {node: i for i, node in enumerate(traced.graph.nodes)}
        self.versions: dict[fx.Node, int] = {}  # of torch's tensors: an operation in place raises it

    def run(self) -> Any:
        """What the network returns, lowered; the ops are those of `builder`. UNKNOWN where it was not traced so far."""
        for node in self.traced.graph.nodes:
            self.builder.qualname, self.builder.layer = self.traced.module_of(node)
            self.builder.place, self.builder.refusal = node.meta.get("place"), None
            args, kwargs = fx.node.map_arg((node.args, node.kwargs), self.lowered.__getitem__)
            if node.op == "output":
                return args[0] if self.unsure.isdisjoint(node.all_input_nodes) else UNKNOWN
            if node.op == "placeholder":
                self.lowered[node], self.torch[node] = self._placeholder(node, args)
            elif "decides" in node.meta:
                self.lowered[node] = self.torch[node] = UNKNOWN
            else:
                self._step(node, args, kwargs)
            self.versions[node] = self._version(node)
        if not self.traced.trace.complete:
            return UNKNOWN
        raise BbgError("the network returns nothing; it must return a tensor, or a tuple, list or dict of tensors")

    def refuse(self, error: BbgError, unsure: bool = False) -> None:
        """Note an error; `unsure`: what follows from the arrangement of the input is left out."""
        refusal = self.builder.refusal or Refusal("", "", str(error))
        if not (unsure and refusal.of_input):
            self.refusals.add(refusal)
        self.builder.refusal = None

    def _placeholder(self, node: fx.Node, default: tuple[Any, ...]) -> tuple[Any, Any]:
        """An argument of the network, lowered and in torch: the images, or the default of another one."""
        if not self.lowered:
            return TracedTensor(INPUT, self.example), self.example.clone()
        if not default:
            raise BbgError(f"the network takes a second input {node.target!r}; give it a default, or leave it out")
        return default[0], default[0]

    def _step(self, node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Lower one node, or note why it cannot be."""
        unsure = not self.unsure.isdisjoint(node.all_input_nodes)
        given: list[Any] = []
        fx.node.map_aggregate((args, kwargs), given.append)
        lowered = tensor = UNKNOWN
        try:
            reason = self.traced.without_rule.get(node)
            known = not any(a is UNKNOWN for a in given)
            if reason is not None:
                self.refuse(self.builder.error(reason))
            if known and (reason is None or not _views(args, kwargs)):
                lowered = self._lower(node, args, kwargs)
                self._check_images(node, lowered)
            tensor = self._in_torch(node, lowered, bool(_views(args, kwargs)) or not known)
            self._check_in_place(node)
            lowered = self._as_in_torch(lowered, tensor, 0.0 if self.dry else _largest(args, kwargs))
        except BbgError as error:
            self.refuse(error, unsure)
            lowered = UNKNOWN
        except Exception:  # a rule or torch itself, on numbers or an arrangement that the network does not have
            if not (unsure or self.dry or self.refusals):
                raise
            lowered, self.partial = UNKNOWN, True
        if tensor is UNKNOWN and self.dry:
            tensor = value_for(IMAGES, node.meta["values"]) if "values" in node.meta else UNKNOWN
            self.partial |= tensor is UNKNOWN
        elif tensor is UNKNOWN:
            tensor = self._in_torch(node, lowered, True)
        if lowered is UNKNOWN:
            lowered, unsure = self._guess(tensor), True
        elif unsure:  # a layer says how its result is arranged, whatever came in
            op = op_of(node, self.modules)
            unsure = op is None or Trait.LAYER not in op
        self.lowered[node], self.torch[node] = lowered, tensor
        if unsure:
            self.unsure.add(node)

    def _in_torch(self, node: fx.Node, lowered: Any, of_images: bool) -> Any:
        """What torch has at a node."""
        if not self.dry:
            return self.traced.run(node, *fx.node.map_arg((node.args, node.kwargs), self.torch.get))
        if not of_images:
            return lowered
        return value_for(IMAGES, node.meta["values"]) if "values" in node.meta else UNKNOWN

    def _guess(self, value: Any) -> Any:
        """What stands for the result of a node that is refused."""
        if isinstance(value, (tuple, list)):
            return type(value)([self._guess(part) for part in value])
        if isinstance(value, Tensor):
            view = self.builder.unknown(value)
            return UNKNOWN if view is None else view
        return value

    def _lower(self, node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What the node gives: a view, several, or a constant."""
        if not _views(args, kwargs):
            return self.traced.run(node, args, kwargs)
        layer = self.traced.part(str(node.target)) if node.op == "call_module" else None
        asks = node.target in QUERIES
        rule = None if asks else FUNCTIONS[node.target] if layer is None else rule_of(layer)
        stacked = any(isinstance(argument, StackedTensors) for argument in (*args, *kwargs.values()))
        if stacked and rule not in TAKE_STACKS:
            raise self.builder.error("it takes a stack along a first axis; stack along another axis")
        if asks:
            return self._query(node.target, *args, **kwargs)
        assert rule is not None  # else the node is without_rule
        if rule not in TAKE_VIEWS:
            args, kwargs = fx.node.map_aggregate((args, kwargs), self._materialized)
        given = (self.builder, *args) if layer is None else (self.builder, layer, *args)
        named = _signature(rule).parameters
        kwargs = {name if name in named else _NUMPYS.get(name, name): value for name, value in kwargs.items()}
        try:
            _signature(rule).bind(*given, **kwargs)
        except TypeError as error:
            raise self.builder.error(
                f"with these arguments it cannot be converted ({error}); call it otherwise"
            ) from None
        return rule(*given, **kwargs)

    def _materialized(self, argument: Any) -> Any:
        return self.builder.materialize(argument) if isinstance(argument, View) else argument

    def _query(self, target: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
        """Shape, rank and the like: known from the example; `values` of the largest numbers."""
        if isinstance(x, (tuple, list)):
            if args != ("values",):
                raise self.builder.error(f"the attribute {args[0]!r} of several tensors cannot be converted; use one")
            return x[0]  # of what `max` gives
        result = getattr(x.tensor, target)(*args, **kwargs) if isinstance(target, str) else target(x.tensor, *args)
        if isinstance(result, Tensor):
            raise self.builder.error(
                f"the attribute {args[0]!r} of a tensor cannot be converted; use its shape, or a method"
            )
        return result

    def _check_images(self, node: fx.Node, lowered: Any) -> None:
        """BbgError where the node takes some of the images, which two images may not show, as `x[:2]`."""
        if "values" in node.meta and not _of_all_images(lowered, *node.meta["values"]):
            raise self.builder.error("takes some of the images apart; do that outside of the network")

    def _check_in_place(self, node: fx.Node) -> None:
        """BbgError where the node changed a tensor that is read again."""
        changed = [other for other in node.all_input_nodes if self._version(other) != self.versions[other]]
        if self.dry:
            changed = node.meta.get("changed", [])
        elif changed:  # and with it every tensor that shares its memory
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
        """`lowered` with the numbers that torch has, the same but for rounding, also of the `largest` that came in.

        Of a dry walk the shapes alone are compared.
        """
        if tensor is UNKNOWN:
            return lowered
        if isinstance(lowered, (tuple, list)):
            pairs = zip(lowered, tensor, strict=True)
            return type(lowered)(self._as_in_torch(*pair, largest) for pair in pairs)
        if not isinstance(lowered, View):
            return lowered
        tensor = tensor.float() if tensor.dtype == torch.bool else tensor
        if not self.dry and not tensor.isfinite().all():
            came = "gives numbers that are not finite on these images, as the logarithm of 0 is"
            raise self.builder.error(f"{came}; bound its input, as x.clamp(min=1e-6) does")
        alike = _shape(lowered) == tensor.shape if self.dry else agree(lowered.tensor, tensor, largest)
        if not alike:
            came = "the traced network computes something else than torch does"
            raise self.builder.error(f"{came}; {ADVICE}", of_input=True)
        if self.dry or not isinstance(lowered, TracedTensor) or not lowered.is_complete:
            return lowered
        return replace(lowered, value=to_value(tensor.clone(), lowered.layout, lowered.shape))


def agree(a: Tensor, b: Tensor, largest: float = 0.0) -> bool:
    """Whether two tensors are equal but for rounding, also of the `largest` number that they come from."""
    return a.shape == b.shape and bool((a - b).abs().max() <= TOLERANCE * max(largest, float(b.abs().max())))


def _of_all_images(lowered: Any, one: Any, other: Any) -> bool:
    """Whether each view has all images, by what torch gives for either number of them."""
    if isinstance(lowered, (tuple, list)):
        same = len(lowered) == len(one) == len(other)
        return same and all(_of_all_images(*parts) for parts in zip(lowered, one, other, strict=True))
    return not isinstance(lowered, View) or (len(one), len(other)) == BATCH_SIZES


def _shape(x: View) -> tuple[int, ...]:
    """The shape of the tensor that torch has."""
    plain = isinstance(x, TracedTensor) and x.layout is None
    return tuple(x.value.shape) if plain else (len(x.value), *x.indices.shape)


_signature = cache(inspect.signature)


def _largest(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> float:
    """The largest number among the views that come in."""
    return max((float(x.value.abs().max()) for x in _views(args, kwargs)), default=0.0)


def _views(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[View]:
    """The views among the arguments, in lists and tuples too."""
    found: list[View] = []
    fx.node.map_aggregate((args, kwargs), lambda a: found.append(a) if isinstance(a, View) else None)
    return found
