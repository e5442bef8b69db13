"""The registry of lowering rules: which function lowers which layer, function or method.

A rule is called with the builder, then the layer (if it lowers one), then the arguments that torch got. Tensors that
depend on the images are `TracedTensor`s, complete (`Builder.materialize`) unless the rule takes views.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from torch import nn

from bbg.tracing.vocabulary import Trait, keeps_forward, ops_with

Rule = Callable[..., Any]
OneRule = TypeVar("OneRule", bound=Rule)


LAYERS: dict[type[nn.Module], Rule] = {}


FUNCTIONS: dict[Any, Rule] = {}  # functions, and methods of a tensor by name


TAKE_VIEWS: set[Rule] = set()  # rules that take tensors in any layout, of parts of values and of several


TAKE_STACKS: set[Rule] = set()  # rules that take several tensors stacked along a first axis


QUERIES = {spelling for op in ops_with(Trait.QUERY) for spelling in (*op.functions, *op.methods)}


def lowers(*targets: Any, takes_views: bool = False, takes_stacks: bool = False) -> Callable[[OneRule], OneRule]:
    """Registers the rule of layer types (called with the layer and its inputs), functions or methods (its inputs)."""

    def register(rule: OneRule) -> OneRule:
        for target in targets:
            registry = LAYERS if isinstance(target, type) else FUNCTIONS
            registry[target] = rule
        if takes_views:
            TAKE_VIEWS.add(rule)
        if takes_stacks:
            TAKE_STACKS.add(rule)
        return rule

    return register


def rule_of(layer: nn.Module) -> Rule | None:
    """The rule of the layer's type, or of a base whose `forward` it keeps."""
    for base in type(layer).__mro__:
        if base in LAYERS and keeps_forward(type(layer), base):
            return LAYERS[base]
    return None
