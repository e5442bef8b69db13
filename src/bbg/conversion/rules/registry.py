"""The registry of lowering rules: which function lowers which layer, function or method."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from bbg.tracing.vocabulary import Trait, keeps_forward, ops_with

Rule = Callable[..., Any]


LAYERS: dict[type[nn.Module], Rule] = {}


FUNCTIONS: dict[Any, Rule] = {}  # functions, and methods of a tensor by name


MOVES: set[Rule] = set()  # rules that only change how torch has a value


QUERIES = {spelling for op in ops_with(Trait.QUERY) for spelling in (*op.functions, *op.methods)}


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
        if base in LAYERS and keeps_forward(type(layer), base):
            return LAYERS[base]
    return None
