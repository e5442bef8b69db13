"""The module that `binarize` gives."""

from __future__ import annotations

from typing import Any, Self

from torch import fx

from bbg.binarization.containers import Indexed, restore
from bbg.binarization.float_self import FloatSelf
from bbg.binarization.report import BinarizeReport
from bbg.heads import Detection


class Binarized(Indexed, fx.GraphModule):
    """A network that `binarize` has made, with the table of what it did."""

    @property
    def report(self) -> BinarizeReport:
        """What was replaced, kept and why."""
        report: BinarizeReport = self.meta["report"]
        return report

    @property
    def float_self(self) -> FloatSelf:
        """The network that was given to `binarize`, as it was then."""
        found: FloatSelf = self.meta["float_self"]
        return found

    @property
    def detection(self) -> Detection:
        """The head of the given network, where that is a detector; else there is no such attribute."""
        found = self.meta.get("detection")
        if not isinstance(found, Detection):
            raise AttributeError("detection")  # getattr goes on to torch's own words
        return found

    def train(self, mode: bool = True) -> Self:
        """As any module, but for the modules whose mode the given network holds fixed, as of frozen batch norms."""
        super().train(mode)
        for name, fixed in self.meta.get("fixed_modes", {}).items():
            self.get_submodule(name).training = fixed
        return self

    def __deepcopy__(self, memo: Any) -> Binarized:
        """The same module once more; its copy has its containers too."""
        result = super().__deepcopy__(memo)
        assert isinstance(result, Binarized)
        restore(result, self.meta["containers"])
        return result

    def __copy__(self) -> Binarized:
        """A module of the same layers, with its report."""
        return _again(self, type(self).__name__, self.training, dict(self.meta))

    def __reduce__(self) -> tuple[Any, ...]:
        """The same module, with its report, in another process."""
        make, (attributes, *more) = super().__reduce__()
        # A module is pickled as its code, which torch.fx traces again; our own tracer needs an example for that.
        module = (make, {**attributes, "_tracer_cls": fx.Tracer}, *more)
        return _unpickled, (type(self).__name__, self.training, dict(self.meta), *module)


def _unpickled(name: str, training: bool, meta: dict[str, Any], make: Any, *arguments: Any) -> Binarized:
    return _again(make(*arguments), name, training, meta)


def _again(module: fx.GraphModule, name: str, training: bool, meta: dict[str, Any]) -> Binarized:
    result = Binarized(module, module.graph, name)
    result.meta |= meta
    restore(result, meta["containers"])
    return result.train(training)
