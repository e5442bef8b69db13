"""torch.fx's tracer as this package needs it: defaults of a forward hold, chunks can be counted, errors name places."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import fx, nn

from bbg.errors import BbgError
from bbg.layers import BinaryConv2d, BinaryLinear, Shortcut
from bbg.methods import Pointwise


@contextmanager
def in_mode(model: nn.Module, training: bool) -> Iterator[None]:
    """The network in training or evaluation mode; afterwards it is as it was, and so is each of its modules."""
    modes = {module: module.training for module in model.modules()}
    attributes = set(vars(model))
    try:
        model.train(training)
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
        for name in set(vars(model)) - attributes:  # constants, which torch.fx leaves there
            delattr(model, name)


def reads_mode(module: nn.Module) -> bool:
    """Whether the module's forward asks for `self.training`, which a trace would answer for good."""
    return "training" in getattr(getattr(type(module).forward, "__code__", None), "co_names", ())


def _chunks(node: fx.Node) -> int | None:
    """How many tensors a call of `chunk` gives; None for other calls."""
    if getattr(node.target, "__name__", node.target) != "chunk":
        return None
    count = node.kwargs.get("chunks", node.args[1] if len(node.args) > 1 else None)
    return count if isinstance(count, int) else None


class _Proxy(fx.Proxy):
    def __len__(self) -> int:
        count = _chunks(self.node)
        return super().__len__() if count is None else count


class PlacedTracer(fx.Tracer):
    """A tracer that can say where it failed. Of the arguments of the network, those with a default have it.

    `a, b = list(x.chunk(2))` is followed, for the number of chunks is known.
    """

    place = ""  # the innermost module entered last

    def create_args_for_root(self, root_fn: Any, is_module: bool, concrete_args: Any = None) -> tuple[Any, list[Any]]:
        function, args = super().create_args_for_root(root_fn, is_module, concrete_args)
        parameters = list(inspect.signature(root_fn).parameters.values())
        if len(parameters) == len(args) and function is root_fn:
            for i, parameter in enumerate(parameters[2:], 2):
                if parameter.default is not parameter.empty:
                    self.graph.erase_node(args[i].node)
                    args[i] = parameter.default
        return function, args

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)

    def iter(self, obj: Any) -> Iterator[Any]:
        count = _chunks(obj.node)
        return super().iter(obj) if count is None else iter([obj[i] for i in range(count)])

    def call_module(self, m: nn.Module, *args: Any, **kwargs: Any) -> Any:
        before, self.place = self.place, self.path_of_module(m)
        result = super().call_module(m, *args, **kwargs)
        self.place = before
        return result

    def traced(self, model: nn.Module, advice: str) -> fx.Graph:
        """The graph of `model`; BbgError names the module that torch.fx cannot trace, and gives the `advice`."""
        try:
            return self.trace(model)
        except BbgError:
            raise
        except Exception as error:  # the forward of a stranger's module, run on symbols, may raise anything
            where = f"{self.place or 'the network'} ({type(model.get_submodule(self.place)).__name__})"
            raise BbgError(f"{where}: torch.fx cannot trace its forward ({error}); {advice}") from error


class Tracer(PlacedTracer):
    """Stops at torch's layers, at binary ones, and at those that do nothing but differ between the modes."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        ours = isinstance(m, (BinaryConv2d, BinaryLinear, Shortcut, Pointwise))
        bare = not [*m.children(), *m.parameters(), *m.buffers()]
        return ours or (bare and reads_mode(m)) or super().is_leaf_module(m, module_qualified_name)
