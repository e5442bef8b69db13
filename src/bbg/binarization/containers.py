"""Containers of a network behind `binarize`: `binary.layer1[0]` and `len(binary.blocks)` go on as before.

A traced module keeps the modules that it calls under their names, in plain modules. Those that were a container take
positions and keys again: the old ones, so that they agree with the names of the report and of the state dict.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from bbg.errors import BbgError

CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


class Indexed(nn.Module):
    """Modules by position, or by key; `names` are those of the given container, in its order."""

    names: tuple[str, ...] | None = None  # None: it was no container

    def _names(self) -> tuple[str, ...]:
        if self.names is None:
            raise TypeError(f"{type(self).__name__!r} was made of a network that is no container of modules")
        return self.names

    def __len__(self) -> int:
        return len(self._names())

    def __bool__(self) -> bool:
        return True

    def __iter__(self) -> Iterator[Any]:
        """The modules that are still there, of a dict its keys."""
        return iter([self._modules[name] for name in self._names() if name in self._modules])

    def __getitem__(self, key: int | str | slice) -> Any:
        """The module at a position or of a key; a list for a slice. BbgError for one that `binarize` took away."""
        if isinstance(key, slice):
            return [self._modules[name] for name in self._names()[key] if name in self._modules]
        names = self._names()
        if not isinstance(key, str):
            name = names[key]  # raises IndexError
        elif key in names:
            name = key
        else:
            raise KeyError(key)
        if name not in self._modules:
            raise BbgError(f"module {name!r} is no more: it went inside another, or is not called; see the report")
        return self._modules[name]


def containers_of(model: nn.Module) -> dict[str, tuple[str, ...]]:
    """The names inside of each container of `model`, by its qualified name."""
    return {
        name: tuple(module._modules)
        for name, module in model.named_modules(remove_duplicate=False)
        if isinstance(module, CONTAINERS)
    }


def restore(result: Indexed, containers: dict[str, tuple[str, ...]]) -> None:
    """Give the plain modules of `result` that were containers their positions."""
    for name, inside in containers.items():
        try:
            module = result.get_submodule(name)
        except AttributeError:  # nothing of it is called
            continue
        if type(module) is nn.Module:
            module.__class__ = Indexed
        if isinstance(module, Indexed):
            module.names = inside
