"""Calls that change a tensor in place: whoever reads the tensor later, reads what the call gave."""

from __future__ import annotations

import inspect

from torch import fx, nn

from bbg.tracing.tracer import Trace

_IN_PLACE = {"iadd", "isub", "imul", "itruediv"}


def works_in_place(node: fx.Node, module: nn.Module | None) -> bool:
    """Whether the call changes its first argument: `relu_`, `iadd`, `inplace=True` of a layer or a function."""
    if module is not None:
        return bool(getattr(module, "inplace", False))
    if isinstance(node.target, str):
        return node.target.endswith("_") and not node.target.startswith("__")
    name = getattr(node.target, "__name__", "")
    if node.op != "call_function" or name in _IN_PLACE or name.endswith("_"):
        return node.op == "call_function"
    try:
        return bool(inspect.signature(node.target).bind(*node.args, **node.kwargs).arguments.get("inplace", False))
    except (TypeError, ValueError):  # a builtin: it has no signature and no such argument
        return bool(node.kwargs.get("inplace", False))


def read_results_of_in_place_calls(trace: Trace) -> None:
    """Give each value one node: who reads a tensor after a call changed it in place, reads the result of the call."""
    modules = dict(trace.model.named_modules(remove_duplicate=False))
    order = {node: i for i, node in enumerate(trace.graph.nodes)}
    for node in trace.graph.nodes:
        module = modules[str(node.target)] if node.op == "call_module" else None
        changed = node.args[0] if node.args else None
        if isinstance(changed, fx.Node) and works_in_place(node, module):
            for user in list(changed.users):
                if order[user] > order[node]:
                    user.replace_input_with(changed, node)
