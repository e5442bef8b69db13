"""The proxies that a forward runs on while it is traced: they know the values of their nodes."""

from __future__ import annotations

import math
import operator
from typing import TYPE_CHECKING, Any

from torch import fx

if TYPE_CHECKING:
    from bbg.tracing.tracer import Tracer


class ValueProxy(fx.Proxy):
    """A proxy that knows what its node gives for either batch size: `known`, for `values` is an attribute of torch's.

    `of_batch`: whether the value depends on the number of images, other than as the size of an axis.
    """

    tracer: Tracer

    def __init__(self, node: fx.Node, tracer: Tracer, values: tuple[Any, Any], of_batch: bool) -> None:
        super().__init__(node, tracer)
        self.known, self.of_batch = values, of_batch

    def __getattr__(self, k: str) -> Attribute:  # type: ignore[override]
        return Attribute(self, k)

    def __bool__(self) -> bool:
        return bool(self.tracer.decide(self))

    def __int__(self) -> int:
        return int(self.tracer.decide(self))

    def __index__(self) -> int:
        return operator.index(self.tracer.decide(self))

    def __float__(self) -> float:
        return float(self.tracer.decide(self))

    def __round__(self, digits: int | None = None) -> Any:
        return round(self.tracer.decide(self), digits)

    def __trunc__(self) -> int:
        value: float = self.tracer.decide(self)
        return math.trunc(value)

    def __ceil__(self) -> int:
        value: float = self.tracer.decide(self)
        return math.ceil(value)

    def __floor__(self) -> int:
        value: float = self.tracer.decide(self)
        return math.floor(value)

    def __len__(self) -> int:
        return self.tracer.length(self)


class Attribute(ValueProxy):
    """`x.shape`, or `x.view` before it is called: the node of an attribute is made where one is needed."""

    def __init__(self, root: ValueProxy, name: str) -> None:
        self.root, self.name, self.tracer = root, name, root.tracer
        self.made: fx.Proxy | None = None

    def proxy(self) -> fx.Proxy:
        """The proxy of the attribute's node."""
        if self.made is None:
            self.made = self.tracer.create_proxy("call_function", getattr, (self.root, self.name), {})
        return self.made

    @property
    def node(self) -> fx.Node:  # type: ignore[override]
        return self.proxy().node

    @property
    def known(self) -> tuple[Any, Any]:  # type: ignore[override]
        made = self.proxy()
        if not isinstance(made, ValueProxy):
            raise fx.proxy.TraceError(f"the value of {self.name!r} is not known")
        return made.known

    @property
    def of_batch(self) -> bool:  # type: ignore[override]
        made = self.proxy()
        return isinstance(made, ValueProxy) and made.of_batch

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.tracer.create_proxy("call_method", self.name, (self.root, *args), kwargs)
