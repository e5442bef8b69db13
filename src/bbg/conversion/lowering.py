"""Lowering: from a torch module to an unfolded graph, one op or two per layer, vectors in float64.

    lowered = lower_network(model, example)

Each node of the traced network is lowered by its rule (rules/). Torch runs the same node beside it: what the ops of
the rule compute must be what torch has there. So every value of the graph comes with a `TorchOp` that is known to
compute it, by which the engine is judged later.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from bbg.conversion.appender import IMAGES
from bbg.conversion.oracle import INPUT, Lowered
from bbg.conversion.padding import fold_padding
from bbg.conversion.rules.elementwise import register_torchvision
from bbg.conversion.rules.registry import rule_of
from bbg.conversion.trace import trace_network
from bbg.conversion.views import View
from bbg.conversion.walk import ADVICE, Walk, agree
from bbg.errors import BbgError, first_line
from bbg.graph import Graph, Output, Structure
from bbg.tracing.refusals import Refusals
from bbg.tracing.values import UNKNOWN

_ALLOWED = "it must return a tensor, or a tuple, list or dict of tensors"


@dataclass(frozen=True)
class Examined:
    """What comes of a network. `lowered`: None where something is refused. `outputs`: shapes, for one image.

    Without numbers it has the shapes of the ops, and the oracle gives nothing.
    """

    lowered: Lowered | None
    refusals: Refusals = field(default_factory=Refusals)
    outputs: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


def lower_network(model: nn.Module, example: Tensor) -> Lowered:
    """The unfolded graph of `model`, in evaluation mode and float32, for inputs like `example` `[N, C, H, W]`.

    Two images of the example run through the network. Raises BbgError for all that cannot be traced, has no rule, or
    that the format cannot express; for layers without a rule before anything is computed.
    """
    examined = _examine(model, example, dry=False)
    if examined.lowered is None:
        raise examined.refusals.error()
    return examined.lowered


def examine(model: nn.Module, example: Tensor) -> Examined:
    """The same by shapes alone, as far as torch knows them without running the network."""
    return _examine(model, example, dry=True)


def _examine(model: nn.Module, example: Tensor, dry: bool) -> Examined:
    register_torchvision()
    model = model if rule_of(model) is None else nn.Sequential(model)  # tracing goes into the outermost module
    traced = trace_network(model, example)
    example = torch.cat([example, example])[:IMAGES]
    if dry or traced.refusals or traced.without_rule:
        walk = Walk(traced, example, dry=True)
        found = _judged(walk, walk.run(), None)
        if found.refusals or not walk.partial:
            return found
    try:
        result = model(example.clone())
    except Exception as error:  # whatever torch raises
        shape = list(example.shape)
        raise BbgError(
            f"the network cannot run on an example {shape} ({first_line(error)}); give images that it takes"
        ) from error
    expected = named_outputs(result)
    walk = Walk(traced, example)
    return _judged(walk, walk.run(), expected)


def _judged(walk: Walk, returned: Any, expected: tuple[Structure, dict[str, Any]] | None) -> Examined:
    """What the network returns as outputs of a graph, compared with what is `expected` of it."""
    if returned is UNKNOWN:
        return Examined(None, walk.refusals)
    outputs: list[Output] = []
    try:
        structure, given = named_outputs(returned)
        for name, x in given.items():
            if not isinstance(x, View):
                raise BbgError(f"{_title(name)} does not depend on the images; return it from somewhere else")
            if expected is None:
                continue
            if name not in expected[1] or structure != expected[0] or not agree(x.tensor, expected[1][name]):
                what = f"{_title(name)}: the traced network computes something else than the network itself"
                raise BbgError(f"{what}; {ADVICE}")
        for name, x in given.items():
            walk.builder.refusal = None
            outputs.append(walk.builder.as_output(name, x))
    except BbgError as error:
        walk.refuse(error)
    if walk.refusals:
        return Examined(None, walk.refusals)
    channels, height, width = walk.example.shape[1:]
    graph = Graph(INPUT, (channels, height, width), tuple(walk.builder.ops), tuple(outputs), structure=structure)
    lowered = fold_padding(Lowered(graph, walk.builder.oracle, walk.builder.layers))
    return Examined(lowered, outputs={output.name: output.shape for output in outputs})


def named_outputs(result: Any) -> tuple[Structure, dict[str, Any]]:
    """How a network returns its tensors, "tensor", "tuple", "list" or "dict", and each by name; one alone is ''.

    What is nested, as `{"maps": [x, y]}`, is a dict with names such as "maps.0"; a None is left out.
    """
    if isinstance(result, (Tensor, View)):
        return "tensor", {"": result}
    leaves = list(_leaves(result, ""))
    named = dict(leaves)
    if not named or len(named) < len(leaves):
        twice = [name for i, (name, _) in enumerate(leaves) if name in dict(leaves[:i])]
        came = f"two tensors named {twice[0]!r}" if twice else "nothing"
        raise BbgError(f"the network returns {came}; {_ALLOWED}")
    if not isinstance(result, dict) and list(named) == [str(i) for i in range(len(result))]:
        return "tuple" if isinstance(result, tuple) else "list", named
    return "dict", named


def _leaves(result: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Every tensor with its name."""
    if isinstance(result, (Tensor, View)):
        yield name, result
    elif isinstance(result, (dict, tuple, list)):
        for key, value in result.items() if isinstance(result, dict) else enumerate(result):
            if not isinstance(key, (str, int)):
                raise BbgError(f"the network returns a dict in which {key!r} is no name; {_ALLOWED}")
            yield from _leaves(value, f"{name}.{key}" if name else str(key))
    elif result is not None:
        came = f"a {type(result).__name__} as {name!r}" if name else type(result).__name__
        raise BbgError(f"the network returns {came}; {_ALLOWED}")


def _title(name: str) -> str:
    return f"output {name!r}" if name else "the output"
